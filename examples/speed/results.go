package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// A result is how long a step took of a tensor in memory.
type result struct {
	machine, software string
	threads           int
	rule, by, format  string  // by is who performs the step
	elements          int     // of the tensor
	bytes             float64 // that the step reads and writes, for each element
	ns, limit         float64 // for each element; limit is how long moving the bytes takes, NaN if unknown
	ofLimit           float64 // the median of the limit's time by the step's, in the same round
}

var columns = []string{"machine", "software", "threads", "rule", "by", "format", "elements", "bytes", "ns", "limit_ns", "of_limit"}

func writeCSV(w io.Writer, results []result) error {
	out := csv.NewWriter(w)
	out.Write(columns)
	number := func(x float64) string {
		if math.IsNaN(x) {
			return ""
		}
		return strconv.FormatFloat(x, 'f', 4, 64)
	}
	for _, r := range results {
		out.Write([]string{r.machine, r.software, strconv.Itoa(r.threads), r.rule, r.by, r.format, strconv.Itoa(r.elements),
			strconv.FormatFloat(r.bytes, 'f', -1, 64), number(r.ns), number(r.limit), number(r.ofLimit)})
	}
	out.Flush()
	return out.Error()
}

// load reads what writeCSV writes, from no file if the name is empty.
func load(name string) ([]result, error) {
	if name == "" {
		return nil, nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	results, err := readCSV(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return results, nil
}

func readCSV(r io.Reader) (results []result, err error) {
	rows, err := csv.NewReader(r).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(rows) < 2 || !slices.Equal(rows[0], columns) {
		return nil, fmt.Errorf("want the columns %s, and rows below", strings.Join(columns, ","))
	}
	for line, row := range rows[1:] {
		number := func(column string) float64 {
			text := row[slices.Index(columns, column)]
			if text == "" && (column == "limit_ns" || column == "of_limit") {
				return math.NaN()
			}
			x, problem := strconv.ParseFloat(text, 64)
			if problem == nil && !(x > 0 && x < 1e12) {
				problem = fmt.Errorf("%g is no positive number below 1e12", x)
			}
			if problem != nil && err == nil {
				err = fmt.Errorf("line %d, %s: %w", line+2, column, problem)
			}
			return x
		}
		results = append(results, result{row[0], row[1], int(number("threads")), row[3], row[4], row[5], int(number("elements")),
			number("bytes"), number("ns"), number("limit_ns"), number("of_limit")})
	}
	if err != nil {
		return nil, err
	}
	all := panels(results)
	for _, panel := range all[1:] {
		if !slices.EqualFunc(all[0], panel, func(a, b result) bool { return a.rule == b.rule && a.label() == b.label() }) {
			return nil, fmt.Errorf("%s and %s have different rows, want one machine's results, all of them",
				workers(all[0][0].threads), workers(panel[0].threads))
		}
	}
	return results, nil
}

// writable reports a file that save could not write, unless its name is empty: before the work and not after it. It leaves no new file.
func writable(name string) error {
	if name == "" {
		return nil
	}
	_, missing := os.Stat(name)
	file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	err = file.Close()
	if missing != nil {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

// save writes results to a file, unless its name is empty.
func save(name string, results []result, write func(io.Writer, []result) error) error {
	if name == "" {
		return nil
	}
	var b bytes.Buffer
	if err := write(&b, results); err != nil {
		return err
	}
	return os.WriteFile(name, b.Bytes(), 0o666)
}

// panels are the results by number of threads, in the order of their first one.
func panels(results []result) (all [][]result) {
	for _, r := range results {
		i := slices.IndexFunc(all, func(p []result) bool { return p[0].threads == r.threads })
		if i < 0 {
			i = len(all)
			all = append(all, nil)
		}
		all[i] = append(all[i], r)
	}
	return all
}

// slowest is the longest time of all.
func slowest(results []result) (ns float64) {
	for _, r := range results {
		ns = max(ns, r.ns)
	}
	return ns
}

// label says what is measured, within its rule.
func (r *result) label() string {
	if r.by == own {
		return r.format
	}
	return r.by + ", " + r.format
}

// own is who performs the steps of this program.
const own = "pnm"

func workers(threads int) string {
	if threads == 1 {
		return "1 thread"
	}
	return fmt.Sprintf("%d threads", threads)
}

const (
	heading = "Time of a step, in ns per parameter"
	legend  = "limit: the same bytes moved, nothing computed"
)

// about says where the results are from, in two lines.
func about(r *result) []string {
	return []string{r.machine, fmt.Sprintf("%s; %d Mi parameters", r.software, r.elements>>20)}
}
