package forward

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink"
	"parlor/media/downlink/allocate"
	"parlor/media/downlink/feedback"
	record "parlor/media/downlink/sent"
	"parlor/media/forward/vp8"
)

// bottleneck is a path of a bitrate, with a queue of at most 300 ms and 20 ms each way, and
// the receiver behind it.
type bottleneck struct {
	path  *downlink.Path
	epoch time.Time

	mu       sync.Mutex // guards the following
	rate     float64    // bits/s
	free     time.Time  // when its queue is empty
	arrivals map[int64]time.Time
	last     int64 // highest transport-wide number that was sent, and that was reported
	reported int64
	reports  uint8

	queues                   []time.Duration // that packets met
	shown                    []shown
	next                     uint16 // number of the picture's next packet
	shows                    bool   // nothing that the picture needs is missing
	soundLost, sound, videos int
}

// shown is when a picture could be shown, and of which layer it is.
type shown struct {
	at    time.Time
	layer byte
}

func (b *bottleneck) Write(h *rtp.Header, payload []byte, kind record.Kind) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.free.Before(now) {
		b.free = now
	}
	queue := b.free.Sub(now)
	lost := queue > 300*time.Millisecond
	b.queues = append(b.queues, queue)
	n := int64(-1)
	if e := h.GetExtension(3); len(e) == 2 {
		n = b.last + int64(int16(uint16(e[0])<<8|uint16(e[1])-uint16(b.last)))
		b.last = max(b.last, n)
	}
	if !lost {
		b.free = b.free.Add(time.Duration(float64(len(payload)+40+int(h.PaddingSize)) * 8 / b.rate * 1e9))
		if n >= 0 {
			b.arrivals[n] = b.free.Add(20 * time.Millisecond)
		}
	}
	switch {
	case kind == record.Audio:
		b.sound++
		if lost {
			b.soundLost++
		}
	case kind == record.Video && len(payload) > 6:
		b.videos++
		if payload[0]&0x10 != 0 && payload[6]&1 == 0 {
			b.shows = true
		} else if h.SequenceNumber != b.next {
			b.shows = false
		}
		b.next = h.SequenceNumber + 1
		if b.shows = b.shows && !lost; b.shows && h.Marker {
			b.shown = append(b.shown, shown{b.free.Add(20 * time.Millisecond), payload[11]})
		}
	}
	return nil
}

func (b *bottleneck) Flush()                        {}
func (b *bottleneck) WriteRTCP([]rtcp.Packet) error { return nil }
func (b *bottleneck) End()                          {}

// report is the receiver's transport-wide feedback.
func (b *bottleneck) report() {
	b.mu.Lock()
	now := time.Now().Add(-20 * time.Millisecond)
	first, last := int64(-1), int64(-1)
	for n, at := range b.arrivals {
		if !at.After(now) && n > b.reported {
			last = max(last, n)
			if first < 0 || n < first {
				first = n
			}
		}
	}
	if last < 0 {
		b.mu.Unlock()
		return
	}
	reference := int64(b.arrivals[first].Sub(b.epoch)) / int64(64*time.Millisecond)
	r := feedback.Report{Base: uint16(b.reported + 1), Reference: uint32(reference), Count: b.reports}
	b.reports++
	for n := b.reported + 1; n <= last; n++ {
		at, came := b.arrivals[n]
		if !came || at.After(now) {
			r.Arrivals = append(r.Arrivals, feedback.NotReceived)
			continue
		}
		r.Arrivals = append(r.Arrivals, int32((int64(at.Sub(b.epoch))-reference*int64(64*time.Millisecond))/int64(250*time.Microsecond)))
		delete(b.arrivals, n)
	}
	b.reported = last
	b.mu.Unlock()
	b.path.Feedback(r.Append(nil, 1, 2))
}

// call is a camera of three layers and a microphone, with a subscriber behind a bottleneck.
type call struct {
	link   *bottleneck
	track  *Track
	camera *Forwarder
	layers [3]*sender
	sends  [3]bool
	voice  *sender
	backup *sender    // of another codec; nil = none
	owed   [3]float64 // bytes that a keyframe has cost more, which the frames after it save
	keys   int
	frames int

	temporal uint8 // the highest temporal layer
}

