package conformance

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"
	"github.com/stretchr/testify/require"
)

// Every frame that a test sends fits one packet and has a stamp: its layer and number. An
// SFU must deliver the stamp unchanged, and advance sequence numbers and timestamps with
// it.

const (
	stampMagic  = "PARLOR"
	stampLength = len(stampMagic) + 1 + 8
)

type stamp struct {
	layer  byte // 'q', 'h' or 'f'
	number uint32
}

// bytes are printable, so that no codec's start code can occur in them.
func (s stamp) bytes() []byte { return fmt.Appendf(nil, "%s%c%08x", stampMagic, s.layer, s.number) }

func findStamp(payload []byte) (stamp, bool) {
	_, rest, found := bytes.Cut(payload, []byte(stampMagic))
	if !found || len(rest) < 9 {
		return stamp{}, false
	}
	number, err := strconv.ParseUint(string(rest[1:9]), 16, 32)
	return stamp{layer: rest[0], number: uint32(number)}, err == nil
}

// codec makes frames that an SFU accepts as real ones.
type codec struct {
	capability webrtc.RTPCodecCapability
	interval   time.Duration
	frame      func(s stamp, key bool) []byte
}

var (
	opus = codec{
		capability: webrtc.RTPCodecCapability{
			MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2,
			SDPFmtpLine: "minptime=10;useinbandfec=1",
		},
		interval: 20 * time.Millisecond,
		frame:    func(s stamp, _ bool) []byte { return append([]byte{0x78}, s.bytes()...) },
	}
	pcmu = codec{
		capability: webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypePCMU, ClockRate: 8000},
		interval:   20 * time.Millisecond,
		frame:      func(s stamp, _ bool) []byte { return pad(s.bytes(), 160) },
	}
	pcma = codec{
		capability: webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypePCMA, ClockRate: 8000},
		interval:   20 * time.Millisecond,
		frame:      func(s stamp, _ bool) []byte { return pad(s.bytes(), 160) },
	}
	vp8 = codec{
		capability: webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000},
		interval:   33 * time.Millisecond,
		frame:      vp8Frame,
	}
	vp9 = codec{
		capability: webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP9, ClockRate: 90000, SDPFmtpLine: "profile-id=0"},
		interval:   33 * time.Millisecond,
		frame:      vp9Frame,
	}
	h264 = codec{
		capability: webrtc.RTPCodecCapability{
			MimeType: webrtc.MimeTypeH264, ClockRate: 90000,
			SDPFmtpLine: "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
		},
		interval: 33 * time.Millisecond,
		frame:    h264Frame,
	}
	av1 = codec{
		capability: webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeAV1, ClockRate: 90000},
		interval:   33 * time.Millisecond,
		frame:      av1Frame,
	}
)

func (c codec) audio() bool { return c.interval == 20*time.Millisecond }

func pad(b []byte, to int) []byte {
	return append(b, bytes.Repeat([]byte{0x55}, max(0, to-len(b)))...)
}

// vp8Frame has the frame header of RFC 6386, section 9.1.
func vp8Frame(s stamp, key bool) []byte {
	if !key {
		return append([]byte{0x11, 0x02, 0x00}, s.bytes()...)
	}
	head := []byte{0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a}
	head = binary.LittleEndian.AppendUint16(head, 320)
	head = binary.LittleEndian.AppendUint16(head, 180)
	return append(head, s.bytes()...)
}

// vp9Frame has the uncompressed header of a profile 0 frame: marker, profile, frame type;
// and in a keyframe sync code, colour and size.
func vp9Frame(s stamp, key bool) []byte {
	if !key {
		return append([]byte{0x86, 0x00, 0x40}, s.bytes()...)
	}
	// colour space 1 (3 bits), range (1 bit), width-1 and height-1 (16 bits each)
	size := uint64(1)<<33 | uint64(320-1)<<16 | uint64(180-1)
	head := []byte{0x82, 0x49, 0x83, 0x42}
	head = append(head, byte(size>>28), byte(size>>20), byte(size>>12), byte(size>>4), byte(size<<4))
	return append(head, s.bytes()...)
}

