//go:build unix

package main

import (
	"os/signal"
	"syscall"
)

// ignoreFileSizeLimit has a write beyond the process's file size limit fail with an error,
// as on a full disk. Otherwise it would kill the process.
func ignoreFileSizeLimit() { signal.Ignore(syscall.SIGXFSZ) }
