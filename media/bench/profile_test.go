package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/pprof/profile"
	"github.com/stretchr/testify/require"
)

// cpuProfileOf is a profile as the runtime makes it, of one stack for each value: that of a
// function with its number, called from outer ones.
func cpuProfileOf(values ...int64) *profile.Profile {
	p := &profile.Profile{
		SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}},
		PeriodType: &profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, Period: 10e6, TimeNanos: 1e18, DurationNanos: 1e9,
		Mapping: []*profile.Mapping{{ID: 1, File: "/home/someone/parlor", BuildID: "x"}},
	}
	frame := func(name string, line int64) *profile.Location {
		id := uint64(len(p.Location) + 1)
		f := &profile.Function{ID: id, Name: name, SystemName: name, Filename: "/home/someone/parlor/main.go", StartLine: 10}
		l := &profile.Location{ID: id, Mapping: p.Mapping[0], Address: 0x1000 + id, Line: []profile.Line{{Function: f, Line: line}}}
		p.Function, p.Location = append(p.Function, f), append(p.Location, l)
		return l
	}
	for i, v := range values {
		s := &profile.Sample{Value: []int64{v / 10e6, v}, Label: map[string][]string{"room": {"private"}}}
		s.Location = append(s.Location, frame("parlor/f"+string(rune('0'+i)), 12))
		for range stackDepth {
			s.Location = append(s.Location, frame("parlor/outer", 14))
		}
		p.Sample = append(p.Sample, s)
	}
	return p
}

func TestTheProfileHasWhatTheCompilerLooksAt(t *testing.T) {
	busy, quiet := cpuProfileOf(90e9, 8e9, 1e9, 1e9), cpuProfileOf(10e6)
	made, err := forCompiler([]*profile.Profile{busy, quiet})
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "out.pgo")
	require.NoError(t, writeProfile(made, file))
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	p, err := profile.Parse(bytes.NewReader(content))
	require.NoError(t, err)

	share := map[string]float64{}
	total := 0.0
	for _, s := range p.Sample {
		require.Len(t, s.Value, 1)
		require.Len(t, s.Location, stackDepth)
		require.Empty(t, s.Label)
		leaf := s.Location[0].Line[0]
		require.EqualValues(t, 12, leaf.Line)
		require.EqualValues(t, 10, leaf.Function.StartLine, "lines count from it")
		share[leaf.Function.Name] += float64(s.Value[0])
		total += float64(s.Value[0])
	}
	require.InDelta(t, 0.96, share["parlor/f0"]/total, 0.02, "a quiet kind counts as much as a busy one")
	require.Contains(t, share, "parlor/f1")
	require.Len(t, p.Sample, 2, "what is the same is one, what is rare is left out")
	require.NotContains(t, p.String(), "someone")
	require.NotContains(t, p.String(), "private")
	require.Zero(t, p.TimeNanos)
}

func TestOtherProfilesAreRefused(t *testing.T) {
	heap := cpuProfileOf(1e9)
	heap.SampleType[1].Type = "space"
	for _, p := range []*profile.Profile{heap, {}, cpuProfileOf()} {
		_, err := forCompiler([]*profile.Profile{p})
		require.Error(t, err)
	}
	for _, args := range [][]string{{"-only", "no such kind"}, {"-window", "1ms"}, {"-nonsense"}} {
		require.Error(t, run(t.Context(), append([]string{profileCommand}, args...), nil, &bytes.Buffer{}), args)
	}
}

// TestTheCommittedProfile: what is committed is small, names no machine's folders, and the
// compiler takes it.
func TestTheCommittedProfile(t *testing.T) {
	content, err := os.ReadFile(profileFile)
	require.NoError(t, err)
	require.Less(t, len(content), 300<<10)
	p, err := profile.Parse(bytes.NewReader(content))
	require.NoError(t, err)
	require.NotEmpty(t, p.Sample)
	require.Empty(t, p.Mapping)
	for _, f := range p.Function {
		require.Empty(t, f.Filename)
		require.Positive(t, f.StartLine, f.Name)
	}
	calls := filepath.Join(t.TempDir(), "calls")
	text, err := exec.CommandContext(t.Context(), "go", "tool", "preprofile", "-i", profileFile, "-o", calls).CombinedOutput()
	require.NoError(t, err, string(text))
	made, err := os.ReadFile(calls)
	require.NoError(t, err)
	require.Contains(t, string(made), "\nparlor/media/forward.", "the packet path is in it")
}
