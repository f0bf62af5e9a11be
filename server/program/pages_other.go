//go:build !linux

package program

// dropPages does nothing: other systems give such pages back by themselves.
func dropPages() error { return nil }
