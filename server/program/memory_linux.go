package program

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// unmapProgram unmaps the pages of the program's file: what runs next maps its own again,
// from the page cache. Most of the program only runs at the start or while somebody joins,
// and the kernel maps much around a page that is used. Pages that differ from the file, as
// a debugger's breakpoints make them, stay.
func unmapProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find the program's file: %w", err)
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("list mappings: %w", err)
	}
	defer f.Close()
	var begin, end uintptr // of a mapping of the file that nobody may write; 0: it is none
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := lines.Text()
		if same, ours := strings.CutPrefix(line, "Anonymous:"); ours {
			if begin != 0 && strings.TrimSpace(same) == "0 kB" {
				if _, _, errno := unix.Syscall(unix.SYS_MADVISE, begin, end-begin, unix.MADV_DONTNEED); errno != 0 {
					err = errors.Join(err, fmt.Errorf("unmap pages: %w", errno))
				}
			}
			begin = 0
			continue
		}
		var from, to uintptr
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); n == 3 {
			if begin, end = 0, to; strings.HasSuffix(line, " "+exe) && mode[0] == 'r' && mode[1] == '-' && mode[3] == 'p' {
				begin = from
			}
		}
	}
	return errors.Join(err, lines.Err())
}
