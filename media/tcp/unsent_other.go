//go:build !linux

package tcp

import "net"

// LimitUnsent does nothing: only Linux has the limit here.
func LimitUnsent(net.Conn) error { return nil }