var callRates = [3]float64{150_000, 400_000, 1_500_000}

func newCall(t *testing.T, rate float64) *call {
	path := downlink.New(emptyTransport{})
	path.Connected()
	c := &call{
		link:  &bottleneck{path: path, rate: rate, epoch: time.Now().Add(-time.Minute), arrivals: map[int64]time.Time{}},
		sends: [3]bool{true, true, true},
	}
	var q, h, f *sender
	c.track, q, h, f = simulcast(t)
	c.layers = [3]*sender{q, h, f}
	c.camera = c.track.AddForwarder(ForwarderConfig{
		SubscriberSID: "PA_s", SSRC: 5000, RTXSSRC: 5001, Codec: vp8Config(), Ext: Extensions{TransportCC: 3},
		Backup: backupConfig(), Output: c.link, Downlink: path,
	})
	voice := newTestTrack(t, livekit.TrackType_AUDIO, opusConfig())
	c.voice = newSender(voice, 9, opusConfig(), "", 0)
	voice.AddForwarder(ForwarderConfig{SubscriberSID: "PA_s", SSRC: 6000, Codec: opusConfig(), Ext: Extensions{TransportCC: 3}, Output: c.link, Downlink: path})
	return c
}

func backupConfig() Codec {
	return Codec{MimeType: "video/H264", ClockRate: 90000, PayloadType: 102, RTXPayloadType: 103}
}

// emptyTransport is the transport of a path whose streams have their own outputs.
type emptyTransport struct{}

func (emptyTransport) Flush()                        {}
func (emptyTransport) WriteRTCP([]rtcp.Packet) error { return nil }

// run lets the call go on.
func (c *call) run(length time.Duration) {
	end := time.Now().Add(length)
	sound, picture, report := time.Now(), time.Now(), time.Now()
	for ; time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		now := time.Now()
		if !now.Before(sound) {
			c.voice.layer.WriteRTP(c.voice.packet(false, make([]byte, 60)), now)
			c.voice.ts += 960
			sound = sound.Add(20 * time.Millisecond)
		}
		if !now.Before(picture) {
			picture = picture.Add(frame)
			c.picture(now)
		}
		if !now.Before(report) {
			c.link.report()
			report = report.Add(60 * time.Millisecond)
		}
	}
	synctest.Wait()
}

// picture sends a frame of each layer.
func (c *call) picture(now time.Time) {
	if s := c.backup; s != nil {
		s.layer.WriteRTP(s.packet(true, append([]byte{0x65}, make([]byte, 300)...)), now) // IDR
		s.ts += 3000
	}
	c.frames++
	for i, s := range c.layers {
		key := count[*rtcp.PictureLossIndication](s.rtcp.take()) > 0
		if !c.sends[i] || c.track.muted.Load() {
			continue
		}
		mean := callRates[i] / 8 * frame.Seconds()
		size := mean - min(c.owed[i], 0.3*mean)
		c.owed[i] -= mean - size
		if key {
			c.keys++
			s.key++
			size = 8 * mean
			c.owed[i] += 7 * mean
		}
		tid := uint8(0)
		if !key {
			tid = min([]uint8{0, 2, 1, 2}[c.frames%4], c.temporal)
		}
		if tid == 0 {
			s.tl0++
		}
		packets := int(size)/1000 + 1
		for k := range packets {
			payload := s.vp8Payload(k == 0, key, tid, int(size)/packets)
			payload[11] = byte(i)
			if tid > 0 {
				payload[5] |= 0x20 // it needs the lowest temporal layer alone
			}
			s.layer.WriteRTP(s.packet(k == packets-1, payload), now)
		}
		s.pic++
		s.ts += 3000
	}
}

// outcome is what a subscriber saw.
type outcome struct {
	queue     time.Duration // which 95 of 100 packets did not exceed
	deepest   time.Duration
	frozen    time.Duration // in pauses of more than 150 ms
	first     time.Duration // until the first picture
	highest   byte          // layer of the last picture
	since     time.Duration // until it came for good
	changes   int           // of layer
	soundLost int
	keys      int
	overdue   uint64
}

