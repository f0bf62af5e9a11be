package media

import (
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// ntp is a time in NTP's 32.32 fixed point seconds.
func ntp(t time.Time) uint64 {
	ns := uint64(t.UnixNano())
	return (ns/1e9+2208988800)<<32 | ns%1e9<<32/1e9
}

// filmed publishes a track of stamped frames: each ends with its time of capture. A track
// of video has two layers, whose timestamps have different offsets, and the higher layer
// is sent two frames later. Each layer has sender reports from the time on that
// reported has for it; zero means never.
type filmed struct {
	c        *client
	sid      string
	rate     int64
	each     time.Duration
	locals   []*webrtc.TrackLocalStaticRTP
	sender   *webrtc.RTPSender
	reported []func() bool
}

func (c *client) film(sid string, reported ...func() bool) *filmed {
	f := &filmed{c: c, sid: sid, rate: 90000, each: 33 * time.Millisecond, reported: reported}
	codec, kind := vp8, livekit.TrackType_VIDEO
	if len(reported) == 1 {
		f.rate, f.each, codec, kind = 48000, 20*time.Millisecond, opus, livekit.TrackType_AUDIO
	}
	for i := range reported {
		var options []func(*webrtc.TrackLocalStaticRTP)
		if kind == livekit.TrackType_VIDEO {
			options = append(options, webrtc.WithRTPStreamID([]string{"q", "f"}[i]))
		}
		local, err := webrtc.NewTrackLocalStaticRTP(codec, "cid-"+sid, "stream-"+sid, options...)
		require.NoError(c.t, err)
		f.locals = append(f.locals, local)
		if i == 0 {
			tr, err := c.pub.AddTransceiverFromTrack(local, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
			require.NoError(c.t, err)
			f.sender = tr.Sender()
		} else {
			require.NoError(c.t, f.sender.AddEncoding(local))
		}
	}
	req := &livekit.AddTrackRequest{Cid: "cid-" + sid, Type: kind}
	info := &livekit.TrackInfo{Sid: sid, Type: kind}
	if kind == livekit.TrackType_VIDEO {
		req.Layers = []*livekit.VideoLayer{
			{Quality: livekit.VideoQuality_LOW, Width: 320, Height: 180}, {Quality: livekit.VideoQuality_HIGH, Width: 1280, Height: 720},
		}
		req.SimulcastCodecs = []*livekit.SimulcastCodec{{Codec: "vp8", Cid: req.Cid}}
		info.Layers, info.Width, info.Height = req.Layers, 1280, 720
	}
	c.announce(req, info)
	return f
}

// roll sends the track until stop.
func (f *filmed) roll(stop chan struct{}) {
	tick := time.NewTicker(f.each)
	defer tick.Stop()
	var captured []time.Time
	numbers := make([]uint16, len(f.locals))
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			captured = append(captured, time.Now()) // a tick's own time may be before that of the tick before
		}
		ids, mid := f.negotiated()
		if mid == "" || f.rate == 90000 && ids[uriRID] == 0 {
			continue
		}
		for n, local := range f.locals {
			i := len(captured) - 1 - 2*n
			if i < 0 {
				continue
			}
			at := captured[i]
			p := &rtp.Packet{Header: rtp.Header{Version: 2, Marker: true, SequenceNumber: numbers[n], Timestamp: f.timestamp(n, at)}}
			if f.rate == 90000 {
				p.Payload = []byte{0x10, 0x00, 0x00, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00, byte(n)} // a key frame
				_ = p.SetExtension(ids[uriRID], []byte(local.RID()))
			} else {
				p.Payload = []byte{0xfc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, byte(n)}
			}
			p.Payload = binary.BigEndian.AppendUint64(p.Payload, uint64(at.UnixNano()))
			_ = p.SetExtension(ids[uriMID], []byte(mid))
			if id := ids[uriAbsCaptureTime]; id != 0 && numbers[n]%30 == 0 {
				_ = p.SetExtension(id, binary.BigEndian.AppendUint64(nil, ntp(at)))
			}
			numbers[n]++
			_ = local.WriteRTP(p)
			if numbers[n]%10 == 0 && f.reported[n]() {
				now := time.Now() // one reading: both times are of the same instant
				_ = f.c.pub.WriteRTCP([]rtcp.Packet{&rtcp.SenderReport{
					SSRC: uint32(f.sender.GetParameters().Encodings[n].SSRC), NTPTime: ntp(now), RTPTime: f.timestamp(n, now),
				}})
			}
		}
	}
}

