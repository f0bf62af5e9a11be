//go:build !linux

package program

// dropPages does nothing: it is known how to only on Linux.
func dropPages() error { return nil }
