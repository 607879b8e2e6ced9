//go:build (linux || darwin || windows) && cgo

// The functions of pnm.h. A function that needs Go first checks that this process may enter Go.
#include "internal.h"
#include "host.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

// The Go half. A forked child must not call it.
extern pnm_status pnmgo_update_all(const pnm_options *options, const pnm_update *updates, int64_t count, pnm_report *report);
extern pnm_status pnmgo_limit(const pnm_options *options, const pnm_update *updates, int64_t count);
extern pnm_status pnmgo_sum_squares(const pnm_const_vector *grads, int64_t count, int32_t workers, int64_t *squares);
extern pnm_status pnmgo_norm(const int64_t *squares, double *norm);
extern pnm_status pnmgo_sum_noise(const pnm_update *updates, int64_t count, int32_t workers, int64_t *sums);
extern pnm_status pnmgo_noise(const pnm_rule *rule, int64_t step, const int64_t *sums, double *signal, double *variance);
extern pnm_status pnmgo_fingerprint(const pnm_portion *portions, int64_t count, int32_t workers, uint64_t *fingerprint);
extern pnm_status pnmgo_fingerprint_bytes(
	const char *name, int32_t dtype, int64_t first, const void *bytes, int64_t size, uint64_t *fingerprint);
extern pnm_status pnmgo_alloc(pnm_vector *vectors, int64_t count);
extern pnm_status pnmgo_free(pnm_vector *vectors, int64_t count);
extern pnm_status pnmgo_convert(const pnm_vector *to, const pnm_const_vector *from, int64_t *overflows);
extern int32_t pnmgo_state_count(const pnm_rule *rule);
extern const char *pnmgo_state_name(const pnm_rule *rule, int32_t i);
extern pnm_status pnmgo_set_workers(int32_t workers);
extern int32_t pnmgo_workers(void);
extern const char *pnmgo_isa(void);

// Go sees both kinds of vectors as one.
_Static_assert(sizeof(pnm_const_vector) == sizeof(pnm_vector) && offsetof(pnm_const_vector, length) == offsetof(pnm_vector, length) &&
	offsetof(pnm_const_vector, dtype) == offsetof(pnm_vector, dtype) && offsetof(pnm_const_vector, reserved) == offsetof(pnm_vector, reserved),
	"the two kinds of vectors differ");

// The message stays where it is, so that nobody holds a pointer to freed memory.
enum { MESSAGE_SIZE = 1024 };

void pnm_set_message(const char *text, size_t length) {
	char *message = pnm_host_kept();
	if (message == NULL) {
		message = malloc(MESSAGE_SIZE);
		if (message == NULL || !pnm_host_keep(message)) {
			free(message);
			message = NULL;
		}
	}
	if (message == NULL)
		return;
	if (length >= MESSAGE_SIZE) {
		length = MESSAGE_SIZE - 1;
		while (length > 0 && (text[length] & 0xc0) == 0x80) // within a character of UTF-8
			length--;
	}
	memcpy(message, text, length);
	message[length] = '\0';
}

const char *pnm_last_error(void) {
	const char *message = pnm_host_kept();
	return message == NULL ? "" : message;
}

// enter prepares the calling thread for Go. If it returns 1, pnm_host_leave must follow; in a forked child it returns 0.
static int enter(pnm_guest *g) {
	if (pnm_host_forked()) {
		static const char text[] = "pnm: this process was forked from the one that loaded the library, and only that one can use it";
		pnm_set_message(text, sizeof text - 1);
		return 0;
	}
	pnm_host_enter(g);
	return 1;
}

// IN_GO returns the result of a call into Go from the function; in a forked child it returns otherwise.
#define IN_GO(type, call, otherwise) \
	do { \
		pnm_guest g; \
		if (!enter(&g)) \
			return otherwise; \
		type result = call; \
		pnm_host_leave(&g); \
		return result; \
	} while (0)

pnm_status pnm_update_all(const pnm_options *options, const pnm_update *updates, int64_t count, pnm_report *report) {
	IN_GO(pnm_status, pnmgo_update_all(options, updates, count, report), PNM_ERROR_FORKED);
}

pnm_status pnm_update_one(const pnm_options *options, const pnm_update *update, pnm_report *report) {
	return pnm_update_all(options, update, 1, report);
}

pnm_status pnm_limit(const pnm_options *options, const pnm_update *updates, int64_t count) {
	IN_GO(pnm_status, pnmgo_limit(options, updates, count), PNM_ERROR_FORKED);
}

pnm_status pnm_sum_squares(const pnm_const_vector *grads, int64_t count, int32_t workers, int64_t *squares) {
	IN_GO(pnm_status, pnmgo_sum_squares(grads, count, workers, squares), PNM_ERROR_FORKED);
}

pnm_status pnm_norm(const int64_t *squares, double *norm) { IN_GO(pnm_status, pnmgo_norm(squares, norm), PNM_ERROR_FORKED); }

pnm_status pnm_sum_noise(const pnm_update *updates, int64_t count, int32_t workers, int64_t *sums) {
	IN_GO(pnm_status, pnmgo_sum_noise(updates, count, workers, sums), PNM_ERROR_FORKED);
}