// timestamp is that of a layer at a time; each layer has an offset of its own.
func (f *filmed) timestamp(layer int, at time.Time) uint32 {
	return uint32(at.UnixMicro()*f.rate/1e6) + uint32(layer+1)*0x50000001
}

func (f *filmed) negotiated() (ids map[string]uint8, mid string) {
	ids = map[string]uint8{}
	for _, e := range f.sender.GetParameters().HeaderExtensions {
		ids[e.URI] = uint8(e.ID)
	}
	for _, tr := range f.c.pub.GetTransceivers() {
		if tr.Sender() == f.sender {
			mid = tr.Mid()
		}
	}
	return ids, mid
}

// projector is a subscriber of a filmed track. It knows when each frame was captured, and
// when that was by the track's sender reports.
type projector struct {
	t    *testing.T
	rate int64

	mu       sync.Mutex // guards the following
	report   *rtcp.SenderReport
	reports  int
	skew     time.Duration // of the last frame that was captured after all before it
	judged   int           // number of frames with a skew
	worst    time.Duration // of these since the last call of since
	layer    byte
	newest   int64
	stepped  time.Duration // largest change of the relation between two reports
	stamped  int           // first frames of a layer with their exact time of capture
	changes  int           // first frames of a layer
	number   uint16        // of the last packet
	lastTime uint32
}

func (p *projector) watch(r remoteTrack) {
	go func() {
		for {
			packets, _, err := r.receiver.ReadRTCP()
			if err != nil {
				return
			}
			for _, packet := range packets {
				if sr, ok := packet.(*rtcp.SenderReport); ok {
					p.take(sr)
				}
			}
		}
	}()
	var id uint8
	for _, x := range r.receiver.GetParameters().HeaderExtensions {
		if x.URI == uriAbsCaptureTime {
			id = uint8(x.ID)
		}
	}
	drain(r.TrackRemote, func(raw []byte) { p.see(raw, id) })
}

// at is the time at which a timestamp was captured by a report.
func (p *projector) at(sr *rtcp.SenderReport, timestamp uint32) float64 {
	return float64(sr.NTPTime)/(1<<32) + float64(int32(timestamp-sr.RTPTime))/float64(p.rate)
}

func (p *projector) take(sr *rtcp.SenderReport) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.report != nil {
		moved := seconds(p.at(sr, sr.RTPTime) - p.at(p.report, sr.RTPTime))
		p.stepped = max(p.stepped, moved.Abs())
	}
	p.report = sr
	p.reports++
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func (p *projector) see(raw []byte, id uint8) {
	var h rtp.Packet
	if h.Unmarshal(raw) != nil || len(h.Payload) < 20 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.newest != 0 && int16(h.SequenceNumber-p.number) <= 0 {
		return // a probe repeats it
	}
	p.number = h.SequenceNumber
	captured := int64(binary.BigEndian.Uint64(h.Payload[12:]))
	if p.newest != 0 && int32(h.Timestamp-p.lastTime) <= 0 {
		p.t.Errorf("a frame has the timestamp %d after %d", h.Timestamp, p.lastTime)
	}
	p.lastTime = h.Timestamp
	if layer := h.Payload[11]; layer != p.layer {
		p.layer = layer
		p.changes++
		var e rtp.AbsCaptureTimeExtension
		if value := h.GetExtension(id); len(value) == 8 && e.Unmarshal(value) == nil && e.CaptureTime().Sub(time.Unix(0, captured)).Abs() < time.Millisecond {
			p.stamped++
		}
	}
	if captured <= p.newest || p.report == nil {
		p.newest = max(p.newest, captured)
		return
	}
	p.newest = captured
	true := float64(ntp(time.Unix(0, captured))) / (1 << 32)
	p.skew = seconds(p.at(p.report, h.Timestamp) - true)
	p.worst = max(p.worst, p.skew.Abs())
	p.judged++
}

// since returns how many frames were judged since the last call, and their worst skew.
func (p *projector) since() (frames int, worst time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	frames, worst = p.judged, p.worst
	p.judged, p.worst = 0, 0
	return frames, worst
}

