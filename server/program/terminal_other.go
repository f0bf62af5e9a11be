//go:build !linux

package program

import "io"

// isTerminal tells whether a person may answer there, which is known on Linux alone:
// elsewhere flags tell all.
func isTerminal(io.Reader) bool { return false }
