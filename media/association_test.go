package media

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/pion/dtls/v3"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// hostile is a client that writes SCTP packets of its own making.
type hostile struct {
	*client
	conn   *dtls.Conn
	tag    uint32        // the server's verification tag
	tsn    uint32        // of its next DATA chunk
	stream uint16        // of a channel that it opened
	bytes  int           // written
	taken  func() uint64 // the bytes that the server's SCTP has received
	before uint64        // the same, when the association began
}

// Chunk types and flags (RFC 9260, RFC 6525, RFC 3758).
const (
	chunkDATA, chunkINIT, chunkSACK, chunkHeartbeat, chunkERROR = 0, 1, 3, 4, 9
	chunkReconfig, chunkForwardTSN                              = 130, 192
	chunkIDATA, chunkIForwardTSN                                = 64, 194

	flagEnd, flagBegin, flagUnordered = 1, 2, 4
)

func newHostile(t *testing.T, e *Engine, sid string, change ...func(*PeerConfig)) *hostile {
	t.Helper()
	h := &hostile{client: newClient(t, e, clientConfig{sid: sid, single: true, change: func(cfg *PeerConfig) {
		for _, c := range change {
			c(cfg)
		}
	}})}
	dc, err := h.pub.CreateDataChannel("hostile", nil)
	require.NoError(t, err)
	h.join()
	require.Eventually(t, func() bool {
		return h.opened(dc.Label()) && buffered(h.pub) == 0 && buffered(h.peer.pub.pc) == 0
	}, patience, time.Millisecond)
	h.conn, h.stream = dtlsOf(h.pub), *dc.ID()
	h.restart()
	return h
}

// restart begins a new association (RFC 9260, section 5.2.2) whose numbers the test knows,
// and that has plain DATA chunks, though it could do otherwise (RFC 8260), as pion can. The
// client's own SCTP carries it out.
func (h *hostile) restart() {
	association := associationOf(h.pub).Elem()
	field := func(name string) unsafe.Pointer { return unsafe.Pointer(association.FieldByName(name).UnsafeAddr()) }
	lock := (*sync.RWMutex)(field("lock"))
	lock.Lock()
	atomic.StoreUint32((*uint32)(field("state")), 1) // COOKIE-WAIT
	lock.Unlock()
	h.tsn = 0xfff00000 // numbers pass 0 soon
	init := binary.BigEndian.AppendUint32(nil, 1+rand.Uint32N(1<<30))
	init = binary.BigEndian.AppendUint32(init, 1<<20)
	init = append(init, 0xff, 0xff, 0xff, 0xff)
	init = binary.BigEndian.AppendUint32(init, h.tsn)
	init = append(init, 0x80, 8, 0, 8, chunkReconfig, chunkForwardTSN, chunkIDATA, chunkIForwardTSN)
	h.send(chunk(chunkINIT, 0, init))
	select {
	case err := <-*(*chan error)(field("handshakeCompletedCh")):
		require.NoError(h.t, err)
	case <-time.After(patience):
		require.FailNow(h.t, "the association was not restarted")
	}
	lock.Lock()
	h.tag = *(*uint32)(field("peerVerificationTag"))
	lock.Unlock()
	h.taken = associationOf(h.peer.pub.pc).Interface().(interface{ BytesReceived() uint64 }).BytesReceived
	h.before = h.taken() - uint64(h.bytes)
}

// associationOf is the SCTP association of a peer connection, which pion does not expose.
func associationOf(pc *webrtc.PeerConnection) reflect.Value {
	field := reflect.ValueOf(pc.SCTP()).Elem().FieldByName("sctpAssociation")
	return reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem()
}

// opened reports whether the server has taken the client's channel.
func (h *hostile) opened(label string) bool {
	d := h.peer.data
	d.mu.Lock()
	defer d.mu.Unlock()
	for dc := range d.opened {
		if dc.Label() == label {
			return true
		}
	}
	return false
}

// buffered is how many bytes a peer connection has yet to send, or to see acknowledged.
func buffered(pc *webrtc.PeerConnection) int {
	return associationOf(pc).Interface().(interface{ BufferedAmount() int }).BufferedAmount()
}

