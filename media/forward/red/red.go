// Package red parses the redundant audio payload of RFC 2198.
package red

// MaxBlocks is the largest number of redundant blocks that is accepted.
const MaxBlocks = 8

// Block is one redundant copy of an earlier packet.
type Block struct {
	PayloadType uint8
	// TimestampOffset is by how much the block's timestamp is below the packet's.
	TimestampOffset uint32
	Payload         []byte
}

// Payload is a parsed RED payload. Its slices share the memory of the parsed bytes.
type Payload struct {
	PayloadType uint8 // of the primary block
	Primary     []byte
	// Redundant[:N] are the older copies, oldest first.
	Redundant [MaxBlocks]Block
	N         int
}

// Parse parses b; false if b is not a RED payload.
func (p *Payload) Parse(b []byte) bool {
	p.N, p.Primary = 0, nil
	var sizes [MaxBlocks]int
	head, total := 0, 0
	for {
		if head >= len(b) {
			return false
		}
		if b[head]&0x80 == 0 {
			p.PayloadType = b[head] & 0x7f
			head++
			break
		}
		if head+4 > len(b) || p.N == MaxBlocks {
			return false
		}
		p.Redundant[p.N] = Block{
			PayloadType:     b[head] & 0x7f,
			TimestampOffset: uint32(b[head+1])<<6 | uint32(b[head+2])>>2,
		}
		sizes[p.N] = int(b[head+2]&0x03)<<8 | int(b[head+3])
		total += sizes[p.N]
		p.N++
		head += 4
	}
	if head+total > len(b) {
		return false
	}
	for i := range p.N {
		p.Redundant[i].Payload = b[head : head+sizes[i]]
		head += sizes[i]
	}
	p.Primary = b[head:]
	return true
}

// SetPayloadType sets the payload type of every block of b, a RED payload that has been
// parsed before.
func SetPayloadType(b []byte, pt uint8) {
	for i := 0; i < len(b); i += 4 {
		more := b[i] & 0x80
		b[i] = more | pt&0x7f
		if more == 0 {
			return
		}
	}
}
