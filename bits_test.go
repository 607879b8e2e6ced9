package pnm

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"testing"
)

// recording is testdata/bits.json: hashes of trajectories that NumPy computed, see testdata/bits.py.
type recording struct {
	N     int
	Cases []recordedCase
}

type recordedCase struct {
	rule    Rule // under its name
	Dtype   string
	Formats struct{ Params, Grads, State, Copy string } // of Dtype mixed
	Seed    uint64
	SHA256  map[int]string // by step
}

func (c *recordedCase) UnmarshalJSON(text []byte) error {
	type plain recordedCase
	var members map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(text, (*plain)(c)), json.Unmarshal(text, &members)); err != nil {
		return err
	}
	for _, r := range Rules() {
		if fields, ok := members[r.Name()]; ok {
			at := reflect.New(reflect.TypeOf(r))
			if err := json.Unmarshal(fields, at.Interface()); err != nil {
				return err
			}
			c.rule = at.Elem().Interface().(Rule)
			return nil
		}
	}
	return fmt.Errorf("a case has no rule that this package has: %s", text)
}

// Every architecture, compiler and way in gives the bits that NumPy gives.
func TestRecordedBits(t *testing.T) {
	data, err := os.ReadFile("testdata/bits.json")
	wantNoError(t, err)
	var rec recording
	wantNoError(t, json.Unmarshal(data, &rec))
	perTier(t, func(t *testing.T) {
		for i, c := range rec.Cases {
			t.Run(fmt.Sprintf("%d/%T/%s", i, c.rule, c.Dtype), func(t *testing.T) {
				switch c.Dtype {
				case "float32":
					replayBits[float32](t, c, rec.N)
				case "float64":
					replayBits[float64](t, c, rec.N)
				case "mixed":
					replayMixed(t, c, rec.N)
				default:
					t.Fatalf("unknown dtype %q", c.Dtype)
				}
			})
		}
	})
	if len(rec.Cases) == 0 {
		t.Fatal("nothing is recorded")
	}
}

func replayBits[T Float](t *testing.T, c recordedCase, n int) {
	r := c.rule
	p, q := lcg[T](c.Seed, n), lcg[T](c.Seed, n)
	state := newState[T](r, n)
	list := List{Updates: []Update{{Rule: r, Params: vectorOf(q), State: Vectors(newState[T](r, n)...)}}}

	seen := 0
	for step := 1; seen < len(c.SHA256); step++ {
		g := lcg[T](c.Seed+uint64(step), n)
		wantNoError(t, updateSlices(r, step, p, g, state))
		list.Updates[0].Step, list.Updates[0].Grads = step, vectorOf(g)
		_, err := list.Step(Options{})
		wantNoError(t, err)
		want, ok := c.SHA256[step]
		if !ok {
			continue
		}
		seen++
		bytes := littleEndian(nil, p)
		for _, s := range state {
			bytes = littleEndian(bytes, s)
		}
		if sum := sha256.Sum256(bytes); hex.EncodeToString(sum[:]) != want {
			t.Fatalf("the bits at step %d are not NumPy's; p[0] = %x", step, p[0])
		}
		wantSame(t, "params by the list", q, p)
	}
}

func replayMixed(t *testing.T, c recordedCase, n int) {
	if c.Formats.Copy == "f16" && !copiesF16 {
		t.Skip("PNM_TEST_NO_F16_COPIES is set")
	}
	r := c.rule
	formats := map[string]format{"float32": f32, "bf16": bf16, "f16": f16, "mxfp8": mxfp8}
	p := ordinary(formats[c.Formats.Params], c.Seed, n)
	u := Update{Rule: r, Params: p, Rounding: Rounding{Seed: c.Seed}}
	if c.Formats.Copy != "" {
		u.Copy = newVector(formats[c.Formats.Copy], n)
	}
	state, err := AllocState(r, c.Formats.State, []int{n}, nil)
	wantNoError(t, err)
	u.State = state.Vectors()
	seen := 0
	for step := 1; seen < len(c.SHA256); step++ {
		u.Step, u.Grads = step, ordinary(formats[c.Formats.Grads], c.Seed+uint64(step), n)
		_, err := UpdateAll(Options{}, []Update{u})
		wantNoError(t, err)
		want, ok := c.SHA256[step]
		if !ok {
			continue
		}
		seen++
		var bytes []byte
		for _, v := range append(append([]Vector{p}, u.State...), u.Copy) {
			switch v.format {
			case f32:
				bytes = littleEndian(bytes, v.Float32())
			case mxfp8:
				bytes = append(append(bytes, v.Bytes()...), v.Scales()...)
			default:
				for _, x := range v.Bits() {
					bytes = append(bytes, byte(x), byte(x>>8))
				}
			}
		}
		if sum := sha256.Sum256(bytes); hex.EncodeToString(sum[:]) != want {
			t.Fatalf("the bits at step %d are not NumPy's; params[0] = %x", step, p.wide()[0])
		}
	}
}

// The control for TestRecordedBits: where the compiler fuses multiplications with additions, it does fuse the plain
// expression, so that only the conversions in the reference keep its bits.
func TestConversionStopsFusion(t *testing.T) {
	x := 1 + 0x1p-12
	if got := protected32(float32(x), float32(x), -float32(x*x)); got != 0 {
		t.Errorf("float32(x*y)+z was fused: %g", got)
	}
	if got := protected64(1+0x1p-27, 1+0x1p-27, -(1 + 0x1p-26)); got != 0 {
		t.Errorf("float64(x*y)+z was fused: %g", got)
	}
	fused := plain32(float32(x), float32(x), -float32(x*x)) != 0 && plain64(1+0x1p-27, 1+0x1p-27, -(1+0x1p-26)) != 0
	if fused != compilerFuses {
		t.Errorf("x*y+z fused: %v, expected on this architecture: %v", fused, compilerFuses)
	}
}

//go:noinline
func plain32(x, y, z float32) float32 { return x*y + z }

//go:noinline
func plain64(x, y, z float64) float64 { return x*y + z }

//go:noinline
func protected32(x, y, z float32) float32 { return float32(x*y) + z }

//go:noinline
func protected64(x, y, z float64) float64 { return float64(x*y) + z }
