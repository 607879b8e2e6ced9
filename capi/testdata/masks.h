/* What the threads of the library block. */
#ifndef MASKS_H
#define MASKS_H

#include "check.h"
#include <dirent.h>
#include <signal.h>
#include <unistd.h>

/* The threads of Go do not take the host's signals: they block all but those that instructions raise, and the two that glibc has
 * for itself. */
static inline void check_masks(void) {
	static const int open_to[] = {SIGKILL, SIGSTOP, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, 32, 33};
	unsigned long long want = ~0ULL;
	for (size_t i = 0; i < sizeof open_to / sizeof open_to[0]; i++)
		want &= ~(1ULL << (open_to[i] - 1));
	DIR *tasks = opendir("/proc/self/task");
	int threads = 0;
	for (struct dirent *d; (d = readdir(tasks)) != NULL;) {
		char path[300], line[256];
		unsigned long long blocked = 0;
		if (d->d_name[0] == '.' || atoi(d->d_name) == (int)getpid())
			continue;
		snprintf(path, sizeof path, "/proc/self/task/%s/status", d->d_name);
		FILE *f = fopen(path, "r");
		if (f == NULL)
			continue; /* it has ended */
		while (fgets(line, sizeof line, f) != NULL)
			sscanf(line, "SigBlk: %llx", &blocked);
		fclose(f);
		threads++;
		CHECK((blocked & want) == want, "thread %s does not block %llx", d->d_name, want & ~blocked);
	}
	closedir(tasks);
	CHECK(threads > 0, "Go has no threads?");
}

#endif
