/* Prints what the constructors return, in the order of pnm_rule_kind, and AdamW: each byte of it, in hexadecimal. */
#include "check.h"

static void print(pnm_rule rule) {
	unsigned char bytes[sizeof rule];
	memcpy(bytes, &rule, sizeof rule);
	for (size_t i = 0; i < sizeof bytes; i++)
		printf("%02x", bytes[i]);
	printf("\n");
}

int main(void) {
	print(pnm_rule_pnm(0));
	print(pnm_rule_adapnm());
	print(pnm_rule_sgd(0));
	print(pnm_rule_adam());
	print(pnm_rule_lion());
	print(pnm_rule_adamw());
	return failures != 0;
}
