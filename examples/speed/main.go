// Speed measures the time of a step of PNM, AdaPNM and AdamW on this machine: in several formats, on one worker and on all. Beside each step
// it measures the limit kernel, which moves the same memory and computes nothing:
//
//	go run github.com/posneg/pnm/examples/speed@latest
//
// It takes less than a minute. It prints a bar chart on a terminal, and a table elsewhere. -svg and -csv write the results to files. -from
// measures nothing, and draws such a CSV file, or one of `python -m posneg --bench --csv`.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"golang.org/x/term"
)

func main() {
	var s settings
	svg := flag.String("svg", "", "draw the results into this `file`")
	csv := flag.String("csv", "", "write the results to this `file`")
	from := flag.String("from", "", "take the results from this `file` instead of measuring; -csv, or python -m posneg --bench --csv, writes such files")
	flag.IntVar(&s.mebi, "mebi", 0, "parameters, in units of 2^20 (default 64, or as many as fit into half of the free memory)")
	flag.DurationVar(&s.time, "time", 40*time.Second, "how long to measure; each step is measured at least 3 times")
	flag.StringVar(&s.machine, "machine", "", "name of the machine in the results (default: the CPU's name)")
	flag.Parse()

	if err := run(s, *svg, *csv, *from); err != nil {
		fmt.Fprintln(os.Stderr, "speed:", err)
		os.Exit(1)
	}
}

func run(s settings, svg, csv, from string) error {
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	results, err := load(from)
	if err := errors.Join(err, writable(csv), writable(svg)); err != nil {
		return err
	}
	if from == "" {
		results, err = measure(s, os.Stderr)
	}
	if err != nil {
		return err
	}
	print := func() error { return table(os.Stdout, results) }
	if width, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
		print = func() error { return chart(os.Stdout, results, width) }
	}
	return errors.Join(print(), save(csv, results, writeCSV), save(svg, results, draw))
}
