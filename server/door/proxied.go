package door

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// proxied is a client's connection that comes from a proxy.
type proxied struct {
	net.Conn
	client net.Addr
}

// RemoteAddr implements net.Conn.
func (p *proxied) RemoteAddr() net.Addr { return p.client }

// NetConn returns the underlying connection.
func (p *proxied) NetConn() net.Conn { return p.Conn }

var (
	errNoProxy = errors.New("it does not come from a proxy that may name its client")
	errPROXY   = errors.New("it does not begin with a header of the PROXY protocol")
)

// unwrap reads a proxy's header from conn, and returns the connection as the client's.
func (d *Door) unwrap(conn net.Conn) (net.Conn, error) {
	if !within(d.cfg.Proxies, conn.RemoteAddr()) {
		return nil, errNoProxy
	}
	client, err := readPROXY(conn)
	if err != nil {
		return nil, err
	}
	if !client.IsValid() { // the proxy speaks for itself, as it does to see whether the server runs
		return conn, nil
	}
	return &proxied{Conn: conn, client: net.TCPAddrFromAddrPort(client)}, nil
}

const (
	shortestPROXY = 12  // bytes of either version
	longestPROXY1 = 107 // the end of its line counted in
	longestPROXY2 = 4 << 10
)

// signaturePROXY begins a header of version 2.
var signaturePROXY = []byte("\r\n\r\n\x00\r\nQUIT\n") // does not change

// readPROXY reads a header of the PROXY protocol, version 1 or 2, and nothing after it. The
// address is the client's; the zero value if the header names none.
func readPROXY(r io.Reader) (netip.AddrPort, error) {
	first := make([]byte, shortestPROXY, longestPROXY1)
	if _, err := io.ReadFull(r, first); err != nil {
		return netip.AddrPort{}, err
	}
	switch {
	case bytes.Equal(first, signaturePROXY):
		return readPROXY2(r)
	case bytes.HasPrefix(first, []byte("PROXY ")):
		return readPROXY1(r, first)
	}
	return netip.AddrPort{}, errPROXY
}

// readPROXY1 reads the rest of a line that begins with first.
func readPROXY1(r io.Reader, first []byte) (none netip.AddrPort, err error) {
	line := first
	for !bytes.HasSuffix(line, []byte("\r\n")) {
		if len(line) == longestPROXY1 {
			return none, errPROXY
		}
		line = line[:len(line)+1]
		if _, err := io.ReadFull(r, line[len(line)-1:]); err != nil {
			return none, err
		}
	}
	words := strings.Split(strings.TrimSuffix(string(line), "\r\n"), " ")
	if words[1] == "UNKNOWN" {
		return none, nil
	}
	if len(words) != 6 || words[1] != "TCP4" && words[1] != "TCP6" {
		return none, errPROXY
	}
	ip, err := netip.ParseAddr(words[2])
	if err != nil || ip.Is4() != (words[1] == "TCP4") || ip.Zone() != "" {
		return none, errPROXY
	}
	port, err := strconv.ParseUint(words[4], 10, 16)
	if err != nil {
		return none, errPROXY
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)), nil
}

// readPROXY2 reads what follows the signature.
func readPROXY2(r io.Reader) (none netip.AddrPort, err error) {
	const (
		version       = 2 << 4
		local, remote = version, version | 1
		tcp4, tcp6    = 0x11, 0x21
	)
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return none, err
	}
	n := int(binary.BigEndian.Uint16(head[2:]))
	if n > longestPROXY2 {
		return none, errPROXY
	}
	rest := make([]byte, n)
	if _, err := io.ReadFull(r, rest); err != nil {
		return none, err
	}
	size := map[byte]int{tcp4: 4, tcp6: 16}[head[1]] // of an address
	switch {
	case head[0] == local, head[0] == remote && size == 0:
		return none, nil
	case head[0] != remote, n < 2*size+4: // two addresses and two ports
		return none, errPROXY
	}
	ip, _ := netip.AddrFromSlice(rest[:size]) // cannot fail for these sizes
	return netip.AddrPortFrom(ip.Unmap(), binary.BigEndian.Uint16(rest[2*size:])), nil
}
