package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/pprof/profile"

	"parlor/server/freeport"
)

const (
	// profileCommand is the argument that makes the profile for the compiler.
	profileCommand = "profile"
	// profileFile is where the compiler's profile is, in this folder.
	profileFile = "parlor.pgo"
	// stackDepth is how many frames of a stack are kept, the innermost ones. The compiler
	// looks at calls, each of which is two neighbouring frames.
	stackDepth = 6
	// keptShare is the share of the CPU time that is kept: what is rarer is not optimised
	// for, but would be most of the file.
	keptShare = 0.97
)

// runProfile lets the server forward the kinds of rooms, and writes what its CPU time went
// to as the compiler's profile.
func runProfile(ctx context.Context, args []string, out io.Writer) (err error) {
	s := settings{feedback: true, key: "devkey", secret: "secret"}
	var file, only string
	f := flag.NewFlagSet("bench "+profileCommand, flag.ContinueOnError)
	f.StringVar(&file, "out", profileFile, "file to write")
	f.StringVar(&only, "only", "", "names of kinds, or parts of them, separated by commas; all without it")
	f.DurationVar(&s.window, "window", 20*time.Second, "how long each kind is profiled for, its joins included")
	if err := f.Parse(args); err != nil {
		return err
	}
	chosen, err := kindsNamed(only)
	if err != nil {
		return err
	}
	if s.window < time.Second {
		return errors.New("window must be at least a second")
	}
	dir, err := os.MkdirTemp("", "parlor-profile")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Fprintln(out, "building the server")
	binary, err := build(ctx, dir)
	if err != nil {
		return err
	}
	var all []*profile.Profile
	for i := range chosen {
		fmt.Fprintln(out, "profiling", chosen[i].name)
		p, err := chosen[i].profile(ctx, s, binary, filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			return fmt.Errorf("%s: %w", chosen[i].name, err)
		}
		all = append(all, p)
	}
	merged, err := forCompiler(all)
	if err != nil {
		return err
	}
	return writeProfile(merged, file)
}

// profile runs this kind on a server of its own, and returns the server's CPU profile.
func (k *kind) profile(ctx context.Context, s settings, binary, dir string) (p *profile.Profile, err error) {
	v, debug, err := startDebugged(ctx, "parlor", binary, s, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, v.stop()) }()
	type result struct {
		p   *profile.Profile
		err error
	}
	taken := make(chan result, 1)
	go func() { // ends by itself, or with ctx
		p, err := cpuProfile(ctx, debug, s.window)
		taken <- result{p, err}
	}()
	_, runErr := k.run(ctx, s, v)
	r := <-taken
	return r.p, errors.Join(runErr, r.err)
}

// startDebugged is start for a server with a port for profiles, whose address is debug.
func startDebugged(ctx context.Context, name, binary string, s settings, dir string) (v *server, debug string, err error) {
	port, err := freeport.Next()
	if err != nil {
		return nil, "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, "", err
	}
	config := filepath.Join(dir, "debug.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "debug_handler:\n  port: %d\n", port), 0o600); err != nil {
		return nil, "", err
	}
	s.serverArgs = "--config " + config
	v, err = start(ctx, name, binary, s, dir)
	return v, fmt.Sprintf("http://127.0.0.1:%d", port), err
}

// cpuProfile takes a CPU profile of that length from the debug port of a server.
func cpuProfile(ctx context.Context, url string, window time.Duration) (*profile.Profile, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", url, int(window.Seconds())), nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("profile the server: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("profile the server: %s", res.Status)
	}
	p, err := profile.Parse(res.Body)
	if err != nil {
		return nil, fmt.Errorf("profile the server: %w", err)
	}
	return p, nil
}

// forCompiler makes one profile of several, and leaves out what the compiler does not look
// at: the outer frames of stacks, what hardly ever ran, addresses, and the paths of files,
// which tell where the server was built. Each profile counts the same, whatever its load.
func forCompiler(all []*profile.Profile) (*profile.Profile, error) {
	for _, p := range all {
		if len(p.SampleType) == 0 || p.SampleType[len(p.SampleType)-1].Type != "cpu" {
			return nil, errors.New("a profile is not one of CPU time")
		}
		if len(p.Sample) == 0 {
			return nil, errors.New("a profile is empty")
		}
		cpu := len(p.SampleType) - 1
		p.SampleType, p.DefaultSampleType = p.SampleType[cpu:], ""
		total := int64(0)
		for _, s := range p.Sample {
			s.Value = s.Value[cpu:]
			s.Location = s.Location[:min(len(s.Location), stackDepth)]
			s.Label, s.NumLabel, s.NumUnit = nil, nil, nil
			total += s.Value[0]
		}
		p.Scale(float64(len(all)) * 1e9 / float64(max(total, 1)))
		p.Mapping, p.Comments, p.TimeNanos, p.DurationNanos = nil, nil, 0, 0
		for _, l := range p.Location {
			l.Mapping, l.Address = nil, 0
		}
		for _, f := range p.Function {
			f.Filename = ""
		}
	}
	merged, err := profile.Merge(all)
	if err != nil {
		return nil, fmt.Errorf("merge profiles: %w", err)
	}
	merged.TimeNanos, merged.DurationNanos = 0, 0
	slices.SortStableFunc(merged.Sample, func(a, b *profile.Sample) int { return int(b.Value[0] - a.Value[0]) })
	total, kept := int64(0), int64(0)
	for _, s := range merged.Sample {
		total += s.Value[0]
	}
	for i, s := range merged.Sample {
		if float64(kept) >= keptShare*float64(total) {
			merged.Sample = merged.Sample[:i]
			break
		}
		kept += s.Value[0]
	}
	return merged.Compact(), nil
}

func writeProfile(p *profile.Profile, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(p.Write(f), f.Close())
}

// kindsNamed are the kinds with one of these parts in their names; all, if there is none.
func kindsNamed(parts string) ([]kind, error) {
	if parts == "" {
		return kinds(), nil
	}
	chosen := slices.DeleteFunc(kinds(), func(k kind) bool {
		return !slices.ContainsFunc(strings.Split(parts, ","), func(part string) bool { return strings.Contains(k.name, strings.TrimSpace(part)) })
	})
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no kind is called %q", parts)
	}
	return chosen, nil
}
