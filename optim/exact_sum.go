package optim

import "math"

// An exactSum adds up numbers without rounding, so that their order does not matter: the algorithm of Shewchuk (1997), as in Python's
// math.fsum. Its parts are numbers that do not overlap, the smallest first, and have the same sum. Memory is kept from sum to sum.
type exactSum []float64

// of returns the sum of n numbers, rounded once to nearest even. Only if the sum is out of range, or not a number, is it not finite.
func (s *exactSum) of(n int, number func(int) float64) float64 {
	if sum, ok := s.scaled(n, number, 1); ok {
		return sum
	}
	const far = 0x1p64
	sum, _ := s.scaled(n, number, 1/far)
	return sum * far
}

// scaled returns the sum of the numbers times a power of 2; ok means that nothing has overflowed.
func (s *exactSum) scaled(n int, number func(int) float64, scale float64) (sum float64, ok bool) {
	*s = (*s)[:0]
	var special float64 // the sum of infinities and NaNs, which is none of the finite numbers
	for i := range n {
		x := number(i) * scale
		if math.IsInf(x, 0) || math.IsNaN(x) {
			special += x
			continue
		}
		if s.add(x); math.IsInf((*s)[len(*s)-1], 0) {
			return 0, false
		}
	}
	if special != 0 {
		return special, true
	}
	return s.rounded(), true
}

func (s *exactSum) add(x float64) {
	kept := (*s)[:0]
	for _, y := range *s {
		if math.Abs(x) < math.Abs(y) {
			x, y = y, x
		}
		sum := x + y
		if lost := y - (sum - x); lost != 0 {
			kept = append(kept, lost)
		}
		x = sum
	}
	*s = append(kept, x)
}

// rounded returns the sum of the parts. The first addition that is not exact rounds. If that is a tie, the parts below decide.
func (s *exactSum) rounded() float64 {
	var sum, lost float64
	parts := *s
	for len(parts) > 0 && lost == 0 {
		x, y := sum, parts[len(parts)-1]
		parts = parts[:len(parts)-1]
		sum = x + y
		lost = y - (sum - x)
	}
	if len(parts) > 0 && lost != 0 && (parts[len(parts)-1] > 0) == (lost > 0) {
		if up := sum + 2*lost; up-sum == 2*lost {
			return up
		}
	}
	return sum
}