pnm_status pnm_noise(const pnm_rule *rule, int64_t step, const int64_t *sums, double *signal, double *variance) {
	IN_GO(pnm_status, pnmgo_noise(rule, step, sums, signal, variance), PNM_ERROR_FORKED);
}

pnm_status pnm_fingerprint(const pnm_portion *portions, int64_t count, int32_t workers, uint64_t *fingerprint) {
	IN_GO(pnm_status, pnmgo_fingerprint(portions, count, workers, fingerprint), PNM_ERROR_FORKED);
}

pnm_status pnm_fingerprint_bytes(
	const char *name, int32_t dtype, int64_t first, const void *bytes, int64_t size, uint64_t *fingerprint) {
	IN_GO(pnm_status, pnmgo_fingerprint_bytes(name, dtype, first, bytes, size, fingerprint), PNM_ERROR_FORKED);
}

pnm_status pnm_alloc(pnm_vector *vectors, int64_t count) { IN_GO(pnm_status, pnmgo_alloc(vectors, count), PNM_ERROR_FORKED); }

pnm_status pnm_free(pnm_vector *vectors, int64_t count) { IN_GO(pnm_status, pnmgo_free(vectors, count), PNM_ERROR_FORKED); }

pnm_status pnm_convert(const pnm_vector *to, const pnm_const_vector *from, int64_t *overflows) {
	IN_GO(pnm_status, pnmgo_convert(to, from, overflows), PNM_ERROR_FORKED);
}

int pnm_state_count(const pnm_rule *rule) { IN_GO(int, pnmgo_state_count(rule), -1); }

const char *pnm_state_name(const pnm_rule *rule, int i) { IN_GO(const char *, pnmgo_state_name(rule, i), NULL); }

pnm_status pnm_set_workers(int workers) { IN_GO(pnm_status, pnmgo_set_workers(workers), PNM_ERROR_FORKED); }

int pnm_workers(void) { IN_GO(int, pnmgo_workers(), 0); }

const char *pnm_isa(void) {
	static _Atomic(const char *) known; // does not change; a forked child can read it, too
	const char *isa = atomic_load(&known);
	pnm_guest g;
	if (isa != NULL)
		return isa;
	if (!enter(&g))
		return "";
	isa = pnmgo_isa();
	pnm_host_leave(&g);
	atomic_store(&known, isa);
	return isa;
}

int pnm_abi_version(void) { return PNM_ABI_VERSION; }

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

const char *pnm_version(void) { return TEXT(PNM_VERSION_MAJOR) "." TEXT(PNM_VERSION_MINOR) "." TEXT(PNM_VERSION_PATCH); }

const char *pnm_status_string(pnm_status status) {
	switch (status) {
	case PNM_OK:
		return "no error";
	case PNM_ERROR_HYPERPARAMETER:
		return "a field is out of its range";
	case PNM_ERROR_STEP:
		return "a step is below 1";
	case PNM_ERROR_LENGTH:
		return "a length or a count is wrong";
	case PNM_ERROR_OVERLAP:
		return "memory overlaps";
	case PNM_ERROR_DTYPE:
		return "an element type is wrong";
	case PNM_ERROR_NULL:
		return "a pointer is null";
	case PNM_ERROR_ISA:
		return "PNM_ISA names an instruction set that is not available";
	case PNM_ERROR_FORKED:
		return "the library does not work in a forked process";
	case PNM_ERROR_INTERNAL:
		return "internal error of the library";
	case PNM_ERROR_ALIGNMENT:
		return "an address is misaligned";
	case PNM_ERROR_MEMORY:
		return "the system refuses the memory";
	case PNM_ERROR_NOT_ALLOCATED:
		return "the memory is not from pnm_alloc, or was freed";
	case PNM_ERROR_UNSUPPORTED:
		return "there is no limit kernel";
	}
	return "unknown status";
}

pnm_rule pnm_rule_pnm(double lr) {
	return (pnm_rule){.kind = PNM_RULE_PNM, .decoupled = 1, .lr = lr, .beta1 = 0.9, .beta0 = 1};
}

pnm_rule pnm_rule_adapnm(void) {
	return (pnm_rule){.kind = PNM_RULE_ADAPNM, .decoupled = 1, .amsgrad = 1, .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .beta0 = 1, .eps = 1e-8};
}

pnm_rule pnm_rule_sgd(double lr) { return (pnm_rule){.kind = PNM_RULE_SGD, .lr = lr}; }

pnm_rule pnm_rule_adam(void) {
	return (pnm_rule){.kind = PNM_RULE_ADAM, .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
}

pnm_rule pnm_rule_adamw(void) {
	pnm_rule rule = pnm_rule_adam();
	rule.decoupled = 1;
	rule.weight_decay = 0.01;
	return rule;
}

pnm_rule pnm_rule_lion(void) {
	return (pnm_rule){.kind = PNM_RULE_LION, .decoupled = 1, .lr = 1e-4, .beta1 = 0.9, .beta2 = 0.99};
}
