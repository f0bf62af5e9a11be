//go:build unix

package program

import "syscall"

// closeOnExec keeps an inherited socket from the programs that this one starts.
func closeOnExec(fd int) { syscall.CloseOnExec(fd) }
