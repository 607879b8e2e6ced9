/* A host on Windows: what the library leaves as it was, and that it stays loaded. The argument is the DLL's path. */
#include "check.h"
#include <windows.h>

static pnm_status (*update_one)(const pnm_options *, const pnm_update *, pnm_report *);
static const char *(*last_error)(void);

static void *find(HMODULE library, const char *name) {
	void *address = (void *)GetProcAddress(library, name);
	CHECK(address != NULL, "%s", name);
	return address;
}

/* Fails in a way of its own, and sees that the message stays while others fail. */
static DWORD WINAPI fail(void *arg) {
	int64_t step = -*(int *)arg;
	char want[64];
	snprintf(want, sizeof want, "is %d,", (int)step);
	pnm_rule rule;
	memset(&rule, 0, sizeof rule);
	rule.kind = PNM_RULE_SGD;
	float p = 1, g = 1;
	pnm_update u;
	memset(&u, 0, sizeof u);
	u.rule = &rule;
	u.params = vector(&p, 1, PNM_FLOAT32);
	u.grads = const_vector(&g, 1, PNM_FLOAT32);
	u.step = step;
	CHECK(strcmp(last_error(), "") == 0, "thread begins with: %s", last_error());
	for (int i = 0; i < 100; i++) {
		CHECK(update_one(NULL, &u, NULL) == PNM_ERROR_STEP, "%s", last_error());
		CHECK(strstr(last_error(), want) != NULL, "want %s: %s", want, last_error());
	}
	return 0;
}

int main(int argc, char **argv) {
	enum { THREADS = 8 };
	BOOL no_boost = TRUE;
	CHECK(SetProcessPriorityBoost(GetCurrentProcess(), FALSE), "error %lu", GetLastError());
	SetErrorMode(SEM_NOOPENFILEERRORBOX);
	HMODULE library = LoadLibraryA(argv[argc - 1]);
	if (library == NULL) {
		printf("%s: error %lu\n", argv[argc - 1], GetLastError());
		return 1;
	}
	*(void **)&update_one = find(library, "pnm_update_one");
	*(void **)&last_error = find(library, "pnm_last_error");
	HANDLE threads[THREADS];
	int numbers[THREADS];
	for (int i = 0; i < THREADS; i++) {
		numbers[i] = i + 1;
		threads[i] = CreateThread(NULL, 0, fail, &numbers[i], 0, NULL);
	}
	WaitForMultipleObjects(THREADS, threads, TRUE, INFINITE);
	CHECK(GetErrorMode() == SEM_NOOPENFILEERRORBOX, "the error mode is %#x", GetErrorMode());
	CHECK(GetProcessPriorityBoost(GetCurrentProcess(), &no_boost) && !no_boost, "threads are boosted no more"); /* Wine 8 always says that they are */
	FreeLibrary(library);
	CHECK(GetModuleHandleA("pnm.dll") == library, "the library is gone");
	fail(&numbers[0]);
	return failures != 0;
}