func (o outcome) String() string {
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("queue p95 %v, deepest %v, frozen %v, first picture %v, layer %d after %v, changes %d, sound lost %d, keyframes %d, overdue %d",
		ms(o.queue), ms(o.deepest), ms(o.frozen), ms(o.first), o.highest, ms(o.since), o.changes, o.soundLost, o.keys, o.overdue)
}

// watch lets the call go on, and says what the subscriber saw.
func (c *call) watch(length time.Duration) (o outcome) {
	l := c.link
	l.mu.Lock()
	l.queues, l.shown, l.soundLost = nil, nil, 0
	l.mu.Unlock()
	c.keys = 0
	begin, overdue := time.Now(), c.camera.Stats().Overdue
	c.run(length)
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.queues)
	o.queue, o.deepest = l.queues[len(l.queues)*95/100], l.queues[len(l.queues)-1]
	o.soundLost, o.keys, o.overdue = l.soundLost, c.keys, c.camera.Stats().Overdue-overdue
	for i, p := range l.shown {
		if i > 0 && p.layer != l.shown[i-1].layer {
			o.changes++
		}
		if i == 0 || p.layer != l.shown[i-1].layer {
			o.highest, o.since = p.layer, p.at.Sub(begin)
		}
		next := time.Now()
		if i+1 < len(l.shown) {
			next = l.shown[i+1].at
		}
		if gap := next.Sub(p.at); gap > 150*time.Millisecond {
			o.frozen += gap
		}
	}
	if len(l.shown) > 0 {
		o.first = l.shown[0].at.Sub(begin)
	}
	return o
}

// ways are those in which a video, or more of it, begins again.
var ways = []struct {
	name          string
	picture       bool // one stays meanwhile
	rests, begins func(c *call)
}{
	{"unmuted", false, func(c *call) { c.track.SetMuted(true) }, func(c *call) { c.track.SetMuted(false) }},
	{"sent again", true, func(c *call) { c.sends[2] = false }, func(c *call) { c.sends[2] = true }},
	{"shown again", false, func(c *call) { c.camera.SetSettings(Settings{Disabled: true}) }, func(c *call) {
		c.camera.SetSettings(Settings{Quality: livekit.VideoQuality_HIGH})
	}},
	{"shown larger", true, func(c *call) { c.camera.SetSettings(Settings{Width: 320, Height: 180}) }, func(c *call) {
		c.camera.SetSettings(Settings{Width: 1280, Height: 720})
	}},
	{"of the first codec again", false, func(c *call) {
		c.track.cfg.RegressBelow = 10
		c.backup = newSender(c.track, 7, backupConfig(), "", livekit.VideoQuality_LOW)
	}, func(c *call) {
		c.backup.layer.Close()
		c.backup = nil
	}},
	{"of another size", true, func(c *call) {
		c.camera.SetSettings(Settings{Width: 640, Height: 360})
		c.track.SetInfo(cameraInfo(2))
	}, func(c *call) { c.track.SetInfo(cameraInfo(1)) }},
}

// cameraInfo is of a camera with layers of some times the size.
func cameraInfo(times uint32) *livekit.TrackInfo {
	info := &livekit.TrackInfo{}
	for q := range uint32(3) {
		info.Layers = append(info.Layers, &livekit.VideoLayer{
			Quality: livekit.VideoQuality(q), Width: 160 << q * times, Height: 90 << q * times,
		})
	}
	return info
}

// A video that begins again on a narrow path begins with the layer that fits beside the
// sound: no queue, no picture that freezes, no keyframe in vain.
func TestWhatBeginsAgainFits(t *testing.T) {
	for _, way := range ways {
		for _, path := range []struct {
			rate  float64
			layer byte
		}{{300_000, 0}, {600_000, 1}} {
			t.Run(fmt.Sprintf("%s, %.0f kbit/s", way.name, path.rate/1000), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := newCall(t, path.rate)
					c.run(8 * time.Second)
					way.rests(c)
					c.run(12 * time.Second)
					way.begins(c)
					o := c.watch(3 * time.Second)
					t.Log(o)
					require.Zero(t, o.soundLost)
					require.Zero(t, o.overdue)
					require.Less(t, o.deepest, 130*time.Millisecond)
					require.Less(t, o.frozen, 250*time.Millisecond, "a keyframe takes as long")
					require.Less(t, o.first, 250*time.Millisecond)
					require.Equal(t, path.layer, o.highest)
					require.LessOrEqual(t, o.keys, 1)
					require.LessOrEqual(t, o.changes, 1)
					if !way.picture {
						require.Zero(t, o.changes)
					}
				})
			})
		}
	}
}

