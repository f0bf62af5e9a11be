// Package freeport finds ports for the servers that tests and benchmarks start.
package freeport

import (
	"errors"
	"net"
	"os"
	"strconv"
	"sync/atomic"
)

// The ports lie below those from which every usual system takes the ports of connections
// and of ":0" (32768 and up on Linux, 49152 elsewhere; RFC 6335, section 6). A port of that
// range can be taken between the moment that finds it free and the moment that a server
// binds it, and again while a server is restarted.
const first, count = 12_000, 20_000

// given counts the ports that this process was given.
var given atomic.Uint32

// Next is a port without a listener, for TCP and for UDP. The process is not given it
// again. Other processes begin elsewhere in the range.
func Next() (int, error) {
	var err error
	for range count {
		port := first + (os.Getpid()*199+int(given.Add(1)))%count
		if err = free(port); err == nil {
			return port, nil
		}
	}
	return 0, err
}

func free(port int) error {
	at := ":" + strconv.Itoa(port)
	stream, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	packets, err := net.ListenPacket("udp", at)
	if err != nil {
		return errors.Join(err, stream.Close())
	}
	return errors.Join(stream.Close(), packets.Close())
}
