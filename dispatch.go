package pnm

// A form is one set of update equations, over one set of state buffers.
type form uint8

const (
	formPNM form = iota
	formAdaPNM
	formAdaPNMAMSGrad
)

// forms describes each form: its rule, the names that the authors' implementation gives to its state buffers, and
// whether the first two of them are momenta that take turns.
var forms = [...]struct {
	rule       string
	slots      []string
	alternates bool
}{
	formPNM:           {"PNM", []string{"pos_momentum", "neg_momentum"}, true},
	formAdaPNM:        {"AdaPNM", []string{"exp_avg", "neg_exp_avg", "exp_avg_sq"}, true},
	formAdaPNMAMSGrad: {"AdaPNM", []string{"exp_avg", "neg_exp_avg", "exp_avg_sq", "max_exp_avg_sq"}, true},
}

// update performs step t on buffers that have been checked.
func update[T Float](f form, t int, c *scalars[T], b *buffers[T]) {
	m, n := b.s[0], b.s[1]
	if forms[f].alternates && t%2 == 0 {
		m, n = n, m
	}
	switch f {
	case formPNM:
		pnmGeneric(c, b.p, b.g, m, n)
	case formAdaPNM:
		adapnmGeneric(c, b.p, b.g, m, n, b.s[2])
	case formAdaPNMAMSGrad:
		adapnmAMSGradGeneric(c, b.p, b.g, m, n, b.s[2], b.s[3])
	}
}

// updateOne checks the slices of a tensor that a caller brings, and performs step t of a rule on it.
func updateOne[T Float](f form, t int, exact scalars[float64], b *buffers[T]) error {
	c, err := round[T](forms[f].rule, exact)
	if err != nil {
		return err
	}
	if err := checkBuffers(f, b); err != nil {
		return err
	}
	update(f, t, &c, b)
	return nil
}
