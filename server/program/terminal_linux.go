package program

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// isTerminal reports whether in is a terminal, where a person may answer.
func isTerminal(in io.Reader) bool {
	f, ok := in.(*os.File)
	if !ok || f == nil {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
