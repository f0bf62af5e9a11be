package program

import (
	"bytes"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// residentOfFiles returns how many kB of files the process has in its resident set.
func residentOfFiles(t *testing.T) int {
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, rest, found := bytes.Cut(status, []byte("RssFile:"))
	require.True(t, found, "proc_pid_status(5)")
	kb, err := strconv.Atoi(string(bytes.Fields(rest)[0]))
	require.NoError(t, err)
	return kb
}

// TestPagesOfTheProgramAreGivenBack: what a start has read of the file leaves the resident set,
// and the program goes on.
func TestPagesOfTheProgramAreGivenBack(t *testing.T) {
	binary, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	smaps, err := os.ReadFile("/proc/self/smaps")
	require.NoError(t, err)
	program, err := os.Readlink("/proc/self/exe")
	require.NoError(t, err)
	mappings := unwritten(smaps, program)
	require.NotEmpty(t, mappings)
	var mapped uintptr
	for _, m := range mappings {
		mapped += m.end - m.start
	}
	require.Less(t, mapped, uintptr(2*len(binary)), "mappings of other files")

	before := residentOfFiles(t)
	require.NoError(t, dropPages())
	after := residentOfFiles(t)
	require.Less(t, after, before/2)

	// This uses text and constants that are not in memory now.
	var out bytes.Buffer
	require.Equal(t, 0, Run(t.Context(), Environment{Args: []string{"version"}, Out: &out, Err: &out}))
	require.NotEmpty(t, out.String())
}

// TestPagesThatStay: those that were written to, also if they are in swap or nothing tells,
// can be written to, are shared, or of another file.
func TestPagesThatStay(t *testing.T) {
	const smaps = `00400000-0131c000 r-xp 00000000 fe:00 99 /opt/a b/parlor (deleted)
Size:              15472 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd ex mr mw me
0131c000-0255c000 r--p 00f1c000 fe:00 99 /opt/a b/parlor (deleted)
Anonymous:             4 kB
Swap:                  0 kB
0255c000-0261b000 rw-p 0215c000 fe:00 99 /opt/a b/parlor (deleted)
Anonymous:             0 kB
Swap:                  0 kB
02600000-02700000 r--s 0215c000 fe:00 99 /opt/a b/parlor (deleted)
Anonymous:             0 kB
Swap:                  0 kB
00900000-00a00000 r--p 00f1c000 fe:00 99 /opt/a b/parlor (deleted)
Anonymous:             0 kB
Swap:                  4 kB
00a00000-00b00000 r--p 00f1c000 fe:00 99 /opt/a b/parlor (deleted)
Anonymous:             0 kB
7f0000000000-7f0000100000 r-xp 00000000 fe:00 98 /lib/libc.so.6
Anonymous:             0 kB
Swap:                  0 kB
7f0000200000-7f0000300000 r--p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
7f0000400000-7f0000500000 r--p 00000000 fe:00 99 /opt/a b/parlor (deleted)
Anonymous:             0 kB
Swap:                  0 kB
`
	require.Equal(t, []mapping{{0x400000, 0x131c000}, {0x7f0000400000, 0x7f0000500000}},
		unwritten([]byte(smaps), "/opt/a b/parlor (deleted)"))
	require.Empty(t, unwritten(nil, "/opt/parlor"))
	require.Empty(t, unwritten([]byte("x\n1-2 r--p\nAnonymous: 0 kB"), ""))
}
