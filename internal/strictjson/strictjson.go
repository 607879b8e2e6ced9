// Package strictjson reads JSON of a known form from untrusted files. Unlike encoding/json it refuses names that an object has twice,
// invalid UTF-8 and halves of surrogate pairs. It stops with an error at the first departure from the form, whatever the text's depth
// and size. It builds only the values that are asked for, and strings without escapes share the text's memory.
package strictjson

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A Decoder reads one JSON text from its beginning: each method reads what must come next, and returns an error if something else comes.
type Decoder struct {
	text string
	at   int // the number of its bytes that have been read
	from int // its offset in the whole text
}

// New returns a decoder of a text, which must be valid UTF-8.
func New(text string) (*Decoder, error) {
	if !utf8.ValidString(text) {
		return nil, errors.New("invalid UTF-8")
	}
	return &Decoder{text: text}, nil
}

// Errorf returns an error with the decoder's offset.
func (d *Decoder) Errorf(format string, args ...any) error {
	return fmt.Errorf("at byte %d: %w", d.Offset(), fmt.Errorf(format, args...))
}

// Offset returns the number of bytes of the text that have been read.
func (d *Decoder) Offset() int { return d.from + d.at }

// A token is a word of JSON. Its kind is its first byte, '0' for every number, and 0 for the end of the text.
type token struct {
	kind    byte
	text    string // a string without its quotes
	escaped bool   // a string has escapes
}

// String describes a token in a few words.
func (t token) String() string {
	switch t.kind {
	case 0:
		return "the end of the text"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '}':
		return "the end of an object"
	case ']':
		return "the end of an array"
	}
	return t.text
}

// next reads a token.
func (d *Decoder) next() (token, error) {
	d.space()
	if d.at == len(d.text) {
		return token{}, nil
	}
	begin := d.at
	switch c := d.text[begin]; c {
	case '{', '}', '[', ']', ',', ':':
		d.at++
		return token{kind: c, text: d.text[begin:d.at]}, nil
	case '"':
		return d.string()
	case 't', 'f', 'n':
		for _, word := range [...]string{"true", "false", "null"} {
			if strings.HasPrefix(d.text[begin:], word) {
				d.at += len(word)
				return token{kind: c, text: word}, nil
			}
		}
	default:
		if d.number() {
			return token{kind: '0', text: d.text[begin:d.at]}, nil
		}
	}
	return token{}, d.invalid()
}

func (d *Decoder) invalid() error {
	if d.at == len(d.text) {
		return d.Errorf("the text ends too early")
	}
	r, _ := utf8.DecodeRuneInString(d.text[d.at:])
	return d.Errorf("invalid character %q", r)
}

func (d *Decoder) space() {
	for d.at < len(d.text) && strings.IndexByte(" \t\r\n", d.text[d.at]) >= 0 {
		d.at++
	}
}

// number reads a number, or nothing if there is none.
func (d *Decoder) number() bool {
	is := func(bytes string) bool {
		if d.at < len(d.text) && strings.IndexByte(bytes, d.text[d.at]) >= 0 {
			d.at++
			return true
		}
		return false
	}
	digits := func() (found bool) {
		for is("0123456789") {
			found = true
		}
		return found
	}
	is("-")
	if !is("0") && !digits() {
		return false
	}
	if is(".") && !digits() {
		return false
	}
	if is("eE") {
		is("+-")
		return digits()
	}
	return true
}

// string reads a string, and checks its escapes.
func (d *Decoder) string() (token, error) {
	t := token{kind: '"'}
	d.at++
	begin := d.at
	for d.at < len(d.text) {
		switch c := d.text[d.at]; {
		case c == '"':
			t.text = d.text[begin:d.at]
			d.at++
			return t, nil
		case c < ' ':
			return t, d.invalid()
		case c == '\\':
			t.escaped = true
			if err := d.escape(); err != nil {
				return t, err
			}
		default:
			d.at++
		}
	}
	return t, d.invalid()
}

// escape reads an escape; of a surrogate pair, both.
func (d *Decoder) escape() error {
	r, size := unescape(d.text[d.at:])
	switch {
	case size == 0:
		d.at = min(d.at+1, len(d.text))
		return d.invalid()
	case utf16.IsSurrogate(r):
		return d.Errorf("half a surrogate pair")
	}
	d.at += size
	return nil
}

// unescape returns the character of the escape that a text begins with, which may be half a surrogate pair, and the length of the
// escape, or 0 if the text does not begin with one.
func unescape(s string) (r rune, size int) {
	if len(s) < 2 {
		return 0, 0
	}
	if s[1] != 'u' {
		k := strings.IndexByte(`"\/bfnrt`, s[1])
		if k < 0 {
			return 0, 0
		}
		return rune("\"\\/\b\f\n\r\t"[k]), 2
	}
	r, ok := hex(s)
	if !ok {
		return 0, 0
	}
	if low, ok := hex(s[6:]); ok && utf16.IsSurrogate(r) {
		if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
			return pair, 12
		}
	}
	return r, 6
}

// hex returns the number of the \u escape that a text begins with.
func hex(s string) (r rune, ok bool) {
	if len(s) < 6 || s[:2] != `\u` {
		return 0, false
	}
	n, err := strconv.ParseUint(s[2:6], 16, 16)
	return rune(n), err == nil
}

