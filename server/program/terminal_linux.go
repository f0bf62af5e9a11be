package program

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// isTerminal tells whether a person may answer there.
func isTerminal(in io.Reader) bool {
	f, ok := in.(*os.File)
	if !ok || f == nil {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
