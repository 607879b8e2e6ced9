package pnm

import (
	"fmt"
	"math"
	"unsafe"
)

// The two momenta of PNM and AdaPNM are averages of disjoint sets of gradients. So their product measures the gradient, and their
// difference the noise. Let b = β1², and let the momenta m and n have had k and l updates: m is slot 0, k = ⌈t/2⌉ and l = ⌊t/2⌋ after step t.
// The sums of the weights in the two averages are 1−b^k and 1−b^l. In the type in which the rule computes,
//
//	p = (m/(1−b^k)) + (n/(1−b^l))           the inverses of the weights are rounded once, and then each operation
//	d = (m/(1−b^k)) − (n/(1−b^l))
//
// and Plus and Minus are the sums of the squares of all p and of all d, as norm.go defines them.

// NoiseSums are what [SumNoise] and [Options].Noise read of the two momenta of a tensor: the sums of the squares of their sum, Plus, and
// of their difference, Minus, each momentum divided by the sum of its weights. They are 0 if there is nothing to read: after step 1, when
// one momentum is still 0, and for rules without two momenta.
//
// [NoiseSums.Add] puts the parts of a tensor together. The words may also be added up by anything that adds int64, such as an all-reduce
// (see [Squares]): the result depends neither on how a tensor is cut nor on the order of the parts. Do not add the sums of different
// tensors: add their estimates.
type NoiseSums struct{ Plus, Minus Squares }

// Add adds the sums of another part of the tensor to s.
func (s *NoiseSums) Add(others *NoiseSums) {
	s.Plus.Add(&others.Plus)
	s.Minus.Add(&others.Minus)
}

// Noise is an estimate of a tensor's gradient and of its noise, from a single pair of momenta. Add up the fields over tensors to get those
// of a group or a model, and average them over steps: one reading is noisy. docs/noise.md derives the estimates.
type Noise struct {
	// Signal estimates |G|², where G is the mean of the gradients that the momenta averaged. It has no bias, so that it is negative
	// now and then where |G|² is small.
	Signal float64

	// Variance estimates tr Σ, the sum over all elements of the variance of one minibatch's gradient.
	Variance float64
}

// Scale returns Variance/Signal, the simple noise scale of McCandlish and others (arXiv 1812.06162), in minibatches: multiply it by the
// size of a minibatch to get it in samples. It is negative if Signal is. Average Signal and Variance, and not Scale.
func (n Noise) Scale() float64 { return n.Variance / n.Signal }

// Noise returns the estimates after so many steps of the tensor: step is the number of the step after which s was read. Before step 2 both
// are NaN. It returns an error for a rule without two momenta, an illegal rule, or a negative step.
func (s *NoiseSums) Noise(rule Rule, step int) (Noise, error) {
	if err := checkNoise(rule, step); err != nil {
		return Noise{}, err
	}
	if !hasTwoMomenta(rule) {
		return Noise{}, fmt.Errorf("pnm: %s does not keep two momenta, whose difference is the noise", rule.Name())
	}
	if step < 2 {
		return Noise{math.NaN(), math.NaN()}, nil
	}
	scratch := takeList() // coefficients in a local variable would be allocated
	defer scratch.putBack()
	b := &scratch.batch
	defer b.held.Take().Release()
	b.tensors = append(b.tensors, tensor{})
	rule.scalars(step, &b.tensors[0].c64)
	beta := b.tensors[0].c64.beta1
	k, l := updatesOf(step)
	plus, minus := s.Plus.value(), s.Minus.value()
	return Noise{(plus - minus) / 4, minus / (noiseLeft(beta, k) + noiseLeft(beta, l))}, nil
}

func checkNoise(rule Rule, step int) error {
	if err := checkRule(rule); err != nil {
		return err
	}
	if step < 0 {
		return &ValueError{"Noise", "Step", float64(step), "≥ 0, the number of steps performed"}
	}
	return nil
}

// hasNoise reports whether there is something to read of t's momenta after the step.
func (t *tensor) hasNoise() bool { return forms[t.form].Has("n") && t.step >= 2 }

func hasTwoMomenta(r Rule) bool { return forms[r.form()].Has("n") }

// updatesOf returns how many updates the momenta in slots 0 and 1 have had after a step.
func updatesOf(step int) (k, l int) { return step - step/2, step / 2 }

// noiseLeft is the variance of an average with decay b of k gradients, divided by that of one gradient: the sum of the squares of the
// weights (1−b)·b^i/(1−b^k), i < k.
func noiseLeft(b float64, k int) float64 {
	mass := emaMass(b, k)
	return (1 - b) * (2 - mass) / float64((1+b)*mass)
}