// plain returns a string with its escapes, which are valid, replaced.
func (t token) plain() string {
	if !t.escaped {
		return t.text
	}
	b := make([]byte, 0, len(t.text)) // escapes are longer than their characters
	for s := t.text; s != ""; {
		k := strings.IndexByte(s, '\\')
		if k < 0 {
			k = len(s)
		}
		b = append(b, s[:k]...)
		if s = s[k:]; s != "" {
			r, size := unescape(s)
			b, s = utf8.AppendRune(b, r), s[size:]
		}
	}
	return string(b)
}

// want reads a token, which must have the given kind.
func (d *Decoder) want(kind byte, what string) (token, error) {
	t, err := d.next()
	if err == nil && t.kind != kind {
		err = d.Errorf("%s instead of %s", t, what)
	}
	return t, err
}

// Object reads an object. For each of its members it calls member with the name, which must read the value.
func (d *Decoder) Object(member func(name string) error) error {
	var seen names
	return d.NewMembers(func(name string) bool { return !seen.add(name) }, member)
}

// NewMembers is [Decoder.Object] for callers that know which names have been read.
func (d *Decoder) NewMembers(known func(name string) bool, member func(name string) error) error {
	return d.list('{', '}', "an object", func() error {
		t, err := d.want('"', "a name")
		if err != nil {
			return err
		}
		name := t.plain()
		if known(name) {
			return d.Errorf("%s occurs twice", Quote(name))
		}
		if _, err := d.want(':', "a colon"); err != nil {
			return err
		}
		return member(name)
	})
}

// Array reads an array. It calls element for each of the elements, which must read it.
func (d *Decoder) Array(element func() error) error { return d.list('[', ']', "an array", element) }

// list reads what is between brackets.
func (d *Decoder) list(open, end byte, what string, each func() error) error {
	if _, err := d.want(open, what); err != nil {
		return err
	}
	if d.space(); d.at < len(d.text) && d.text[d.at] == end {
		d.at++
		return nil
	}
	for {
		if err := each(); err != nil {
			return err
		}
		switch t, err := d.next(); {
		case err != nil:
			return err
		case t.kind == end:
			return nil
		case t.kind != ',':
			return d.Errorf("%s instead of a comma or %s", t, token{kind: end})
		}
	}
}

// names are the names of an object's members.
type names struct {
	few  [8]string // most objects have no more
	n    int
	many map[string]struct{}
}

// add reports whether a name is new.
func (s *names) add(name string) bool {
	for _, other := range s.few[:s.n] {
		if other == name {
			return false
		}
	}
	if s.n < len(s.few) {
		s.few[s.n] = name
		s.n++
		return true
	}
	if s.many == nil {
		s.many = make(map[string]struct{})
	}
	n := len(s.many)
	s.many[name] = struct{}{}
	return len(s.many) > n
}

// String reads a string.
func (d *Decoder) String() (string, error) {
	t, err := d.want('"', "a string")
	return t.plain(), err
}

// Bool reads true or false.
func (d *Decoder) Bool() (bool, error) {
	t, err := d.next()
	if err == nil && t.kind != 't' && t.kind != 'f' {
		err = d.Errorf("%s instead of true or false", t)
	}
	return t.kind == 't', err
}

// Float reads a number.
func (d *Decoder) Float() (float64, error) {
	t, err := d.want('0', "a number")
	if err != nil {
		return 0, err
	}
	x, err := strconv.ParseFloat(t.text, 64)
	if err != nil {
		return 0, d.Errorf("%s is too large for float64", Quote(t.text))
	}
	return x, nil
}

// Uint reads an integer from 0 to most.
func (d *Decoder) Uint(most uint64) (uint64, error) {
	t, err := d.want('0', "an integer")
	if err != nil {
		return 0, err
	}
	x, err := strconv.ParseUint(t.text, 10, 64)
	if err != nil || x > most {
		return 0, d.Errorf("%s instead of an integer from 0 to %d", Quote(t.text), most)
	}
	return x, nil
}

const mostDepth = 1000 // of what is skipped

// Later skips a value, and returns a decoder of it.
func (d *Decoder) Later() (*Decoder, error) {
	d.space()
	begin := d.at
	if err := d.skip(mostDepth); err != nil {
		return nil, err
	}
	return &Decoder{text: d.text[begin:d.at], from: d.from + begin}, nil
}

func (d *Decoder) skip(depth int) error {
	if depth == 0 {
		return d.Errorf("it is nested more than %d times", mostDepth)
	}
	d.space()
	if d.at < len(d.text) {
		switch d.text[d.at] {
		case '{':
			return d.Object(func(string) error { return d.skip(depth - 1) })
		case '[':
			return d.Array(func() error { return d.skip(depth - 1) })
		}
	}
	t, err := d.next()
	if err == nil && strings.IndexByte(`"0tfn`, t.kind) < 0 {
		err = d.Errorf("%s instead of a value", t)
	}
	return err
}

// Text returns the text that has not been read.
func (d *Decoder) Text() string { return d.text[d.at:] }

// End reports anything but white space that follows.
func (d *Decoder) End() error {
	if d.space(); d.at < len(d.text) {
		return d.Errorf("something follows the end")
	}
	return nil
}

// Quote returns a string of a file for an error: in quotes, and cut if it is long.
func Quote(s string) string { return fmt.Sprintf("%.100q", s) }
