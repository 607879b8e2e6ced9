package strictjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
)

// read reads an object with members of every kind, and returns what it has read.
func read(text string) (string, error) {
	d, err := New(text)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	var later *Decoder
	err = d.Object(func(name string) (err error) {
		var x any
		switch name {
		case "string":
			x, err = d.String()
		case "bool":
			x, err = d.Bool()
		case "float":
			x, err = d.Float()
		case "uint":
			x, err = d.Uint(1<<63 + 1)
		case "array":
			var list []string
			err = d.Array(func() error {
				s, err := d.String()
				list = append(list, s)
				return err
			})
			x = list
		case "later":
			later, err = d.Later()
			return err
		default:
			return d.Errorf("unknown")
		}
		fmt.Fprintf(&b, "%v;", x)
		return err
	})
	if err == nil {
		err = d.End()
	}
	if err == nil && later != nil {
		var x float64
		x, err = later.Float()
		fmt.Fprintf(&b, "%v;", x)
	}
	return b.String(), err
}

func TestDecoder(t *testing.T) {
	const syntax = "at byte " // whatever follows
	for _, c := range []struct{ text, want string }{
		{`{}`, ``},
		{` {"string" : "a\u00e4\ud83d\ude00\\ud83d", "bool":true,"float":1 , "uint":9223372036854775809,"array":["x",""],"later":2.5} ` + "\n", `aä😀\ud83d;true;1;9223372036854775809;[x ];2.5;`},
		{`{"float":-1.5e-300}`, `-1.5e-300;`},
		{`{"float":1e400}`, `at byte 14: "1e400" is too large for float64`},
		{`{"float":NaN}`, syntax},
		{`{"uint":9223372036854775810}`, `at byte 27: "9223372036854775810" instead of an integer from 0 to 9223372036854775809`},
		{`{"uint":-0}`, `at byte 10: "-0" instead of an integer from 0 to 9223372036854775809`},
		{`{"uint":1.0}`, `at byte 11: "1.0" instead of an integer from 0 to 9223372036854775809`},
		{`{"uint":"1"}`, `at byte 11: a string instead of an integer`},
		{`{"bool":null}`, `at byte 12: null instead of true or false`},
		{`{"string":[]}`, `at byte 11: an array instead of a string`},
		{`{"array":{}}`, `at byte 10: an object instead of an array`},
		{`{"array":["x",{}]}`, `at byte 15: an object instead of a string`},
		{`[]`, `at byte 1: an array instead of an object`},
		{`{"bool":true,"\u0062ool":true}`, `at byte 24: "bool" occurs twice`},
		{`{"later":1,"later":1}`, `at byte 18: "later" occurs twice`},
		{`{"later":[[[}`, syntax},
		{`{"later":"x"}`, `at byte 12: a string instead of a number`},
		{`{"string":"\ud800"}`, `at byte 11: half a surrogate pair`},
		{`{"string":"\udc00\ud800"}`, `at byte 11: half a surrogate pair`},
		{`{"string":"\ud800\ud800\udc00"}`, `at byte 11: half a surrogate pair`},
		{"{\"string\":\"\xff\"}", `invalid UTF-8`},
		{"{\"string\":\"\xed\xa0\x80\"}", `invalid UTF-8`},
		{`{"string":"\u12"}`, syntax},
		{`{} x`, `at byte 3: something follows the end`},
		{`{}{}`, `at byte 2: something follows the end`},
		{`{"bool":true,}`, syntax},
		{`{"bool" true}`, syntax},
		{`{"bool":true`, syntax},
		{`{`, syntax},
		{``, syntax},
		{`{"` + strings.Repeat("x", 200) + `":1}`, `at byte 204: unknown`},
	} {
		got, err := read(c.text)
		if err != nil {
			got = err.Error()
		}
		if got != c.want && (err == nil || c.want != syntax || !strings.HasPrefix(got, syntax)) {
			t.Errorf("%s gives %s, want %s", c.text, got, c.want)
		}
	}
}

// Depth costs nothing where it was not asked for, and little where it is skipped.
func TestDepth(t *testing.T) {
	deep := strings.Repeat("[", 1e6)
	for _, text := range []string{deep, `{"float":` + deep, `{"later":` + deep, `{"later":` + deep + strings.Repeat("]", 1e6) + "}"} {
		if _, err := read(text); err == nil {
			t.Errorf("%.20s… is taken", text)
		}
	}
}

func TestQuote(t *testing.T) {
	if got := Quote(strings.Repeat("\n", 1e6)); len(got) > 202 {
		t.Errorf("%d bytes", len(got))
	}
}

// What the standard library takes is taken, and means the same; what it refuses is refused.
func FuzzDecoder(f *testing.F) {
	for _, text := range []string{`{"a":[1,-0.5e+3,"\u00e4\ud83d\ude00\n",true,false,null,{"b":{}}]}`, `01`, `1.`, `-`, `1e`, `.5`, `+1`, `"\x"`, "\"\x7f\"", `[1 2]`, `{"a" 1}`, `nul`, ` [ ] `, "\v1", `""x`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := New(text)
		var got any
		if err == nil {
			if got, err = value(d, 0); err == nil {
				err = d.End()
			}
		}
		var want any
		j := json.NewDecoder(strings.NewReader(text))
		j.UseNumber()
		other := j.Decode(&want)
		if _, err := j.Token(); other == nil && err != io.EOF {
			other = errors.New("more")
		}
		if other == nil && err != nil {
			for _, ours := range []string{"there twice", "surrogate", "UTF-8", "depth"} {
				if strings.Contains(err.Error(), ours) {
					return
				}
			}
		}
		if (err == nil) != (other == nil) || err == nil && !reflect.DeepEqual(got, want) {
			t.Errorf("%q gives %v (%v), want %v (%v)", text, got, err, want, other)
		}
	})
}

// value reads any value as encoding/json does.
func value(d *Decoder, depth int) (any, error) {
	if depth > 1000 {
		return nil, errors.New("depth")
	}
	later, err := d.Later()
	if err != nil {
		return nil, err
	}
	switch text := later.Text(); text[0] {
	case '{':
		m := map[string]any{}
		err := later.Object(func(name string) (err error) { m[name], err = value(later, depth+1); return err })
		return m, err
	case '[':
		l := []any{}
		err := later.Array(func() error { x, err := value(later, depth+1); l = append(l, x); return err })
		return l, err
	case '"':
		return later.String()
	case 't', 'f':
		return later.Bool()
	case 'n':
		return nil, nil
	default:
		_, err := later.want('0', "a number")
		return json.Number(text), err
	}
}
