package pnm

import (
	"sort"
	"sync"
	"sync/atomic"

	"github.com/posneg/pnm/internal/floatmode"
)

// A batch is a list of tensors that a pool works on at once. The work is counted in bytes and cut, at borders of blocks, into equal
// parts. So the same workers update a tensor at every step.
type batch struct {
	tensors []tensor
	before  []int64 // bytes of work before each tensor; at the end, the bytes of all work
	grads   int64   // bytes of gradients in the work

	phase phase
	far   bool // the memory of all tensors does not fit the caches
	zero  bool // zero the gradients
	first int  // the first tensor of the phase allotting

	top    atomic.Int32 // the highest window that a part's sum of squares has needed so far
	adding sync.Mutex   // guards total and noise
	total  sum          // of the squares of all gradients
	noise  []noiseSum   // of each tensor, if its momenta are read
	reads  bool         // they are

	overflows atomic.Int64   // of all parameters in their copies
	held      floatmode.Hold // of the goroutine that performs the step
}

// A phase is what a batch does with the elements of its tensors.
type phase uint8

const (
	updating  phase = iota
	summing         // squares of gradients
	measuring       // the noise of gradients, by the momenta
	zeroing         // gradients
	allotting       // each worker touches the state that it will update
)

// work tells which tensors take part, and how the bytes of an element are counted.
type work uint8

const (
	withGrads  work = iota // tensors with a gradient, by all their vectors
	gradOnly               // tensors with a gradient, by their gradients
	allTensors             // all tensors, by all their vectors
	momenta                // all tensors, by their first two state buffers
)

// leastShard is the number of bytes of memory that are worth another worker, or another piece of a shard. docs/performance.md has the
// measurements. Tests lower it.
var leastShard = 1 << 20

const (
	mostPieces = 16 // of a shard
	// zeroLen is the number of elements that are updated before their gradients are zeroed, which are then still in the cache.
	zeroLen = blockLen
)

// plan counts the work.
func (b *batch) plan(w work) {
	b.before, b.grads = b.before[:0], 0
	bytes := int64(0)
	for i := range b.tensors {
		b.before = append(b.before, bytes)
		t := &b.tensors[i]
		if w >= allTensors || t.g.at != nil {
			bytes += t.work(w)
			b.grads += t.work(gradOnly)
		}
	}
	b.before = append(b.before, bytes)
}

// work is the number of bytes that a tensor counts.
func (t *tensor) work(w work) int64 {
	switch w {
	case gradOnly:
		return int64(t.g.n) * int64(t.g.size())
	case momenta:
		return int64(t.s[0].bytes() + t.s[1].bytes())
	}
	return t.traffic()
}

// bytes is the number of bytes of all work.
func (b *batch) bytes() int64 { return b.before[len(b.tensors)] }

// do runs a phase on the pool; bytes is the amount of memory that it touches.
func (b *batch) do(p *Pool, ph phase, bytes int64) {
	b.phase = ph
	shards, pieces := split(bytes, p.Workers())
	b.held.Release()
	p.pool().run(b, shards, pieces)
	b.held.Take()
}

// split returns the number of shards to cut work into, and the number of pieces of each shard.
func split(bytes int64, workers int) (shards, pieces int) {
	n := bytes / int64(leastShard)
	if n <= 1 {
		return 1, 1
	}
	shards = int(min(n, int64(workers)))
	return shards, int(min(n/int64(shards), mostPieces))
}

// run implements task.
func (b *batch) run(part, parts int) {
	var s sum
	b.runPart(part, parts, &s)
	if b.phase == summing {
		b.addSum(&s)
	}
}

