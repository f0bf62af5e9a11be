package icemux

import (
	"bytes"
	"encoding/binary"
)

// transaction is a STUN transaction id (RFC 8489, 5).
type transaction [12]byte

// class is the class of a STUN message, at its bits' place in the message type (RFC 8489, 5).
type class uint16

const (
	classRequest    class = 0x000
	classIndication class = 0x010
	classSuccess    class = 0x100
	classError      class = 0x110
)

const (
	stunHeader   = 20
	stunCookie   = 0x2112a442
	attrUsername = 0x0006
	attrNominate = 0x0025 // USE-CANDIDATE
	attrControls = 0x802a // ICE-CONTROLLING
)

// stunMessage has the fields of a STUN message that dispatching needs.
type stunMessage struct {
	class class
	id    transaction
	attrs []byte
}

// parseSTUN reads the header of a message, and reports whether p is a STUN message. It
// does not allocate.
func parseSTUN(p []byte) (m stunMessage, ok bool) {
	if len(p) < stunHeader || p[0] > 3 || binary.BigEndian.Uint32(p[4:]) != stunCookie {
		return m, false
	}
	if size := int(binary.BigEndian.Uint16(p[2:])); size != len(p)-stunHeader {
		return m, false
	}
	m.class = class(binary.BigEndian.Uint16(p) & 0x110)
	copy(m.id[:], p[8:])
	m.attrs = p[stunHeader:]
	return m, true
}

// attribute returns the value of the first attribute of a type.
func (m *stunMessage) attribute(of uint16) (value []byte, ok bool) {
	for rest := m.attrs; len(rest) >= 4; {
		size := int(binary.BigEndian.Uint16(rest[2:]))
		if size > len(rest)-4 {
			return nil, false
		}
		if binary.BigEndian.Uint16(rest) == of {
			return rest[4 : 4+size], true
		}
		rest = rest[min(4+(size+3)&^3, len(rest)):]
	}
	return nil, false
}

// ufrag returns the receiver's part of the USERNAME attribute, or nil.
func (m *stunMessage) ufrag() []byte {
	name, _ := m.attribute(attrUsername)
	local, _, _ := bytes.Cut(name, []byte{':'})
	return local
}

// controls reports whether the message has the ICE-CONTROLLING attribute.
func (m *stunMessage) controls() bool {
	_, ok := m.attribute(attrControls)
	return ok
}

// nominates reports whether the message has the USE-CANDIDATE attribute.
func (m *stunMessage) nominates() bool {
	_, ok := m.attribute(attrNominate)
	return ok
}
