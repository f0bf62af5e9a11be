package srtpout

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
)

// maxPacket is the length of the longest packet that is sent, in bytes. Longer packets
// are not received either.
const maxPacket = 2048

var (
	// ErrNoRemote: ICE has no path at the moment.
	ErrNoRemote = errors.New("no address to send media to")
	// ErrTooLong: the packet exceeds the longest one that is sent.
	ErrTooLong = errors.New("RTP packet too long")
	// ErrRetired: the stream was retired.
	ErrRetired = errors.New("the SSRC was given up")
)

// MaxRetired is how many retired SSRCs a Sender may remember, at about twenty bytes each.
// A Sender with this many should be replaced, with new keys.
const MaxRetired = 1 << 16

// Socket sends encrypted packets. A udp.Conn is one.
type Socket interface {
	WriteToAddrPort(p []byte, dst netip.AddrPort) (int, error)
}

// Buffers lends buffers for encryption. One Buffers for all senders of a process reuses a
// buffer while it is still in the processor's cache; a buffer in each stream would be
// cold at each frame. The zero value is ready for use.
type Buffers struct{ pool sync.Pool }

func (b *Buffers) get() *[maxPacket]byte {
	if p, ok := b.pool.Get().(*[maxPacket]byte); ok {
		return p
	}
	return new([maxPacket]byte)
}

func (b *Buffers) put(p *[maxPacket]byte) { b.pool.Put(p) }

// Sender is the outgoing SRTP and SRTCP of one transport. Its methods may be called concurrently.
type Sender struct {
	buffers *Buffers
	keys    *SessionKeys
	path    atomic.Pointer[path] // nil: no path
	rtcp    *rtcpSealer

	// mu guards the following.
	mu sync.Mutex
	// Every SSRC that was ever written is in one of the following maps, see the package
	// comment.
	streams map[uint32]*Stream
	retired map[uint32]uint64 // last index, by SSRC
}

// path is the destination of packets.
type path struct {
	socket Socket
	to     netip.AddrPort
}

// NewSender makes a sender for a connected transport. It sends no packet before it has a
// path.
func NewSender(buffers *Buffers, keys Keys) (*Sender, error) {
	k, err := keys.Session()
	if err != nil {
		return nil, err
	}
	r, err := newRTCPSealer(keys)
	if err != nil {
		return nil, err
	}
	return &Sender{buffers: buffers, keys: k, rtcp: r, streams: map[uint32]*Stream{}, retired: map[uint32]uint64{}}, nil
}

// SetPath sets the socket and the remote address of ICE's selected pair; an invalid
// address means that there is no path.
func (s *Sender) SetPath(socket Socket, to netip.AddrPort) {
	if !to.IsValid() {
		s.path.Store(nil)
		return
	}
	s.path.Store(&path{socket, to})
}

// Remote is the destination address; invalid if there is no path.
func (s *Sender) Remote() netip.AddrPort {
	if p := s.path.Load(); p != nil {
		return p.to
	}
	return netip.AddrPort{}
}

// RemoteOf is the remote address of a candidate pair; false if the pair is not over UDP.
func RemoteOf(pair *webrtc.ICECandidatePair) (netip.AddrPort, bool) {
	if pair == nil || pair.Local == nil || pair.Remote == nil ||
		pair.Local.Protocol != webrtc.ICEProtocolUDP || pair.Remote.Protocol != webrtc.ICEProtocolUDP ||
		pair.Local.Typ == webrtc.ICECandidateTypeRelay {
		return netip.AddrPort{}, false
	}
	a, err := netip.ParseAddr(pair.Remote.Address)
	if err != nil {
		return netip.AddrPort{}, false // a host name
	}
	return netip.AddrPortFrom(a.Unmap(), pair.Remote.Port), true
}

