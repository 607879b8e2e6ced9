package trials

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// A progress shows how many runs are done and the time that is left: as a bar on a terminal, else as a line for each finished
// run.
type progress struct {
	w        *os.File
	terminal bool
	start    time.Time

	mu         sync.Mutex
	bar        *progressbar.ProgressBar
	done, runs int
}

func newProgress(w *os.File, runs, steps int) *progress {
	p := &progress{w: w, terminal: term.IsTerminal(int(w.Fd())), start: time.Now(), runs: runs}
	p.bar = progressbar.NewOptions(steps,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetVisibility(p.terminal),
		progressbar.OptionSetDescription(fmt.Sprintf("%d runs", runs)),
		progressbar.OptionSetWidth(24),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
	)
	return p
}

// step counts a step. It ignores the number of steps left in the epoch.
func (p *progress) step(int) { p.bar.Add(1) }

// finished counts a run, of which it prints a description.
func (p *progress) finished(run string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
	p.bar.Describe(fmt.Sprintf("%d of %d runs done", p.done, p.runs))
	if !p.terminal {
		left := time.Since(p.start) / time.Duration(p.done) * time.Duration(p.runs-p.done)
		fmt.Fprintf(p.w, "%d of %d runs done, about %v left: %s\n", p.done, p.runs, left.Round(time.Second), run)
	}
}
