/* PNM_ISA pins an implementation, or refuses all work. */
#include "check.h"

int main(void) {
	float p = 1, g = 1;
	pnm_rule rule = pnm_rule_sgd(0.5);
	pnm_update u;
	memset(&u, 0, sizeof u);
	u.rule = &rule;
	u.step = 1;
	u.params = vector(&p, 1, PNM_FLOAT32);
	u.grads = const_vector(&g, 1, PNM_FLOAT32);
	CHECK(strcmp(pnm_isa(), "") != 0, "no name");
	pnm_status status = pnm_update_one(NULL, &u, NULL);
	printf("%s %d %g %s\n", pnm_isa(), (int)status, (double)p, pnm_last_error());
	return failures != 0;
}
