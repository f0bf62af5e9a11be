package main

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"parlor/media/udp"
)

const floorCommand = "floor"

// floorOrder configures a floor process. It is sent as one line of JSON. The process
// answers "ready", waits for another line, sends for Window, answers with a floorResult,
// and waits for the end of its input.
type floorOrder struct {
	Offload       bool
	Destinations  []netip.AddrPort
	Window        time.Duration
	FPS           float64
	PerFrame, Len int // packets per frame, bytes of payload
}

type floorResult struct{ Packets int }

const (
	rtpHeader = 12
	gcmTag    = 16
)

func runFloor(in io.Reader, out io.Writer) error {
	r := bufio.NewReader(in)
	line, err := r.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read order: %w", err)
	}
	var o floorOrder
	if err := json.Unmarshal(line, &o); err != nil {
		return fmt.Errorf("understand order: %w", err)
	}
	f, err := newFloor(o)
	if err != nil {
		return err
	}
	defer f.close()
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return err
	}
	if _, err := r.ReadBytes('\n'); err != nil {
		return fmt.Errorf("wait for start: %w", err)
	}
	n := f.send()
	if err := json.NewEncoder(out).Encode(floorResult{Packets: n}); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return err
}

// floor sends frames to all destinations: it writes a header, encrypts and sends, and
// does no other work.
type floor struct {
	floorOrder
	conn    *udp.Conn
	plain   *net.UDPConn
	batch   *udp.Batch
	sealers []cipher.AEAD // one per destination, because each subscriber has its own keys
	payload []byte
	seq     uint16
	iv      [12]byte
	buf     []byte
}

func newFloor(o floorOrder) (*floor, error) {
	f := &floor{floorOrder: o, payload: make([]byte, o.Len), buf: make([]byte, rtpHeader+o.Len+gcmTag)}
	if _, err := rand.Read(f.payload); err != nil {
		return nil, err
	}
	for range o.Destinations {
		key := make([]byte, 16)
		if _, err := rand.Read(key); err != nil {
			return nil, err
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, err
		}
		f.sealers = append(f.sealers, aead)
	}
	if o.Offload {
		conn, err := udp.Listen(udp.Config{Addr: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, err
		}
		f.conn, f.batch = conn, conn.NewBatch()
		return f, nil
	}
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f.plain = pc.(*net.UDPConn)
	return f, f.plain.SetWriteBuffer(udp.DefaultBuffer)
}

func (f *floor) close() {
	if f.conn != nil {
		_ = f.conn.Close() // the process ends
	}
	if f.plain != nil {
		_ = f.plain.Close() // the process ends
	}
}

// send sends frames for the window, and returns the number of packets.
func (f *floor) send() int {
	frames := int(f.Window.Seconds() * f.FPS)
	ticks := time.NewTicker(time.Duration(float64(time.Second) / f.FPS))
	defer ticks.Stop()
	for range frames {
		<-ticks.C
		f.frame()
	}
	return frames * f.PerFrame * len(f.Destinations)
}

func (f *floor) frame() {
	for i, dst := range f.Destinations {
		for k := range f.PerFrame {
			n := len(f.buf)
			if f.batch == nil {
				f.seal(f.sealers[i], f.buf, f.seq+uint16(k))
				_, _ = f.plain.WriteToUDPAddrPort(f.buf, dst) // a loss is counted at the other end
				continue
			}
			f.seal(f.sealers[i], f.batch.Reserve(n), f.seq+uint16(k))
			f.batch.Commit(dst, n)
		}
	}
	if f.batch != nil {
		f.batch.Flush()
	}
	f.seq += uint16(f.PerFrame)
}

func (f *floor) seal(aead cipher.AEAD, to []byte, seq uint16) {
	to[0], to[1] = 0x80, 96
	binary.BigEndian.PutUint16(to[2:], seq)
	binary.BigEndian.PutUint32(to[4:], uint32(seq)*90)
	binary.BigEndian.PutUint32(to[8:], 0xfeed)
	binary.BigEndian.PutUint16(f.iv[10:], seq)
	aead.Seal(to[rtpHeader:rtpHeader], f.iv[:], f.payload, to[:rtpHeader])
}