// runPart runs a part of the phase, and adds squares to s.
func (b *batch) runPart(part, parts int, s *sum) {
	var h floatmode.Hold
	defer h.Take().Release()
	i, lo := b.border(part, parts)
	last, end := b.border(part+1, parts)
	for ; i < last || i == last && lo < end; i++ {
		t := &b.tensors[i]
		hi := t.len()
		if i == last {
			hi = end
		}
		if b.before[i] < b.before[i+1] && lo < hi {
			b.each(i, t, lo, hi, s)
		}
		lo = 0
	}
}

// border returns the tensor and the element at which a part begins: near the beginning of its share of the work, on the border of a
// block (with rows of mxfp8, of a block of these).
func (b *batch) border(part, parts int) (i, element int) {
	if part == parts {
		return len(b.tensors), 0
	}
	at := b.bytes() / int64(parts) * int64(part)
	i = sort.Search(len(b.tensors), func(i int) bool { return b.before[i+1] > at })
	if i == len(b.tensors) || at == b.before[i] {
		return i, 0
	}
	t := &b.tensors[i]
	perBlock := (b.before[i+1] - b.before[i]) * blockLen / int64(t.len())
	k := int((at - b.before[i] + perBlock/2) / perBlock)
	if k*blockLen >= t.len() {
		return i + 1, 0
	}
	element = k * blockLen
	if t.s[0].row > 0 && b.phase != summing {
		element = t.blockBorder(element)
	}
	return i, element
}

// each runs the phase on the elements lo … hi−1 of tensor i.
func (b *batch) each(i int, t *tensor, lo, hi int, s *sum) {
	switch b.phase {
	case updating:
		n := 0
		if b.reads && t.hasNoise() {
			n = b.updateNoise(i, lo, hi)
		} else {
			n = t.update(lo, hi, b.far, b.zero, nil)
		}
		if n > 0 {
			b.overflows.Add(int64(n))
		}
	case measuring:
		b.readNoise(i, lo, hi)
	case summing:
		b.sumBlocks(s, t.g.cut(lo, hi))
	case zeroing:
		t.zeroGrads(lo, hi)
	case allotting:
		if i < b.first {
			return
		}
		for k := range forms[t.form].Slots {
			touchPages(t.s[k].cut(lo, hi).Bytes())
			touchPages(t.s[k].scalesOf(lo, hi))
		}
	}
}

// step performs the step that is due on all tensors that have a gradient. They have been checked, and their coefficients do not include
// the options yet. working is the amount of memory that the caller touches between one step and the next.
func (b *batch) step(o *Options, working int64) (r Report) {
	b.plan(withGrads)
	clear(o.Noise)
	scale := o.scale()
	if o.measures() {
		n := b.norm(o)
		n.scale *= scale
		r.GradNorm = n.value()
		if o.SkipNonFinite && !n.finite {
			r.Skipped = true
			if o.ZeroGrads {
				b.do(o.Pool, zeroing, b.grads)
			}
			return r
		}
		if o.ClipNorm != 0 {
			scale *= n.factor(o.ClipNorm)
		}
	}
	if scale != 1 || o.ClipValue != 0 {
		for i := range b.tensors {
			b.tensors[i].apply(o, scale)
		}
	}
	b.far, b.zero, b.reads = isFar(working), o.ZeroGrads, o.Noise != nil
	b.overflows.Store(0)
	if b.reads {
		b.beginNoise()
	}
	b.do(o.Pool, updating, b.bytes())
	if b.reads {
		b.endNoise(o.Noise)
	}
	r.Overflows = int(b.overflows.Load())
	return r
}

// norm returns the norm of all gradients of the step.
func (b *batch) norm(o *Options) norm {
	if o.Squares != nil {
		s := o.Squares.sum()
		return s.norm()
	}
	return b.sumSquares(o.Pool).norm()
}

// touchPages touches each page of b without changing it.
func touchPages(b []byte) {
	for j := 0; j < len(b); j += pageSize {
		touch(&b[j], 0)
	}
}

// touch adds 0, and the compiler does not know that it is 0.
//
//go:noinline
func touch(b *byte, zero byte) { *b += zero }