// value returns the sum of the squares, rounded to float64.
func (s *Squares) value() float64 {
	switch sum := s.sum(); {
	case sum.nan:
		return math.NaN()
	case sum.inf:
		return math.Inf(1)
	case sum.top == 0:
		return 0
	default:
		return math.Ldexp(sum.total(), 52*(sum.top-1+lowestBin))
	}
}

// SumNoise reads the momenta of all updates, shared among the workers of the pool (nil means the default pool), and returns the sums of each.
// It uses Rule, State and Skip of an update, and Step, which is here the number of the tensor's last step: the count of steps performed. The
// sums of tensors with Skip, of rules without two momenta, and of tensors before step 2 are 0.
//
// An error of one tensor is a *[TensorError], as in [UpdateAll]. A step with Options.Noise reads the same sums while the
// momenta are in the cache.
func SumNoise(pool *Pool, updates []Update) ([]NoiseSums, error) {
	l := takeList()
	defer l.putBack()
	b := &l.batch
	defer b.held.Take().Release()
	for i := range updates {
		b.tensors = append(b.tensors, tensor{})
		if err := b.tensors[i].setMomenta(&updates[i]); err != nil {
			return nil, atTensor(i, err)
		}
	}
	b.plan(momenta)
	b.far = isFar(b.bytes())
	sums := make([]NoiseSums, len(updates))
	b.beginNoise()
	b.do(pool, measuring, b.bytes())
	b.endNoise(sums)
	return sums, nil
}

// setMomenta sets t to the momenta of an update. It leaves t empty if there is nothing to read.
func (t *tensor) setMomenta(u *Update) error {
	if u.Skip {
		return nil
	}
	if err := checkNoise(u.Rule, u.Step); err != nil {
		return err
	}
	if !hasTwoMomenta(u.Rule) {
		return nil
	}
	t.form = u.Rule.form()
	if err := t.checkSlots(u); err != nil {
		return err
	}
	t.p, t.s[0], t.s[1] = u.State[0], u.State[0], u.State[1] // the length and the type are those of the parameters
	for k := range 2 {
		if t.s[k].n != t.p.n {
			return t.wrongLength(2 + k)
		}
		if err := t.checkState(k); err != nil {
			return err
		}
	}
	if u.Step < 2 {
		*t = tensor{}
		return nil
	}
	t.step = u.Step
	u.Rule.scalars(u.Step, &t.c64)
	return nil
}

// A noiseSum are the sums of a tensor or of a part of it.
type noiseSum struct{ plus, minus sum }

// beginNoise clears the sums of all tensors.
func (b *batch) beginNoise() {
	b.noise = b.noise[:0]
	for range b.tensors {
		b.noise = append(b.noise, noiseSum{})
	}
}

// endNoise sets sums, which are 0, to those of all tensors.
func (b *batch) endNoise(sums []NoiseSums) {
	for i := range sums {
		sums[i].Plus.set(&b.noise[i].plus)
		sums[i].Minus.set(&b.noise[i].minus)
	}
}

// A step that reads updates a piece, and then reads it from the L1 cache. Pieces of float32 and float64 have pieceBytes of each momentum: so
// short, the arithmetic of the sums goes on while memory delivers later pieces. In narrower formats arithmetic takes longer than memory, and
// pieces of mostPiece elements need fewer calls. pieceAhead is how far ahead of its loads such a step prefetches at most, in bytes. All are
// measured: see docs/performance.md.
const (
	pieceBytes = 1 << 10
	mostPiece  = 1 << 10
	pieceAhead = 3 << 9
)

// A noiseReader reads the momenta of a part of a tensor.
type noiseReader struct {
	t *tensor
	noiseSum
	piece int                       // its elements
	fetch bool                      // prefetch the momenta of later pieces
	c64   scalars[float64]          // k1 and k2 are the inverse sums of the weights
	b     mixed                     // the same for float32, and the formats
	room  [2*mostPiece + 16]float32 // for p and d, from the border of a cache line on
}

// start prepares to read a tensor; far says that it is in memory, not in a cache.
func (r *noiseReader) start(t *tensor, far bool) {
	r.t = t
	k, l := updatesOf(t.step)
	r.c64.k1, r.c64.k2 = 1/emaMass(t.c64.beta1, k), 1/emaMass(t.c64.beta1, l)
	r.b.c.k1, r.b.c.k2 = float32(r.c64.k1), float32(r.c64.k2)
	r.piece = mostPiece
	if size := t.s[0].size(); size >= 4 {
		r.piece, r.fetch = pieceBytes/size, far
	}
	r.b.formats = [len(formats)]uint32{bf16: gradBF16 | paramBF16 | stateBF16, mxfp8: momentMX}[t.s[0].format]
}

