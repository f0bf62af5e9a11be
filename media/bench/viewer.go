package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"parlor/media/downlink/sent"
	"parlor/media/forward/modelreceiver"
)

// viewer has the receivers of one subscriber.
type viewer struct {
	client *client
	want   int
	ready  chan struct{} // closed when all videos are shown

	mu     sync.Mutex // guards the following
	videos []*video
	voices []*voice
	closed bool
	bits   float64 // of RTP in this phase
}

// video is one receiver of video. The viewer's lock guards it.
type video struct {
	model  *modelreceiver.Receiver
	before time.Time // when the last frame before this phase was decoded
	heard  bool
}

// voice counts the packets of one stream of sound. The viewer's lock guards it.
type voice struct {
	first, newest int64 // unwrapped sequence numbers; first of this phase
	came          int64 // in this phase
	started       bool
}

func newViewer(videos int) *viewer { return &viewer{want: videos, ready: make(chan struct{})} }

// waitShown waits until a frame of each video has been decoded.
func (v *viewer) waitShown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	select {
	case <-v.ready:
		return nil
	case err := <-v.client.failed:
		return fmt.Errorf("%s: %w", v.client.identity, err)
	case <-ctx.Done():
		return fmt.Errorf("%s is not shown all videos: %w", v.client.identity, ctx.Err())
	}
}

// watch reads a track until it ends.
func (v *viewer) watch(t *webrtc.TrackRemote, r *webrtc.RTPReceiver) {
	v.client.ended.Go(func() {
		buf := make([]byte, 2048)
		for {
			if _, _, err := r.Read(buf); err != nil { // RTCP must be read for the interceptors
				return
			}
		}
	})
	write, stop := v.listen(t), func() {}
	if t.Kind() == webrtc.RTPCodecTypeVideo {
		write, stop = v.show(t)
	}
	defer stop()
	for {
		p, _, err := t.ReadRTP()
		if err != nil {
			return
		}
		v.mu.Lock()
		v.bits += float64(8 * (rtpHeader + len(p.Payload)))
		v.mu.Unlock()
		write(p)
	}
}

// listen counts the packets of an audio track.
func (v *viewer) listen(*webrtc.TrackRemote) func(*rtp.Packet) {
	sound := &voice{}
	v.mu.Lock()
	v.voices = append(v.voices, sound)
	v.mu.Unlock()
	return func(p *rtp.Packet) {
		if len(p.Payload) == 0 {
			return
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		n := sound.newest + int64(int16(p.SequenceNumber-uint16(sound.newest)))
		if !sound.started {
			n = int64(p.SequenceNumber)
			sound.started, sound.first, sound.newest = true, n, n-1
		}
		sound.newest = max(sound.newest, n)
		if n >= sound.first {
			sound.came++
		}
	}
}

// show gives the packets of a video to a model receiver, until stop is called.
func (v *viewer) show(t *webrtc.TrackRemote) (write func(*rtp.Packet), stop func()) {
	one := &video{}
	one.model = modelreceiver.New(modelreceiver.Config{
		SSRC: uint32(t.SSRC()), Codecs: map[uint8]string{uint8(t.PayloadType()): t.Codec().MimeType}, Now: time.Now,
		AskForKey: func() {
			_ = v.client.sub.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: uint32(t.SSRC())}}) // on failure it asks again
		},
	})
	v.mu.Lock()
	v.videos = append(v.videos, one)
	v.mu.Unlock()
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticks := time.NewTicker(20 * time.Millisecond)
		defer ticks.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticks.C:
				v.mu.Lock()
				one.model.Tick()
				v.lookLocked(one)
				v.mu.Unlock()
			}
		}
	}()
	return func(p *rtp.Packet) {
			v.mu.Lock()
			defer v.mu.Unlock()
			_ = one.model.Write(&p.Header, p.Payload, sent.Video) // an SSRC other than the track's does not occur
		}, func() {
			close(done)
			<-ended
		}
}

// lookLocked notes whether all videos are shown.
func (v *viewer) lookLocked(one *video) {
	if one.heard || v.closed {
		return
	}
	one.heard = slices.ContainsFunc(one.model.Frames(), func(f modelreceiver.Frame) bool { return !f.Decoded.IsZero() })
	shown := 0
	for _, o := range v.videos {
		if o.heard {
			shown++
		}
	}
	if shown == v.want {
		v.closed = true
		close(v.ready)
	}
}

// took returns the bits received in this phase.
func (v *viewer) took() float64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.bits
}

// begin starts a phase.
func (v *viewer) begin() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bits = 0
	for _, s := range v.voices {
		s.first, s.came = s.newest+1, 0
	}
	for _, o := range v.videos {
		for _, f := range o.model.Frames() {
			if f.Decoded.After(o.before) {
				o.before = f.Decoded
			}
		}
	}
}

// end adds to r what was received in a phase.
func (v *viewer) end(from, to time.Time, r *result) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var expected, came int64
	for _, s := range v.voices {
		expected, came = expected+max(s.newest-s.first+1, 0), came+s.came
	}
	if expected > 0 {
		r.missing += max(1-float64(came)/float64(expected), 0)
	}
	var heights []int
	for _, o := range v.videos {
		heights = append(heights, o.end(from, to, r)...)
	}
	slices.Sort(heights)
	if n := len(heights); n > 0 {
		r.height = heights[n/2]
	}
}

// A picture counts as frozen if the next one comes frozenTimes later than usual, and at
// least frozenAfter late.
const (
	frozenTimes = 3
	frozenAfter = 150 * time.Millisecond
)

// end adds to r the result of one video, and returns the heights of the frames in the
// second half.
func (o *video) end(from, to time.Time, r *result) (heights []int) {
	frames := slices.DeleteFunc(o.model.Frames(), func(f modelreceiver.Frame) bool { return f.Decoded.IsZero() })
	slices.SortFunc(frames, func(a, b modelreceiver.Frame) int { return a.Decoded.Compare(b.Decoded) })
	height, usual, last, shown := 0, cameraInterval, o.before, 0
	gap := func(d time.Duration) {
		if d > max(frozenTimes*usual, usual+frozenAfter) {
			r.freezes++
			r.frozen += d
		}
		usual += (min(d, 500*time.Millisecond) - usual) / 16
	}
	for _, f := range frames {
		if h := heightOf(f.Payloads()[0]); f.Key && h > 0 {
			height = h
		}
		if !f.Decoded.After(from) {
			continue
		}
		shown++
		gap(f.Decoded.Sub(last))
		last = f.Decoded
		if f.Decoded.After(from.Add(to.Sub(from) / 2)) {
			heights = append(heights, height)
		}
	}
	gap(to.Sub(last))
	r.fps += float64(shown) / to.Sub(from).Seconds()
	return heights
}

// heightOf is the height in the first packet of a VP8 keyframe; 0 if there is none (RFC
// 7741, section 4.2; RFC 6386, section 9.1).
func heightOf(payload []byte) int {
	for i := 0; i+10 <= min(len(payload), 20); i++ {
		if payload[i+3] == 0x9d && payload[i+4] == 0x01 && payload[i+5] == 0x2a {
			return int(binary.LittleEndian.Uint16(payload[i+8:]) & 0x3fff)
		}
	}
	return 0
}
