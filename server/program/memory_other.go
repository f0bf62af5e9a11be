//go:build !linux

package program

// unmapProgram does nothing here.
func unmapProgram() error { return nil }