// updateNoise performs the step on the elements lo … hi−1 of tensor i, and reads their momenta piece by piece, while they are in the cache.
func (b *batch) updateNoise(i, lo, hi int) (overflows int) {
	var r noiseReader
	r.start(&b.tensors[i], b.far)
	overflows = r.t.update(lo, hi, b.far, b.zero, &r)
	b.addNoise(i, &r.noiseSum)
	return overflows
}

// readNoise reads the momenta of the elements lo … hi−1 of tensor i.
func (b *batch) readNoise(i, lo, hi int) {
	var r noiseReader
	r.start(&b.tensors[i], b.far)
	for end := lo; lo < hi; lo = end {
		if end = hi; hi-lo > r.piece {
			if end = lo + r.piece; r.t.s[0].row > 0 {
				end = r.t.blockBorder(end)
			}
		}
		r.read(lo, end, end < hi)
	}
	b.addNoise(i, &r.noiseSum)
}

// addNoise adds the sums of a part of tensor i.
func (b *batch) addNoise(i int, s *noiseSum) {
	b.adding.Lock()
	defer b.adding.Unlock()
	b.noise[i].plus.merge(&s.plus)
	b.noise[i].minus.merge(&s.minus)
}

// read adds a piece to the sums. If there are more, it prefetches the piece behind the next one: the step prefetches much of the next.
func (r *noiseReader) read(lo, hi int, more bool) {
	p, d := r.terms(lo, hi)
	aheadP, aheadD := 0, 0
	if r.fetch && more {
		aheadP, aheadD = r.t.s[0].distance(hi+r.piece, p), r.t.s[1].distance(hi+r.piece, d)
	}
	r.plus.add(p, aheadP)
	r.minus.add(d, aheadD)
}

// distance is how far element i lies behind the first element of from, in bytes. Element i may be past the end, where no pointer may point.
func (v *Vector) distance(i int, from Vector) int {
	return int(uintptr(v.at) + uintptr(i*v.size()) - uintptr(from.at))
}

// terms computes p and d.
func (r *noiseReader) terms(lo, hi int) (p, d Vector) {
	m, n := &r.t.s[0], &r.t.s[1]
	for _, v := range [...]*Vector{m, n} {
		raceRead(v.cut(lo, hi).Bytes())
		raceRead(v.scalesOf(lo, hi))
	}
	of := layout{format: f32}
	if m.format == f64 {
		of.format = f64
	}
	room := unsafe.Pointer(&r.room[0])
	room = unsafe.Add(room, -uintptr(room)%64)
	p, d = Vector{at: room, n: hi - lo, layout: of}, Vector{at: unsafe.Add(room, r.piece*of.format.size()), n: hi - lo, layout: of}
	for at, end := lo, hi; at < hi; at = end {
		if end = hi; m.row > 0 { // a kernel takes whole blocks, which begin anew in each row
			end = min(at-at%int(m.row)+int(m.row), hi)
		}
		whole := at
		if active != generic {
			whole += (end - at) &^ (lanes - 1)
		}
		if at < whole {
			r.termsAssembly(at, whole, p.pointer(at-lo), d.pointer(at-lo))
		}
		if whole < end {
			r.termsReference(whole, end, p.cut(whole-lo, end-lo), d.cut(whole-lo, end-lo))
		}
	}
	return p, d
}

// termsReference computes p and d of the elements lo … hi−1.
func (r *noiseReader) termsReference(lo, hi int, p, d Vector) {
	m, n := &r.t.s[0], &r.t.s[1]
	if m.format == f64 {
		noiseTerms(sliceOf[float64](p), sliceOf[float64](d), sliceOf[float64](m.cut(lo, hi)), sliceOf[float64](n.cut(lo, hi)), r.c64.k1, r.c64.k2)
		return
	}
	x, y := sliceOf[float32](p), sliceOf[float32](d)
	m.widen(x, lo)
	n.widen(y, lo)
	noiseTerms(x, y, x, y, r.b.c.k1, r.b.c.k2)
}

// noiseTerms is the reference; m and n may be p and d.
func noiseTerms[T Float](p, d, m, n []T, k1, k2 T) {
	d, m, n = d[:len(p)], m[:len(p)], n[:len(p)]
	for i := range p {
		x, y := T(k1*m[i]), T(k2*n[i])
		p[i], d[i] = x+y, x-y
	}
}