// h264Frame is an access unit in Annex B form. A keyframe has its parameter sets before
// it. The IDR slice is long enough not to be aggregated with them.
func h264Frame(s stamp, key bool) []byte {
	start := []byte{0, 0, 0, 1}
	if !key {
		return append(append(start, 0x41, 0x9a), s.bytes()...)
	}
	var unit []byte
	for _, nal := range [][]byte{
		{0x67, 0x42, 0xe0, 0x1f, 0xda, 0x05, 0x07, 0xec, 0x04, 0x40}, // SPS
		{0x68, 0xce, 0x38, 0x80},                                     // PPS
		append([]byte{0x65, 0x88, 0x84}, s.bytes()...),               // IDR
	} {
		unit = append(append(unit, start...), nal...)
	}
	return unit
}

// av1Frame is a temporal unit: a sequence header before each key frame, then a
// frame OBU, both with a size field.
func av1Frame(s stamp, key bool) []byte {
	var unit []byte
	if key {
		sequence := []byte{0x00, 0x00, 0x00, 0x02, 0xaf, 0xff, 0x9b, 0x5f, 0x30, 0x08}
		unit = append([]byte{1<<3 | 2, byte(len(sequence))}, sequence...)
	}
	body := append([]byte{0x10, 0x00}, s.bytes()...)
	if !key {
		body[0] = 0x30
	}
	return append(append(unit, 6<<3|2, byte(len(body))), body...)
}

// source is a local track, and the goroutine that writes it.
type source struct {
	codec codec
	layer byte
	track *lksdk.LocalTrack

	quit chan struct{}
	wg   sync.WaitGroup
	once sync.Once
}

// newSource makes a track that sends from the time at which the SDK binds it until stop.
// layer is nil for a track without simulcast.
func newSource(t *testing.T, c codec, options ...lksdk.LocalTrackOptions) *source {
	t.Helper()
	return newLayerSource(t, c, 'f', options...)
}

func newLayerSource(t *testing.T, c codec, layer byte, options ...lksdk.LocalTrackOptions) *source {
	t.Helper()
	s := newIdleSource(t, c, layer, options...)
	s.start(t)
	return s
}

// newIdleSource makes a track that sends nothing before start.
func newIdleSource(t *testing.T, c codec, layer byte, options ...lksdk.LocalTrackOptions) *source {
	t.Helper()
	track, err := lksdk.NewLocalTrack(c.capability, options...)
	require.NoError(t, err)
	return &source{codec: c, layer: layer, track: track, quit: make(chan struct{})}
}

// start begins to send, until stop or the end of the test.
func (s *source) start(t *testing.T) {
	s.wg.Go(s.run)
	t.Cleanup(s.stop)
}

// run sends a frame per interval; every eighth is a keyframe. Frames written before the
// track is bound are lost, as the SDK documents.
func (s *source) run() {
	tick := time.NewTicker(s.codec.interval)
	defer tick.Stop()
	level := uint8(15) // dB below full scale: a loud voice
	for number := uint32(0); ; number++ {
		select {
		case <-s.quit:
			return
		case <-tick.C:
		}
		frame := s.codec.frame(stamp{s.layer, number}, number%8 == 0)
		// An error means that the connection is closing; only the receiving side is
		// tested.
		_ = s.track.WriteSample(
			media.Sample{Data: frame, Duration: s.codec.interval}, &lksdk.SampleWriteOptions{AudioLevel: &level})
	}
}

// stop ends the source. It may be called again.
func (s *source) stop() {
	s.once.Do(func() { close(s.quit) })
	s.wg.Wait()
}

// simulcast returns three sources that make one track in three sizes.
func simulcast(t *testing.T, c codec) []*source {
	t.Helper()
	id := fmt.Sprintf("simulcast-%d", time.Now().UnixNano())
	var sources []*source
	for _, l := range []struct {
		layer   byte
		quality livekit.VideoQuality
		w, h    uint32
	}{
		{'q', livekit.VideoQuality_LOW, 320, 180},
		{'h', livekit.VideoQuality_MEDIUM, 640, 360},
		{'f', livekit.VideoQuality_HIGH, 1280, 720},
	} {
		sources = append(sources, newLayerSource(t, c, l.layer,
			lksdk.WithSimulcast(id, &livekit.VideoLayer{Quality: l.quality, Width: l.w, Height: l.h, Bitrate: l.w * 1000})))
	}
	return sources
}