// Where there was room for the highest layer, a video that begins again begins with it, by
// one keyframe. If there is a lower picture meanwhile, a probe may come first.
func TestWhatBeginsAgainIsTheHighestWhereThereIsRoom(t *testing.T) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCall(t, 20_000_000)
				c.run(15 * time.Second)
				way.rests(c)
				c.run(15 * time.Second)
				way.begins(c)
				o := c.watch(3 * time.Second)
				t.Log(o)
				require.EqualValues(t, 2, o.highest)
				require.Equal(t, 1, o.keys)
				if way.picture {
					require.Equal(t, 1, o.changes)
					require.Less(t, o.since, 250*time.Millisecond)
				} else {
					require.Zero(t, o.changes)
					require.Less(t, o.since, 60*time.Millisecond)
				}
			})
		})
	}
}

// counter is a stream of a path that counts how often its bandwidth is divided.
type counter struct {
	downlink.Stream // not used, but for what follows
	divisions       atomic.Int64
	meanwhile       func()      // called during a division
	armed           atomic.Bool // meanwhile is to be called, once
}

func (c *counter) SSRC() uint32                               { return 1 }
func (c *counter) Repair() uint32                             { return 1 }
func (c *counter) Video() bool                                { return true }
func (c *counter) Probes() bool                               { return false }
func (c *counter) Decide(*allocate.Track, *allocate.Decision) {}

func (c *counter) Describe(time.Time) allocate.Track {
	c.divisions.Add(1)
	if c.armed.Swap(false) {
		c.meanwhile()
	}
	return allocate.Track{ID: 1, Most: allocate.None, Now: allocate.None}
}

// A publisher may end a layer and begin it again with each packet. That divides the bandwidth of
// its subscribers a few times at once, and twice a second from then on.
func TestALayerThatBeginsWithEachPacketDividesSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
		s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
		path := downlink.New(emptyTransport{})
		path.Connected()
		newReceiver(track, vp8Config(), func(c *ForwarderConfig) { c.Downlink = path })
		divided := &counter{}
		path.Add(divided, nil, time.Now())
		begins := func(length time.Duration) int {
			s.rtcp.take()
			divided.divisions.Store(0)
			for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(time.Millisecond) {
				s.at = time.Now()
				s.frame(true, 1)
				s.layer.HandleRTCP([]rtcp.Packet{&rtcp.Goodbye{Sources: []uint32{1}}})
			}
			return int(divided.divisions.Load())
		}
		const ticks = 2 // a division in each second, which a subscriber has anyway
		at := begins(time.Second)
		require.InDelta(t, beginsCredit+1+2, at, 1+ticks)
		require.LessOrEqual(t, begins(10*time.Second), 20+10*ticks)
		time.Sleep(10 * time.Second)
		require.Greater(t, begins(time.Second), beginsCredit, "which a layer that begins seldom does each time")
	})
}

// Subscribers who turn to the track's second codec, while that is sent for others, have their
// bandwidth divided with it at once: no layer of it begins, which would.
func TestTurningToABackupCodecThatIsSentDivides(t *testing.T) {
	for _, sent := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
			first := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_MEDIUM)
			backup := newSender(track, 2, backupConfig(), "q", livekit.VideoQuality_LOW)
			path := downlink.New(emptyTransport{})
			path.Connected()
			newReceiver(track, vp8Config(), func(c *ForwarderConfig) { c.Downlink, c.Backup = path, backupConfig() })
			divided := &counter{}
			path.Add(divided, nil, time.Now())
			if sent {
				backup.layer.WriteRTP(backup.packet(true, append([]byte{0x65}, make([]byte, 300)...)), time.Now())
			}
			first.at = time.Now()
			first.frame(true, 1)
			before := divided.divisions.Load()
			track.cfg.RegressBelow = 10
			newSender(track, 3, backupConfig(), "h", livekit.VideoQuality_MEDIUM)
			if sent {
				require.EqualValues(t, 1, divided.divisions.Load()-before)
			} else {
				require.Zero(t, divided.divisions.Load()-before, "the first codec goes on")
			}
		})
	}
}

