package program

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// dropPages takes the pages of the program's own file out of the resident set (madvise(2)).
// Starting runs through most of the file once. What is used later comes back from the page
// cache at its next use, and the kernel may take the rest for something better.
func dropPages() error {
	mappings, err := os.ReadFile("/proc/self/smaps") // proc_pid_smaps(5)
	if err != nil {
		return err
	}
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	for _, m := range unwritten(mappings, program) {
		if _, _, failure := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); failure != 0 {
			return fmt.Errorf("madvise: %w", failure)
		}
	}
	return nil
}

// mapping is a range of addresses.
type mapping struct{ start, end uintptr }

// unwritten returns those of the mappings of a file that cannot be written to and never were.
// A page that was written to (by the loader or a debugger) is nowhere else, or in swap, so
// that it must stay.
func unwritten(smaps []byte, file string) (mappings []mapping) {
	var m mapping // the one whose lines are read; empty = another file's, writable, or written to
	lines := bufio.NewScanner(bytes.NewReader(smaps))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		switch name := fields[0]; {
		case !strings.HasSuffix(name, ":"): // address, permissions, offset, device, inode, file
			m = mapping{}
			start, end, _ := strings.Cut(name, "-")
			a, errStart := strconv.ParseUint(start, 16, strconv.IntSize)
			b, errEnd := strconv.ParseUint(end, 16, strconv.IntSize)
			writable := len(fields[1]) != 4 || fields[1][1] != '-' || fields[1][3] != 'p'
			if errStart == nil && errEnd == nil && !writable && len(fields) > 5 && strings.Join(fields[5:], " ") == file {
				m = mapping{start: uintptr(a), end: uintptr(b)}
			}
		case name == "Anonymous:" && fields[1] != "0": // those in memory
			m = mapping{}
		case name == "Swap:" && fields[1] == "0" && m.end > m.start: // it comes after
			mappings = append(mappings, m)
		}
	}
	return mappings
}
