package door

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
)

// kind is the kind of a guest.
type kind int

const (
	unknown kind = iota
	httpGuest
	turnGuest
	iceGuest
	tlsGuest // the kind is hidden by TLS
)

// guest is a connection whose kind is known.
type guest struct {
	kind      kind
	conn      net.Conn
	decrypted bool // the door speaks TLS on it
}

var (
	errTLS     = errors.New("TLS could not be agreed on")
	errUnknown = errors.New("it begins like nothing that is served here")
)

const (
	// firstBytes is the number of bytes that shows STUN with a length before it.
	firstBytes = 10
	// maxHello bounds the first message of a TLS handshake. Clients' hellos have two
	// kilobytes with post-quantum keys, and are held twice.
	maxHello = 16 << 10
	// maxHandshake bounds what a caller sends before its kind is known: two hellos, if
	// the server asks for another key, and the end of the handshake. A client sends no
	// certificates.
	maxHandshake = 2*maxHello + 4<<10

	stunCookie = 0x2112a442

	turnProtocol = "stun.turn" // TURN's name in ALPN (RFC 7443)
)

// tell returns the kind of a connection that begins with b. unknown without an error
// means that more bytes are needed.
func tell(b []byte) (kind, error) {
	const handshake = 0x16 // a TLS record's type
	isSTUN := func(b []byte) bool { return b[0] < 4 && binary.BigEndian.Uint32(b[4:]) == stunCookie }
	switch {
	case len(b) == 0:
		return unknown, nil
	case b[0] == handshake:
		if len(b) == 1 {
			return unknown, nil
		}
		if b[1] == 3 { // the first byte of its version
			return tlsGuest, nil
		}
	case b[0] >= 'A' && b[0] <= 'Z':
		return httpGuest, nil
	}
	switch {
	case len(b) >= 8 && isSTUN(b):
		return turnGuest, nil
	case len(b) >= firstBytes && isSTUN(b[2:]):
		return iceGuest, nil
	case len(b) >= firstBytes:
		return unknown, errUnknown
	}
	return unknown, nil
}

// ask tells a caller's kind. The connection's deadline bounds the time.
func (d *Door) ask(conn net.Conn) (guest, error) {
	k, first, err := peek(conn)
	if err != nil {
		return guest{}, err
	}
	again := &replay{Conn: conn, first: first}
	if k != tlsGuest {
		return guest{kind: k, conn: again}, nil
	}
	if d.cfg.TLS == nil {
		return guest{}, errTLS
	}
	if !d.cfg.HTTP { // only TURN comes over TLS
		return d.decrypt(again, func(net.Conn) (kind, []byte, error) { return turnGuest, nil, nil })
	}
	hello, read, err := readHello(again)
	if err != nil {
		return guest{}, err
	}
	again = &replay{Conn: conn, first: read}
	switch {
	case slices.Contains(hello.SupportedProtos, turnProtocol),
		d.cfg.TURNName != "" && strings.EqualFold(hello.ServerName, d.cfg.TURNName) && len(hello.SupportedProtos) == 0:
		return d.decrypt(again, func(net.Conn) (kind, []byte, error) { return turnGuest, nil, nil })
	case len(hello.SupportedProtos) > 0:
		return guest{kind: httpGuest, conn: again}, nil
	}
	return d.decrypt(again, peek)
}

// decrypt speaks TLS with a caller, and tells its kind by ask.
func (d *Door) decrypt(conn net.Conn, ask func(net.Conn) (kind, []byte, error)) (guest, error) {
	bound := &bounded{Conn: conn, left: maxHandshake}
	c := tls.Server(bound, d.cfg.TLS)
	if err := c.HandshakeContext(d.ctx); err != nil {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return guest{}, err
		}
		return guest{}, fmt.Errorf("%w: %w", errTLS, err)
	}
	k, first, err := ask(c)
	if err != nil {
		return guest{}, err
	}
	if k == tlsGuest || k == iceGuest { // neither comes inside TLS
		return guest{}, errUnknown
	}
	bound.over = true
	if len(first) == 0 {
		return guest{kind: k, conn: c, decrypted: true}, nil
	}
	return guest{kind: k, conn: &replay{Conn: c, first: first}, decrypted: true}, nil
}

// peek reads until the connection's kind is known.
func peek(conn net.Conn) (kind, []byte, error) {
	var b [firstBytes]byte
	for n := 0; n < len(b); {
		read, err := conn.Read(b[n:])
		n += read
		k, unfit := tell(b[:n])
		switch {
		case unfit != nil:
			return unknown, nil, unfit
		case k != unknown:
			return k, b[:n], nil
		case err != nil:
			return unknown, nil, err
		}
	}
	return unknown, nil, errUnknown
}

// readHello reads the first message of a TLS handshake, and returns all bytes that it
// read.
func readHello(conn net.Conn) (*tls.ClientHelloInfo, []byte, error) {
	var read bytes.Buffer
	var hello *tls.ClientHelloInfo
	listen := &listener{Conn: conn, r: io.TeeReader(io.LimitReader(conn, maxHello), &read)}
	err := tls.Server(listen, &tls.Config{
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			hello = h
			return nil, errUnknown // only the hello is needed
		},
	}).Handshake()
	if hello == nil {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return nil, nil, err
		}
		return nil, nil, fmt.Errorf("%w: %w", errTLS, err)
	}
	return hello, read.Bytes(), nil
}

// listener is a connection that is read but not written.
type listener struct {
	net.Conn
	r io.Reader
}

// Read implements net.Conn.
func (l *listener) Read(b []byte) (int, error) { return l.r.Read(b) }

// Write implements net.Conn. It drops the alert that TLS would send.
func (l *listener) Write(b []byte) (int, error) { return len(b), nil }

// Close implements net.Conn. It leaves the connection open.
func (l *listener) Close() error { return nil }

// SetWriteDeadline implements net.Conn: nothing is written.
func (l *listener) SetWriteDeadline(time.Time) error { return nil }

// bounded is a connection of which at most left bytes are read until over is set. Its
// methods may be called concurrently, except Read.
type bounded struct {
	net.Conn
	left int
	over bool
}

// Read implements net.Conn.
func (c *bounded) Read(b []byte) (int, error) {
	if c.over {
		return c.Conn.Read(b)
	}
	if c.left == 0 {
		return 0, errTLS
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

// NetConn returns the underlying connection.
func (c *bounded) NetConn() net.Conn { return c.Conn }

// replay is a connection whose first bytes were read already and are read again. Its
// methods may be called concurrently, except Read.
type replay struct {
	net.Conn
	first []byte
}

// Read implements net.Conn.
func (r *replay) Read(b []byte) (int, error) {
	if len(r.first) > 0 {
		n := copy(b, r.first)
		r.first = r.first[n:]
		return n, nil
	}
	return r.Conn.Read(b)
}

// NetConn returns the underlying connection.
func (r *replay) NetConn() net.Conn { return r.Conn }

// CloseWrite is for net/http, which ends connections with it.
func (r *replay) CloseWrite() error {
	if w, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}