// Two layers that begin at once, with a keyframe each, are asked for none.
func TestLayersThatBeginAtOnceAreAskedForNoKeyframe(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	low := newSender(track, 1, vp8Config(), "q", livekit.VideoQuality_LOW)
	high := newSender(track, 2, vp8Config(), "f", livekit.VideoQuality_HIGH)
	path := downlink.New(emptyTransport{})
	path.Connected()
	r := newReceiver(track, vp8Config(), func(c *ForwarderConfig) { c.Downlink, c.Ext.TransportCC = path, 3 })
	beginning := func() string {
		r.f.mu.Lock()
		defer r.f.mu.Unlock()
		return fmt.Sprint(r.f.beginning)
	}
	var other sync.WaitGroup
	division := &counter{}
	division.meanwhile = func() { // high has begun, and low begins before the bandwidth is divided
		before := beginning()
		other.Go(func() { low.frame(true, 1) })
		require.Eventually(t, func() bool { return beginning() != before }, time.Minute, time.Millisecond)
	}
	path.Add(division, nil, time.Now())
	path.Tick(time.Now()) // nothing is sent
	division.armed.Store(true)
	high.frame(true, 1)
	other.Wait()
	require.False(t, division.armed.Load())
	require.Zero(t, count[*rtcp.PictureLossIndication](high.rtcp.take()))
	require.Zero(t, count[*rtcp.PictureLossIndication](low.rtcp.take()))
}

// A queue that others make on a path, while nothing but sound is sent on it, says nothing of what
// it carries: the camera comes back as it was.
func TestAQueueBesideSoundAloneLowersNothing(t *testing.T) {
	for _, length := range []time.Duration{200 * time.Millisecond, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			c := newCall(t, 20_000_000)
			c.run(15 * time.Second)
			c.track.SetMuted(true)
			c.run(12 * time.Second)
			var others sync.WaitGroup
			others.Go(func() {
				for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
					c.link.mu.Lock()
					if to := time.Now().Add(150 * time.Millisecond); c.link.free.Before(to) {
						c.link.free = to
					}
					c.link.mu.Unlock()
				}
			})
			c.run(length + 8*time.Second)
			others.Wait()
			c.track.SetMuted(false)
			o := c.watch(5 * time.Second)
			require.EqualValues(t, 2, o.highest, "%v", o)
			require.Less(t, o.since, 200*time.Millisecond, "%v", o)
			require.Zero(t, o.frozen, "%v", o)
		})
	}
}

// A subscriber that asks for a keyframe each second makes the layer dear. It is not taken by
// others who have no room for that, and breaks no picture of theirs.
func TestKeyFramesThatAnotherAsksForBreakNoPicture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCall(t, 1_400_000)
		other := c.track.AddForwarder(ForwarderConfig{
			SubscriberSID: "PA_o", SSRC: 7000, RTXSSRC: 7001, Codec: vp8Config(),
			Output: writes(func(*rtp.Header, []byte) error { return nil }),
		})
		c.run(10 * time.Second)
		var asking sync.WaitGroup
		asking.Go(func() {
			for range 60 {
				other.HandleRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: 7000}})
				time.Sleep(time.Second)
			}
		})
		c.run(10 * time.Second)
		o := c.watch(40 * time.Second)
		require.Less(t, o.frozen, time.Second, "%v", o)
		require.Less(t, o.overdue, uint64(20), "%v", o)
		asking.Wait()
	})
}