// send writes a packet.
func (h *hostile) send(chunks ...[]byte) {
	b := binary.BigEndian.AppendUint32([]byte{5000 >> 8, 5000 & 0xff, 5000 >> 8, 5000 & 0xff}, h.tag)
	b = append(b, 0, 0, 0, 0)
	for _, c := range chunks {
		b = append(b, c...)
	}
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	h.bytes += len(b)
	if _, err := h.conn.Write(b); err != nil {
		return // the server has closed the connection
	}
	if h.taken == nil {
		return
	}
	for end := time.Now().Add(time.Second); h.taken()-h.before+8<<10 < uint64(h.bytes); { // so that few are lost
		if time.Now().After(end) {
			h.before = h.taken() - uint64(h.bytes) // what has not come was lost
			break
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// flood writes n chunks, in packets that fill datagrams.
func (h *hostile) flood(n int, next func(i int) []byte) {
	var chunks [][]byte
	size := 0
	for i := range n {
		c := next(i)
		if size+len(c) > 1150 {
			h.send(chunks...)
			chunks, size = nil, 0
		}
		chunks, size = append(chunks, c), size+len(c)
	}
	h.send(chunks...)
}

func chunk(kind, flags byte, value []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{kind, flags}, uint16(4+len(value)))
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func (h *hostile) data(flags byte, tsn uint32, ssn uint16, payload string) []byte {
	b := binary.BigEndian.AppendUint32(nil, tsn)
	b = binary.BigEndian.AppendUint16(b, h.stream)
	b = binary.BigEndian.AppendUint16(b, ssn)
	return chunk(chunkDATA, flags, append(binary.BigEndian.AppendUint32(b, 53), payload...)) // binary
}

// reset asks to reset h.stream once lastTSN has come.
func (h *hostile) reset(number, lastTSN uint32) []byte {
	b := []byte{0, 13, 0, 18}
	b = binary.BigEndian.AppendUint32(b, number)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint32(b, lastTSN)
	return chunk(chunkReconfig, 0, binary.BigEndian.AppendUint16(b, h.stream))
}

// allocated is what was allocated so far, and held what is in use.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func held() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// whole is a message of one chunk, which the server reads at once.
func (h *hostile) whole(ahead uint32) []byte {
	return h.data(flagUnordered|flagBegin|flagEnd, h.tsn+ahead, 0, "x")
}

// SCTP that makes the server do much for little has its association aborted, and the client
// must reconnect.
func TestAssociationsAreAborted(t *testing.T) {
	e := newTestEngine(t, nil)
	w := newWitness(t, e)
	for i, v := range []struct {
		what, why string
		attack    func(h *hostile)
	}{
		{"data without user data", "without user data", func(h *hostile) {
			h.send(h.data(flagBegin|flagEnd, h.tsn, 1, ""))
		}},
		{"resets that wait", "reconfig", func(h *hostile) {
			for i := range uint32(300) {
				h.send(h.reset(i, h.tsn+1<<18+i))
			}
		}},
		{"resets that wait until numbers have passed 0", "reconfig", func(h *hostile) {
			for i := range uint32(300) {
				h.send(h.reset(i, h.tsn+1<<30+i))
			}
		}},
		{"many heartbeats at once", "answer", func(h *hostile) {
			h.flood(100, func(int) []byte { return chunk(chunkHeartbeat, 0, []byte{0, 1, 0, 8, 1, 2, 3, 4}) })
		}},
		{"many resets at once", "answer", func(h *hostile) {
			h.flood(50, func(i int) []byte { return h.reset(uint32(i), h.tsn-1) })
		}},
		{"many acknowledgements at once", "SACK", func(h *hostile) {
			h.flood(5, func(int) []byte { return chunk(chunkSACK, 0, make([]byte, 12)) })
		}},
		{"many FORWARD TSNs at once", "FORWARD", func(h *hostile) {
			h.flood(5, func(i int) []byte {
				return chunk(chunkForwardTSN, 0, binary.BigEndian.AppendUint32(nil, h.tsn+uint32(i)))
			})
		}},
	} {
		t.Run(v.what, func(t *testing.T) {
			h := newHostile(t, e, fmt.Sprint("PA_", i))
			v.attack(h)
			why := h.events.wait(t, "reconnect").label
			require.Contains(t, why, "aborted")
			require.Contains(t, why, v.why)
			require.EqualValues(t, i+1, e.Stats().BadSCTP)
			w.isWell()
		})
	}
}

// What SCTP keeps for a client, and what it allocates for a packet of a client, is bounded.
func TestAssociationsAreBounded(t *testing.T) {
	const mb = 1 << 20
	large := strings.Repeat("x", 1100)
	e := newTestEngine(t, nil)
	w := newWitness(t, e)
	for i, v := range []struct {
		what            string
		keeps, allocate uint64 // at most
		attack          func(h *hostile)
	}{
		{"short messages, the first of which is missing", 2 * mb, 0, func(h *hostile) {
			h.flood(16000, func(i int) []byte { return h.data(flagBegin|flagEnd, h.tsn+uint32(i), uint16(1+i), "x") })
		}},
		{"short fragments without a beginning", 2 * mb, 0, func(h *hostile) {
			h.flood(16000, func(i int) []byte { return h.data(flagUnordered, h.tsn+uint32(i), 0, "x") })
		}},
		{"short chunks in large packets", 3 * mb, 0, func(h *hostile) {
			ignored := chunk(chunkERROR, 0, append([]byte{0, 99, 4, 76}, make([]byte, 1096)...))
			for i := range 4000 {
				h.send(h.data(flagBegin|flagEnd, h.tsn+uint32(i), uint16(1+i), "x"), ignored)
			}
		}},
		{"resets that wait", 0, 32 * mb, func(h *hostile) {
			for i := range uint32(200) {
				h.send(h.reset(i, h.tsn+1<<18+i))
			}
			h.flood(2000, func(i int) []byte { return h.whole(uint32(i)) })
		}},
		{"gaps", 0, 32 * mb, func(h *hostile) {
			h.flood(3000, func(i int) []byte { return h.whole(uint32(1 + 2*i)) })
			h.flood(2000, func(int) []byte { return h.whole(1) }) // again and again
		}},
		{"large chunks before a missing one", 4 * mb, 0, func(h *hostile) {
			h.send(h.data(flagUnordered, h.tsn+5000, 0, "x"))
			for i := range uint32(4999) {
				h.send(h.data(flagUnordered, h.tsn+1+i, 0, large))
			}
		}},
		{"streams listed often", 0, 64 * mb, func(h *hostile) {
			h.flood(3000, func(i int) []byte { return h.data(flagBegin|flagEnd, h.tsn+uint32(i), uint16(1000+i), "x") })
			for i := range uint32(500) {
				b := binary.BigEndian.AppendUint32(nil, h.tsn+3000+i)
				for range 280 {
					b = append(binary.BigEndian.AppendUint16(b, h.stream), 0, 1)
				}
				h.send(chunk(chunkForwardTSN, 0, b))
			}
		}},
		{"acknowledgements with false lengths", 0, 32 * mb, func(h *hostile) {
			for range 500 {
				h.send(chunk(chunkSACK, 0, []byte{0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}))
			}
		}},
	} {
		t.Run(v.what, func(t *testing.T) {
			h := newHostile(t, e, fmt.Sprint("PA_", i))
			kept, all := held(), allocated()
			v.attack(h)
			w.isWell()
			if more := allocated() - all; v.allocate > 0 {
				require.Less(t, more, v.allocate, "allocated, for %d bytes", h.bytes)
			}
			if more := int64(held()) - int64(kept); v.keeps > 0 {
				require.Less(t, more, int64(v.keeps), "kept, of %d bytes", h.bytes)
			}
			require.Zero(t, e.Stats().BadSCTP)
		})
	}
}

// Heavy but honest use of data channels is not what the bounds are for.
func TestHonestAssociations(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	ordered, never := false, uint16(0)
	open := func(label string, init *webrtc.DataChannelInit) *webrtc.DataChannel {
		dc, err := a.pub.CreateDataChannel(label, init)
		require.NoError(t, err)
		return dc
	}
	short, long := open("short", &webrtc.DataChannelInit{Ordered: &ordered}), open("long", nil)
	lossy := open("lossy", &webrtc.DataChannelInit{Ordered: &ordered, MaxRetransmits: &never})
	a.join()
	for _, dc := range []*webrtc.DataChannel{short, long, lossy} {
		require.Eventually(t, func() bool { return dc.ReadyState() == webrtc.DataChannelStateOpen }, patience, time.Millisecond)
	}
	const shorts, longs = 20000, 100
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := range shorts {
			_ = short.Send([]byte{'s'}) // what is not sent is missed below
			_ = lossy.Send([]byte{'l', 'l'})
			if i%(shorts/longs) == 0 {
				_ = long.Send(make([]byte, rooms.MaxDataPacket))
			}
		}
	}()
	for gotShort, gotLong := 0, 0; gotShort < shorts || gotLong < longs; {
		switch n := len(a.events.wait(t, "message").data); n {
		case 1:
			gotShort++
		case rooms.MaxDataPacket:
			gotLong++
		}
	}
	<-sent
	channels := func() (now, ever int) {
		d := a.peer.data
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.opened), d.ever
	}
	before, _ := channels()
	closing := make([]*webrtc.DataChannel, 100)
	for i := range closing {
		closing[i] = open(fmt.Sprint("closing", i), nil)
	}
	for _, dc := range closing {
		require.Eventually(t, func() bool { return dc.ReadyState() == webrtc.DataChannelStateOpen }, patience, time.Millisecond)
	}
	for _, dc := range closing {
		require.NoError(t, dc.Close())
	}
	require.Eventually(t, func() bool {
		now, ever := channels()
		return now == before && ever >= len(closing)
	}, patience, time.Millisecond)
	require.NoError(t, long.Send([]byte("well")))
	for string(a.events.wait(t, "message").data) != "well" {
	}
	require.Zero(t, e.Stats().BadSCTP)
}

// What was not read of a stream that the client has reset counts in the receive window.
func TestMessagesOfResetStreams(t *testing.T) {
	const mb = 1 << 20
	e := newTestEngine(t, nil)
	slow := &slowEvents{read: make(chan struct{})}
	h := newHostile(t, e, "PA_h", func(cfg *PeerConfig) {
		slow.events = cfg.Events.(*events)
		cfg.Events = slow
	})
	defer slow.once.Do(func() { close(slow.read) })
	own, large := h.stream, strings.Repeat("x", 1000)
	attack := func() {
		tsn := h.tsn
		for i := range uint16(8) {
			h.stream = 200 + 2*i
			open := h.data(flagBegin|flagEnd, tsn, 0, "\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00") // RFC 8832, section 5.1
			binary.BigEndian.PutUint32(open[12:], 50)
			h.send(open)
			tsn++
			for ssn := range uint16(900) {
				h.send(h.data(flagBegin|flagEnd, tsn, 1+ssn, large))
				tsn++
			}
			h.send(h.reset(uint32(i), tsn-1))
		}
		h.stream = own
		h.send(h.data(flagUnordered|flagBegin|flagEnd, tsn, 0, "well"))
	}
	kept := held()
	attack()
	require.Less(t, int64(held())-int64(kept), int64(3*mb), "kept, of %d bytes", h.bytes)
	slow.once.Do(func() { close(slow.read) })
	var sending sync.WaitGroup
	well := make(chan struct{})
	defer sending.Wait()
	defer close(well)
	sending.Go(func() {
		for { // what was not taken is sent again
			select {
			case <-well:
				return
			default:
				attack()
			}
		}
	})
	for string(h.events.wait(t, "message").data) != "well" {
	}
	require.Zero(t, e.Stats().BadSCTP)
}

// slowEvents take no message until read is closed.
type slowEvents struct {
	*events
	read chan struct{}
	once sync.Once
}

func (s *slowEvents) Message(p []byte) {
	<-s.read
	s.events.Message(p)
}

// Resets that wait do not count against an honest client.
func TestHonestResets(t *testing.T) {
	e := newTestEngine(t, nil)
	for i, v := range []struct {
		what  string
		waits func(h *hostile)
	}{
		{"all performed by the chunks of one packet", func(h *hostile) { // as pion asks
			for i := range uint32(20) {
				h.send(h.reset(i, h.tsn+i))
			}
		}},
		{"asked for again and again", func(h *hostile) { // as dcSCTP asks
			for i := range uint32(300) {
				h.send(h.reset(i, h.tsn+19))
			}
		}},
	} {
		t.Run(v.what, func(t *testing.T) {
			h := newHostile(t, e, fmt.Sprint("PA_", i))
			h.stream += 2
			v.waits(h)
			h.stream -= 2
			h.flood(20, func(i int) []byte { return h.whole(uint32(i)) })
			h.send(h.data(flagUnordered|flagBegin|flagEnd, h.tsn+20, 0, "well"))
			for string(h.events.wait(t, "message").data) != "well" {
			}
			require.Zero(t, e.Stats().BadSCTP)
		})
	}
}
