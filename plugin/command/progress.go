package command

import (
	"fmt"
	"io"
	"os"
	"time"

	"kafka-metering/meter"
)

// progress shows how far a command that reads many files is: on a terminal a line that changes, in a log a line now and
// then. A run of a few files shows nothing.
type progress struct {
	out      io.Writer
	terminal bool
	total    int
	done     int
	statuses map[meter.UsageStatus]int
	start    time.Time
	next     time.Time
}

const (
	progressTerminal = 200 * time.Millisecond
	progressLog      = 10 * time.Second
)

func newProgress(out io.Writer) *progress {
	p := &progress{out: out, statuses: map[meter.UsageStatus]int{}, start: time.Now()}
	if f, ok := out.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	p.next = p.start.Add(p.interval())
	return p
}

func (p *progress) interval() time.Duration {
	if p.terminal {
		return progressTerminal
	}
	return progressLog
}

// count takes note of what a file was found to declare.
func (p *progress) count(llm *meter.LLM) {
	if llm.UsageStatus == "" {
		p.statuses[meter.UsageMissing]++
		return
	}
	p.statuses[llm.UsageStatus]++
}

// step takes note of one more file.
func (p *progress) step() {
	p.done++
	now := time.Now()
	if now.Before(p.next) || p.done == p.total {
		return
	}
	p.next = now.Add(p.interval())
	left := time.Duration(float64(now.Sub(p.start)) / float64(p.done) * float64(p.total-p.done)).Round(time.Second)
	if p.terminal {
		fmt.Fprintf(p.out, "\r%d of %d files, %v left \033[K", p.done, p.total, left)
		return
	}
	fmt.Fprintf(p.out, "%d of %d files, %v left\n", p.done, p.total, left)
}

// end says what a run of many files came to.
func (p *progress) end() {
	if p.terminal && p.next.Sub(p.start) > progressTerminal {
		fmt.Fprint(p.out, "\r\033[K")
	}
	if p.total < 2 {
		return
	}
	fmt.Fprintf(p.out, "%d files: usage final %d, partial %d, estimated %d, missing %d (%v)\n", p.done, p.statuses[meter.UsageFinal],
		p.statuses[meter.UsagePartial], p.statuses[meter.UsageEstimated], p.statuses[meter.UsageMissing], time.Since(p.start).Round(time.Millisecond))
}