// While packets cannot arrive at a subscriber yet, nobody is asked for a keyframe and none is
// forwarded: it would be lost. At the moment they can, one is asked for, and the picture begins
// with it.
func TestThePictureIsAskedForWhenItCanArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
		s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
		path := downlink.New(nil)
		send := func(key bool) {
			s.at = time.Now()
			s.frame(key, 2)
			time.Sleep(frame)
		}
		send(true)
		s.rtcp.take()
		r := newReceiver(track, vp8Config(), func(c *ForwarderConfig) { c.Downlink = path })
		for n := range 40 {
			send(n == 10) // another subscriber has asked for it
		}
		r.f.SetSettings(Settings{Disabled: true})
		r.f.SetSettings(Settings{Quality: livekit.VideoQuality_HIGH})
		require.Zero(t, count[*rtcp.PictureLossIndication](s.rtcp.take()))
		require.Empty(t, r.take())
		require.Zero(t, r.first)
		require.Zero(t, r.f.Stats().WriteErrors)

		path.Connected()
		require.Equal(t, 1, count[*rtcp.PictureLossIndication](s.rtcp.take()), "at once")
		send(false)
		require.Empty(t, r.take())
		send(true)
		send(false)
		got := r.take()
		require.Len(t, got, 4)
		first, ok := vp8.Parse(got[0].Payload)
		require.True(t, ok)
		require.True(t, first.Key && first.Start)
		require.Equal(t, 1, r.first)
		require.Zero(t, count[*rtcp.PictureLossIndication](s.rtcp.take()))
	})
}

// lastLayer is a bottleneck that tells of which layer the last picture was.
type lastLayer struct {
	*bottleneck
	layer atomic.Int32
}

func (l *lastLayer) Write(h *rtp.Header, payload []byte, kind record.Kind) error {
	if kind == record.Video && len(payload) > 11 {
		l.layer.Store(int32(payload[11]))
	}
	return l.bottleneck.Write(h, payload, kind)
}

// Of two pictures on a path that has room for one and the lowest layer of the other, the one
// to which the subscriber gave the lower number is the better one, however large it is.
func TestAPriorityDecidesWhichPictureIsBetter(t *testing.T) {
	const high = livekit.VideoQuality_HIGH
	for _, tt := range []struct {
		settings [2]Settings
		better   int
	}{
		{[2]Settings{{Quality: high, Priority: 1}, {Quality: high, Priority: 2}}, 0},
		{[2]Settings{{Quality: high, Priority: 2}, {Quality: high, Priority: 1}}, 1},
		{[2]Settings{{Quality: high}, {Quality: high, Priority: 1<<32 - 1}}, 1},
		{[2]Settings{{Width: 1280, Height: 720}, {Width: 640, Height: 360, Priority: 5}}, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newCall(t, 800_000)
			c.camera.Close()
			c.track.SetInfo(cameraInfo(2))
			var pictures [2]*lastLayer
			for i := range pictures {
				pictures[i] = &lastLayer{bottleneck: c.link}
				c.track.AddForwarder(ForwarderConfig{
					SubscriberSID: "PA_s", SSRC: 7000 + 2*uint32(i), RTXSSRC: 7001 + 2*uint32(i), Codec: vp8Config(),
					Ext: Extensions{TransportCC: 3}, Output: pictures[i], Downlink: c.link.path,
				}).SetSettings(tt.settings[i])
			}
			c.run(20 * time.Second)
			require.EqualValues(t, 1, pictures[tt.better].layer.Load(), "%+v", tt.settings)
			require.EqualValues(t, 0, pictures[1-tt.better].layer.Load(), "%+v", tt.settings)
		})
	}
}

// Where a subscriber wants a lower layer than the publisher sends, it gets as many frames of
// the one that there is as its path carries.
func TestAHigherLayerThanWantedFits(t *testing.T) {
	for _, tt := range []struct {
		rate   float64
		frames int // a second
	}{{3_000_000, 30}, {1_000_000, 15}, {600_000, 7}} {
		synctest.Test(t, func(t *testing.T) {
			c := newCall(t, tt.rate)
			c.temporal, c.sends = 2, [3]bool{false, false, true}
			c.camera.SetSettings(Settings{Quality: livekit.VideoQuality_LOW})
			c.run(20 * time.Second)
			before := c.link.videos
			o := c.watch(10 * time.Second)
			t.Log(o)
			require.Zero(t, o.soundLost)
			require.Less(t, o.deepest, 130*time.Millisecond)
			const packets = 7 // of a frame
			require.InDelta(t, 10*packets*tt.frames, c.link.videos-before, 160)
		})
	}
}
