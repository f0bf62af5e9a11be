package main

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
)

// publication is a track that looks like a camera's VP8 to a receiver that does not
// decode it.
type publication struct {
	perFrame, payload int
	interval          time.Duration
	track             *webrtc.TrackLocalStaticRTP

	keyframe atomic.Bool // a keyframe is wanted
	sent     atomic.Int64
	rtcp     sync.WaitGroup

	// The sending goroutine owns the following.
	seq     uint16
	ts      uint32
	picture uint16
}

func newPublication(s settings) (*publication, error) {
	t, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{
		MimeType: webrtc.MimeTypeVP8, ClockRate: 90000,
	}, "camera", "bench")
	return &publication{
		perFrame: s.perFrame, payload: s.payload, track: t,
		interval: time.Duration(float64(time.Second) / s.fps),
	}, err
}

func (p *publication) requests() []*livekit.AddTrackRequest {
	return []*livekit.AddTrackRequest{{
		Cid: p.track.ID(), Name: "camera", Type: livekit.TrackType_VIDEO, Source: livekit.TrackSource_CAMERA,
		Width: 1280, Height: 720,
		Layers: []*livekit.VideoLayer{{Quality: livekit.VideoQuality_HIGH, Width: 1280, Height: 720}},
	}}
}

// addTo adds the track, and listens for keyframe requests until pc is closed.
func (p *publication) addTo(pc *webrtc.PeerConnection) error {
	sender, err := pc.AddTrack(p.track)
	if err != nil {
		return err
	}
	p.rtcp.Go(func() {
		for {
			packets, _, err := sender.ReadRTCP()
			if err != nil {
				return
			}
			for _, k := range packets {
				switch k.(type) {
				case *rtcp.PictureLossIndication, *rtcp.FullIntraRequest:
					p.keyframe.Store(true)
				}
			}
		}
	})
	return nil
}

// run sends frames until ctx ends.
func (p *publication) run(ctx context.Context) {
	ticks := time.NewTicker(p.interval)
	defer ticks.Stop()
	p.keyframe.Store(true)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
			p.frame()
		}
	}
}

// frame sends the packets of one frame at once, each of full size.
func (p *publication) frame() {
	key := p.keyframe.Swap(false)
	p.picture = (p.picture + 1) & 0x7fff
	p.ts += uint32(p.interval.Seconds() * 90000)
	for i := range p.perFrame {
		p.seq++
		h := rtp.Header{
			Version: 2, SequenceNumber: p.seq, Timestamp: p.ts, Marker: i == p.perFrame-1,
		}
		err := p.track.WriteRTP(&rtp.Packet{Header: h, Payload: p.body(i == 0, key)})
		if err == nil {
			p.sent.Add(1)
		}
	}
}

// body is a payload: the descriptor (RFC 7741, section 4.2) with a 15-bit picture id, and
// in the first packet of a frame the frame's tag (RFC 6386, section 9.1).
func (p *publication) body(first, key bool) []byte {
	b := make([]byte, p.payload)
	b[0], b[1] = 0x80, 0x80
	binary.BigEndian.PutUint16(b[2:], 0x8000|p.picture)
	if !first {
		return b
	}
	b[0] |= 0x10 // start of a partition
	b[4] = 0x11  // an inter frame with show_frame set
	if key {
		copy(b[4:], []byte{0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x00, 0x05, 0xd0, 0x02}) // 1280 x 720
	}
	return b
}
