//go:build !linux

package program

import "io"

// isTerminal reports false: it can only be known on Linux. Elsewhere flags must give all
// answers.
func isTerminal(io.Reader) bool { return false }
