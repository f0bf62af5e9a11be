// Command report reads the output of go test -json and prints what a person needs: the
// results of packages, and all output of tests that failed or were skipped. It appends a
// line "passed failed skipped" to the file named by its argument.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// event is a line of test2json, see "go doc test2json".
type event struct {
	Action, Package, Test, Output, ImportPath string

	Elapsed float64 // seconds, when a test ends
}

type report struct {
	passed, failed, skipped int

	output  map[[2]string]*strings.Builder // of tests that have not ended, by package and test
	blamed  map[string]bool                // packages in which a test has failed
	out     io.Writer
	skipLog []string
	slow    []event // tests that took long, and are no part of another
}

// slow is the time from which a test is named, so that a run that grows tells why.
const slow = 15 // seconds

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go test -json | report COUNTS-FILE")
		os.Exit(2)
	}
	r := report{output: map[[2]string]*strings.Builder{}, blamed: map[string]bool{}, out: os.Stdout}
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		r.failed++
	}
	for _, line := range r.skipLog {
		fmt.Fprintln(r.out, line)
	}
	slices.SortFunc(r.slow, func(a, b event) int { return cmp.Compare(b.Elapsed, a.Elapsed) })
	for _, e := range r.slow {
		fmt.Fprintf(r.out, "slow: %4.0f s  %s %s\n", e.Elapsed, e.Package, e.Test)
	}
	if err := r.save(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
	if r.failed > 0 {
		os.Exit(1)
	}
}

func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil && e.Action != "" {
				r.take(e)
			} else {
				r.out.Write(line) // from the go command itself
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) take(e event) {
	key := [2]string{e.Package, e.Test}
	if e.Test != "" && e.Elapsed >= slow && !strings.Contains(e.Test, "/") {
		r.slow = append(r.slow, e)
	}
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "output":
		if e.Test == "" {
			if !noise(e.Output) {
				fmt.Fprint(r.out, e.Output)
			}
			return
		}
		if r.output[key] == nil {
			r.output[key] = &strings.Builder{}
		}
		r.output[key].WriteString(e.Output)
	case "pass":
		if e.Test != "" {
			r.passed++
			delete(r.output, key)
		}
	case "skip":
		if e.Test != "" { // a package without tests is no skip
			r.skipped++
			r.skipLog = append(r.skipLog, "skipped "+e.Package+" "+e.Test+"\n"+strings.TrimRight(r.text(key), "\n"))
			delete(r.output, key)
		}
	case "fail":
		r.fail(e, key)
	}
}

// fail counts a failed test, or a package that failed without one: it did not build,
// panicked, or ran out of time.
func (r *report) fail(e event, key [2]string) {
	if e.Test != "" {
		r.failed++
		r.blamed[e.Package] = true
		fmt.Fprint(r.out, r.text(key))
		delete(r.output, key)
		return
	}
	if !r.blamed[e.Package] {
		r.failed++
	}
	// The output of tests that did not end tells why the package failed.
	var open [][2]string
	for k := range r.output {
		if k[0] == e.Package {
			open = append(open, k)
		}
	}
	slices.SortFunc(open, func(a, b [2]string) int { return strings.Compare(a[1], b[1]) })
	for _, k := range open {
		fmt.Fprint(r.out, r.text(k))
		delete(r.output, k)
	}
}

func (r *report) text(key [2]string) string {
	if b := r.output[key]; b != nil {
		return b.String()
	}
	return ""
}

// noise reports whether go test -v prints the line and go test does not.
func noise(line string) bool {
	return line == "PASS\n" || strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "testing: warning: no tests to run")
}

func (r *report) save(path string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(f, r.passed, r.failed, r.skipped); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