// Stream is the stream of an SSRC, the same one at each call until the SSRC is retired.
// Then it is a new one, which continues after the last index of the former.
func (s *Sender) Stream(ssrc uint32) *Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.streams[ssrc]
	if t == nil {
		t = &Stream{sender: s, ssrc: ssrc, sealer: newSealer(s.keys)}
		if last, was := s.retired[ssrc]; was {
			t.indices.resume(last)
			delete(s.retired, ssrc)
		}
		s.streams[ssrc] = t
	}
	return t
}

// Retire ends the stream of an SSRC and keeps only its last index. It returns how many
// SSRCs are retired, see [MaxRetired].
func (s *Sender) Retire(ssrc uint32) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.streams[ssrc]; t != nil {
		delete(s.streams, ssrc)
		if last, any := t.retire(); any {
			s.retired[ssrc] = last
		}
	}
	return len(s.retired)
}

// Stream is one SSRC of a Sender. Its methods may be called concurrently, but then the
// order of the packets is undefined.
type Stream struct {
	sender *Sender
	ssrc   uint32

	// mu guards the following. It is held while the socket takes a packet.
	mu      sync.Mutex
	sealer  sealer
	indices indices
	retired bool
}

// AllowRepeats permits each of the newest packets to be sent again with the same header
// and payload, for receivers that have not negotiated retransmission on another SSRC (RFC
// 4588). The number of packets must be a power of two. It must be called before the first
// packet.
func (t *Stream) AllowRepeats(packets int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.indices.digests == nil {
		t.indices.repeats(packets)
	}
}

// retire ends the stream; any reports whether it has a last index.
func (t *Stream) retire() (last uint64, any bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.retired = true
	return t.indices.newest, t.indices.started
}

// Write encrypts a packet and gives it to the socket. The header's SSRC must be the
// stream's. h and payload are not kept.
func (t *Stream) Write(h *rtp.Header, payload []byte) error {
	path := t.sender.path.Load()
	if path == nil {
		return ErrNoRemote
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.retired {
		return ErrRetired
	}
	if h.SSRC != t.ssrc {
		return fmt.Errorf("RTP of SSRC %d for the stream of %d", h.SSRC, t.ssrc)
	}
	packet := t.sender.buffers.get()
	defer t.sender.buffers.put(packet)
	n, err := h.MarshalTo(packet[:])
	if err != nil {
		return fmt.Errorf("write an RTP header: %w", err)
	}
	if n+len(payload)+int(h.PaddingSize)+t.sealer.overhead() > maxPacket {
		return ErrTooLong
	}
	if h.PaddingSize != 0 {
		payload = pad(packet, n, payload, h.PaddingSize)
	}
	i, err := t.indices.index(h.SequenceNumber)
	if err != nil {
		return err
	}
	if err := t.indices.take(i, t.digest(i, packet[:n], payload)); err != nil {
		return err
	}
	n = t.sealer.seal(packet[:], n, payload, t.ssrc, i)
	_, err = path.socket.WriteToAddrPort(packet[:n], path.to)
	return err
}

// pad writes the payload and its padding (RFC 3550, section 5.1) after the header, where
// seal encrypts them in place.
func pad(packet *[maxPacket]byte, header int, payload []byte, size byte) []byte {
	n := copy(packet[header:], payload)
	padded := packet[header : header+n+int(size)]
	clear(padded[n:])
	padded[len(padded)-1] = size
	return padded
}

// digestSeed is unknown outside of the process, so that nobody makes packets of one digest.
var digestSeed = maphash.MakeSeed()

// digest distinguishes the packets of one index, and of different indices. mu is held.
func (t *Stream) digest(i uint64, header, payload []byte) uint64 {
	if t.indices.digests == nil {
		return 0
	}
	var all [3 * 8]byte
	binary.BigEndian.PutUint64(all[:], i)
	binary.BigEndian.PutUint64(all[8:], maphash.Bytes(digestSeed, header))
	binary.BigEndian.PutUint64(all[16:], maphash.Bytes(digestSeed, payload))
	return maphash.Bytes(digestSeed, all[:])
}