// A participant's sound and picture are played in sync, by the sender reports, however
// often the layer changes, and after pauses: the frames right after a switch are, and all
// reports say the same. So it is when the reports of a layer come late. Where they never come, the picture
// is off by what the layers differ in their way.
func TestSoundAndPictureStayTogether(t *testing.T) {
	e := newTestEngine(t, nil)
	withCapture := func(m *webrtc.MediaEngine) error {
		if err := m.RegisterDefaultCodecs(); err != nil {
			return err
		}
		return m.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: uriAbsCaptureTime}, webrtc.RTPCodecTypeVideo)
	}
	a := newClient(t, e, clientConfig{sid: "PA_a", codecs: withCapture})
	a.join()
	always, never := func() bool { return true }, func() bool { return false }
	late := make(chan struct{})
	tracks := []*filmed{
		a.film("TR_sound", always),
		a.film("TR_always", always, always),
		a.film("TR_late", always, func() bool {
			select {
			case <-late:
				return true
			default:
				return false
			}
		}),
		a.film("TR_never", always, never),
		a.film("TR_silent", never, never),
	}
	a.offer(false)
	stop := make(chan struct{})
	var rolling sync.WaitGroup
	defer rolling.Wait()
	defer close(stop)
	for _, f := range tracks {
		rolling.Go(func() { f.roll(stop) })
	}
	b := newClient(t, e, clientConfig{sid: "PA_b", codecs: withCapture})
	b.join()
	seen := map[string]*projector{}
	low := rooms.TrackSettings{Width: 320, Height: 180}
	for _, f := range tracks {
		p := &projector{t: t, rate: f.rate}
		seen[f.sid] = p
		b.subscribe("PA_a", a.published(f.sid))
		b.peer.SetTrackSettings([]string{f.sid}, low)
		r := b.receives("PA_a", f.sid)
		go p.watch(r)
	}
	eventually := func(why string, right func(p *projector) bool, sids ...string) {
		t.Helper()
		for _, sid := range sids {
			p := seen[sid]
			require.Eventually(t, func() bool { p.mu.Lock(); defer p.mu.Unlock(); return right(p) }, time.Minute, time.Millisecond, "%s: %s", sid, why)
		}
	}
	all := []string{"TR_always", "TR_late", "TR_never"}
	eventually("it is reported", func(p *projector) bool { return p.reports > 0 }, append(all, "TR_sound")...)
	change := func(s rooms.TrackSettings, layer byte) {
		t.Helper()
		for _, sid := range append(all, "TR_silent") {
			p := seen[sid]
			p.mu.Lock()
			p.judged, p.worst = 0, 0
			p.mu.Unlock()
			b.peer.SetTrackSettings([]string{sid}, s)
		}
		eventually("the layer changes", func(p *projector) bool { return p.layer == layer }, append(all, "TR_silent")...)
	}
	together := func(why string, sids ...string) {
		t.Helper()
		eventually("frames come", func(p *projector) bool { return p.judged > 10 }, sids...)
		for _, sid := range sids {
			_, worst := seen[sid].since()
			require.Less(t, worst, 20*time.Millisecond, "%s: %s", sid, why)
		}
	}
	high := rooms.TrackSettings{Width: 1280, Height: 720}
	change(high, 1)
	together("after a switch up", "TR_always")
	change(low, 0)
	together("after a switch down", "TR_always")
	change(high, 1)
	together("after another switch up", "TR_always", "TR_sound")
	close(late)
	eventually("the reports came", func(p *projector) bool { return p.skew.Abs() < 20*time.Millisecond }, "TR_late")
	change(low, 0)
	together("after the reports came", "TR_always", "TR_late")
	change(high, 1)
	together("the reports are known", "TR_always", "TR_late", "TR_sound")
	// A track that is not shown for a while, and one that is muted, come back in step, in the
	// same layer or in another one.
	for _, step := range []struct {
		mute     bool
		settings rooms.TrackSettings
		layer    byte
	}{{false, low, 0}, {true, low, 0}, {false, high, 1}, {false, high, 1}, {true, low, 0}} {
		for _, sid := range all {
			if step.mute {
				a.setMuted(sid, true)
			} else {
				b.peer.SetTrackSettings([]string{sid}, rooms.TrackSettings{Disabled: true})
			}
		}
		seen["TR_sound"].since()
		eventually("a second passes", func(p *projector) bool { return p.judged > 60 }, "TR_sound")
		for _, sid := range all {
			if step.mute {
				a.setMuted(sid, false)
			}
		}
		change(step.settings, step.layer)
		together(fmt.Sprintf("after a pause, muted %v, layer %d", step.mute, step.layer), "TR_always", "TR_late", "TR_sound")
	}
	for sid, p := range seen {
		p.mu.Lock()
		if sid == "TR_silent" {
			require.Zero(t, p.reports, "nothing is known")
		}
		require.Less(t, p.stepped, 2*time.Millisecond, "%s: reports say the same", sid)
		require.Equal(t, p.changes, p.stamped, "%s: the time of capture is there with a layer's first frame", sid)
		p.mu.Unlock()
	}
}
