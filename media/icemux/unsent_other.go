//go:build !linux

package icemux

import "net"

// limitUnsent does nothing: only Linux has the limit here.
func limitUnsent(net.Conn) error { return nil }
