// Package strictjson reads JSON whose form the reader knows, from files that anybody may have written. Unlike encoding/json alone
// it refuses names that an object has twice, invalid UTF-8 and halves of surrogate pairs, and it builds nothing that was not asked
// for: what does not have the form is an error where it begins, whatever its depth and size.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// A Decoder reads one JSON text from its beginning: the methods say what comes next, and fail if something else does.
type Decoder struct {
	json *json.Decoder
	from int // where its text begins in the whole
}

// New returns a decoder of a text, which must be valid UTF-8.
func New(text []byte) (*Decoder, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("invalid UTF-8")
	}
	if at := loneSurrogate(text); at >= 0 {
		return nil, fmt.Errorf("at byte %d: half a surrogate pair", at)
	}
	return newDecoder(text, 0), nil
}

func newDecoder(text []byte, from int) *Decoder {
	d := &Decoder{json.NewDecoder(bytes.NewReader(text)), from}
	d.json.UseNumber()
	return d
}

// loneSurrogate returns where an escape \uD800 … \uDFFF is that has no partner, or -1. Backslashes occur in strings alone.
func loneSurrogate(text []byte) int {
	for i := 0; ; {
		k := bytes.IndexByte(text[i:], '\\')
		if k < 0 {
			return -1
		}
		i += k
		r, ok := escape(text[i:])
		switch {
		case !ok:
			i += min(2, len(text)-i) // another escape, or none, which the decoder will refuse
		case !utf16.IsSurrogate(r):
			i += 6
		default:
			low, _ := escape(text[i+6:])
			if utf16.DecodeRune(r, low) == utf8.RuneError {
				return i
			}
			i += 12
		}
	}
}

// escape returns the number of the \u escape that a text begins with.
func escape(text []byte) (r rune, ok bool) {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	return rune(n), err == nil
}

// Errorf returns an error that says where the decoder is.
func (d *Decoder) Errorf(format string, args ...any) error {
	return fmt.Errorf("at byte %d: %w", d.Offset(), fmt.Errorf(format, args...))
}

// Offset returns how many bytes of the text have been read.
func (d *Decoder) Offset() int { return d.from + int(d.json.InputOffset()) }

func (d *Decoder) token() (json.Token, error) {
	t, err := d.json.Token()
	if err != nil {
		return nil, d.Errorf("%w", err)
	}
	return t, nil
}

func (d *Decoder) delim(want json.Delim) error {
	t, err := d.token()
	if err == nil && t != want {
		err = d.Errorf("%s where %s was to be", kind(t), kind(want))
	}
	return err
}

// kind describes a token, in few words whatever its length.
func kind(t json.Token) string {
	switch t := t.(type) {
	case nil:
		return "null"
	case string:
		return "a string"
	case json.Number:
		return "a number"
	case json.Delim:
		return map[json.Delim]string{'{': "an object", '[': "an array", '}': "the end of the object", ']': "the end of the array"}[t]
	}
	return fmt.Sprint(t)
}

// Object reads an object. For each of its members it calls member with the name, which must read the value.
func (d *Decoder) Object(member func(name string) error) error {
	if err := d.delim('{'); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for d.json.More() {
		name, err := d.String()
		if err != nil {
			return err
		}
		if seen[name] {
			return d.Errorf("%s is there twice", Quote(name))
		}
		seen[name] = true
		if err := member(name); err != nil {
			return err
		}
	}
	return d.delim('}')
}

// Array reads an array. It calls element for each of the elements, which must read it.
func (d *Decoder) Array(element func() error) error {
	if err := d.delim('['); err != nil {
		return err
	}
	for d.json.More() {
		if err := element(); err != nil {
			return err
		}
	}
	return d.delim(']')
}

// String reads a string.
func (d *Decoder) String() (string, error) { return scalar[string](d, "a string") }

// Bool reads true or false.
func (d *Decoder) Bool() (bool, error) { return scalar[bool](d, "true or false") }

// Float reads a number.
func (d *Decoder) Float() (float64, error) {
	n, err := scalar[json.Number](d, "a number")
	if err != nil {
		return 0, err
	}
	x, err := strconv.ParseFloat(string(n), 64)
	if err != nil {
		return 0, d.Errorf("%s is beyond float64", Quote(string(n)))
	}
	return x, nil
}

// Uint reads an integer from 0 to most.
func (d *Decoder) Uint(most uint64) (uint64, error) {
	n, err := scalar[json.Number](d, "an integer")
	if err != nil {
		return 0, err
	}
	x, err := strconv.ParseUint(string(n), 10, 64)
	if err != nil || x > most {
		return 0, d.Errorf("%s where an integer from 0 to %d was to be", Quote(string(n)), most)
	}
	return x, nil
}

// Later skips a value, and returns a decoder of it.
func (d *Decoder) Later() (*Decoder, error) {
	var raw json.RawMessage
	if err := d.json.Decode(&raw); err != nil {
		return nil, d.Errorf("%w", err)
	}
	return newDecoder(raw, d.Offset()-len(raw)), nil
}

// End reports whatever else than white space follows.
func (d *Decoder) End() error {
	end := d.Errorf("something follows the end")
	if _, err := d.json.Token(); err != io.EOF {
		return end
	}
	return nil
}

func scalar[T any](d *Decoder, want string) (x T, err error) {
	t, err := d.token()
	if err != nil {
		return x, err
	}
	x, ok := t.(T)
	if !ok {
		return x, d.Errorf("%s where %s was to be", kind(t), want)
	}
	return x, nil
}

// Quote returns a string of a file for an error: in quotes, and not at any length.
func Quote(s string) string { return fmt.Sprintf("%.100q", s) }
