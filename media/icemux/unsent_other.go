//go:build !linux

package icemux

import "net"

// limitUnsent does nothing: there is no such bound here.
func limitUnsent(net.Conn) error { return nil }
