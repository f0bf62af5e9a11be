package forward

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink"
	record "parlor/media/downlink/sent"
	"parlor/media/forward/dd"
	"parlor/media/forward/modelreceiver"
	"parlor/media/forward/packet"
	"parlor/media/forward/recording"
	"parlor/media/forward/vp8"
	"parlor/media/forward/vp9"
)

// tape is a recording of Chromium's packets, ready to be sent to a track.
type tape struct {
	*recording.Recording
	name    string
	codec   Codec
	packets []taped
	short   func(id uint16) bool // which picture ids have 7 bits; nil: none
	first   uint16               // about the first picture id
}

// taped is a packet of a tape, with the publisher's knowledge of it.
type taped struct {
	recording.Packet
	layer      int
	p          *packet.Packet // nil for RTCP
	key, start bool           // at the beginning of a keyframe
	end        bool           // of a frame
	seq        int64          // unwrapped
	frame      int            // index of its frame in the tape
	whole      []byte         // like Raw, but with picture ids of 15 bits; nil: Raw has these
}

const loadedTop = livekit.VideoQuality_HIGH

// loadTape reads a recording and finds its frames.
func loadTape(t testing.TB, name string) *tape {
	t.Helper()
	file, ids, made := strings.Cut(name, "+")
	r, err := recording.Read(filepath.Join("testdata", "recordings", file+".rtp.gz"))
	require.NoError(t, err)
	if made {
		withPictureIDs(t, r, strings.HasSuffix(file, "temporal"))
	}
	tp := &tape{Recording: r, name: name, codec: Codec{
		MimeType: r.MimeType, ClockRate: 90000, Fmtp: r.Fmtp, PayloadType: r.PayloadType, RTXPayloadType: r.PayloadType + 1,
	}}
	switch ids {
	case "7":
		tp.short = func(uint16) bool { return true }
	case "grows":
		tp.short, tp.first = func(id uint16) bool { return id < 128 }, 124
	}
	track := NewTrack(TrackConfig{Kind: livekit.TrackType_VIDEO, Codec: tp.codec})
	defer track.Close()
	layers := make([]*Layer, len(r.Layers))
	for i := range layers {
		layers[i] = newLayer(track, LayerConfig{Codec: tp.codec, Ext: tp.extensions()}, uint8(i))
	}
	newest := make([]int64, len(r.Layers))
	frames := map[string]int{}
	for _, p := range r.Packets {
		one := taped{Packet: p}
		var ssrc uint32
		if p.RTCP {
			ssrc = binary.BigEndian.Uint32(p.Raw[4:])
		} else {
			ssrc = binary.BigEndian.Uint32(p.Raw[8:])
		}
		one.layer = slices.IndexFunc(r.Layers, func(l recording.Layer) bool { return l.SSRC == ssrc })
		require.GreaterOrEqual(t, one.layer, 0)
		if !p.RTCP {
			parsed, err := track.pool.Parse(p.Raw, &layers[one.layer].ids)
			require.NoError(t, err)
			parsed.Ext = newest[one.layer] + int64(int16(parsed.Seq-uint16(newest[one.layer])))
			newest[one.layer] = max(newest[one.layer], parsed.Ext)
			require.True(t, layers[one.layer].inspector.inspect(parsed))
			one.seq = parsed.Ext
			if len(parsed.Payload()) > 0 {
				one.p = parsed
				one.key, one.start, one.end = parsed.Frame.Key && parsed.Frame.Start, parsed.Frame.Start, parsed.Frame.End
				name := fmt.Sprint(one.layer, parsed.Timestamp, parsed.Frame.Spatial)
				if _, ok := frames[name]; !ok {
					frames[name] = len(frames)
				}
				one.frame = frames[name]
			}
		}
		tp.packets = append(tp.packets, one)
	}
	return tp
}

// madeTapes are recordings to which picture ids are added: Chromium sends none with VP8
// when it sends dependency descriptors. The name of a tape gives the size of the ids: 7
// bits, or "grows": 15 bits from 128 on, as in pion's payloader.
var madeTapes = []string{"vp8-simulcast+7", "vp8-simulcast+grows", "vp8-simulcast-temporal+7", "vp8-simulcast-temporal+15"}

// withPictureIDs replaces the dependency descriptors in a recording of VP8 by picture ids
// of 15 bits, and, with layers, by TL0PICIDX, TID and KEYIDX (RFC 7741, section 4.2).
func withPictureIDs(t testing.TB, r *recording.Recording, layers bool) {
	t.Helper()
	type numbers struct {
		vp8.Values
		temporal uint8
		sync     bool
	}
	type stream struct {
		structure *dd.Structure
		last      numbers
		upper     bool // the base layer's last frame was followed by one of the layer above
		frames    map[uint32]numbers
	}
	streams := map[uint32]*stream{}
	var ids packet.ExtensionMap
	ids.Set(r.DescriptorID, packet.ExtDependencyDescriptor)
	pool := packet.NewPool()
	for i := range r.Packets {
		p := &r.Packets[i]
		if p.RTCP {
			continue
		}
		parsed, err := pool.Parse(p.Raw, &ids)
		require.NoError(t, err)
		payload := parsed.Payload()
		if len(payload) == 0 {
			continue
		}
		s := streams[parsed.SSRC]
		if s == nil {
			s = &stream{frames: map[uint32]numbers{}}
			streams[parsed.SSRC] = s
		}
		var d dd.Frame
		require.NoError(t, d.Parse(parsed.Extension(packet.ExtDependencyDescriptor), s.structure))
		s.structure = d.Structure
		n, known := s.frames[parsed.Timestamp]
		if !known {
			n = numbers{s.last.Values, d.Temporal, d.Temporal > 0 && !s.upper}
			n.PictureID++
			if d.Temporal == 0 {
				n.TL0PicIdx++
			}
			if d.NewStructure {
				n.KeyIdx = (n.KeyIdx + 1) & 0x1f
			}
			s.upper = d.Temporal > 0 && (s.upper || d.Temporal == 1)
			s.last, s.frames[parsed.Timestamp] = n, n
		}
		require.Zero(t, payload[0]&0x80, "there is an id already")
		made := append(slices.Clone(p.Raw[:len(p.Raw)-len(payload)]), payload[0]|0x80, 0x80, 0x80|byte(n.PictureID>>8), byte(n.PictureID))
		if layers {
			made[len(made)-3] = 0xf0
			made = append(made, n.TL0PicIdx, n.temporal<<6|n.KeyIdx)
			if n.sync {
				made[len(made)-1] |= 0x20
			}
		}
		p.Raw = append(made, payload[1:]...)
	}
	r.DescriptorID = 0
}

// shorten is a packet with its picture id in 7 bits.
func (tp *tape) shorten(p *taped) {
	if tp.short == nil || p.p == nil {
		return
	}
	at := len(p.Raw) - len(p.p.Payload()) + int(p.p.VP8.PictureIDOffset)
	if id := binary.BigEndian.Uint16(p.Raw[at:]) & 0x7fff; tp.short(id) {
		p.whole = p.Raw
		p.Raw = slices.Delete(slices.Clone(p.Raw), at, at+1)
		p.Raw[at] &= 0x7f
	}
}

func (tp *tape) extensions() Extensions {
	return Extensions{DependencyDescriptor: tp.DescriptorID, AbsCaptureTime: tp.CaptureID}
}

// quality is the quality of a layer of the tape. The layers of one stream are chosen by
// quality too.
func (tp *tape) quality(layer int) livekit.VideoQuality { return livekit.VideoQuality(layer) }

// window is a part of the tape, with numbers shifted so that they wrap around near at;
// far: shifted arbitrarily.
func (tp *tape) window(from, at, to time.Duration, r *rand.Rand, far bool) (list []taped) {
	some := func(below, all uint32) uint32 {
		if far {
			below = all
		}
		return r.Uint32N(below)
	}
	var pivots = make([]*packet.Packet, len(tp.Layers))
	for i := range tp.packets {
		if p := tp.packets[i].p; p != nil && (pivots[tp.packets[i].layer] == nil || tp.packets[i].At <= at) {
			pivots[tp.packets[i].layer] = p
		}
	}
	// The descriptors of all layers count in one series.
	shifts := make([]shift, len(tp.Layers))
	number := uint16(some(16, 1<<16))
	if raw := pivots[0].Extension(packet.ExtDependencyDescriptor); raw != nil {
		n, _ := dd.Number(raw)
		number -= n
	}
	for i := range shifts {
		p := pivots[i]
		shifts[i] = shift{
			sequence: uint16(some(8, 1<<16)) - p.Seq, timestamp: some(20000, 1<<31) - p.Timestamp,
			picture: vp8.Values{
				PictureID: tp.first + uint16(some(8, 1<<15)), TL0PicIdx: uint8(some(4, 256)), KeyIdx: uint8(r.IntN(32)),
			}.Sub(p.Picture()),
			descriptor: dd.Shift{Number: number, Template: uint8(r.IntN(64))},
		}
	}
	for _, p := range tp.packets {
		if p.At < from || p.At > to {
			continue
		}
		p.At -= from
		p.Raw = shifts[p.layer].apply(p)
		tp.shorten(&p)
		list = append(list, p)
	}
	return list
}

// shift is added to the numbers of a layer.
type shift struct {
	sequence   uint16
	timestamp  uint32
	picture    vp8.Values
	descriptor dd.Shift
}

func (s shift) apply(p taped) []byte {
	b := slices.Clone(p.Raw)
	if p.RTCP {
		binary.BigEndian.PutUint32(b[16:], binary.BigEndian.Uint32(b[16:])+s.timestamp)
		return b
	}
	binary.BigEndian.PutUint16(b[2:], binary.BigEndian.Uint16(b[2:])+s.sequence)
	binary.BigEndian.PutUint32(b[4:], binary.BigEndian.Uint32(b[4:])+s.timestamp)
	if p.p == nil {
		return b
	}
	payload := b[len(b)-len(p.p.Payload()):]
	if p.p.Picture() != (vp8.Values{}) || p.p.VP8.PictureIDOffset != 0 || p.p.VP9 != (vp9.Numbers{}) {
		v := p.p.Picture()
		p.p.PutPicture(payload, vp8.Values{
			PictureID: (v.PictureID + s.picture.PictureID) & 0x7fff, TL0PicIdx: v.TL0PicIdx + s.picture.TL0PicIdx, KeyIdx: (v.KeyIdx + s.picture.KeyIdx) & 0x1f,
		})
	}
	if raw := p.p.Extension(packet.ExtDependencyDescriptor); raw != nil {
		// Find the extension by its bytes, which occur only once in the header.
		head := b[:len(b)-len(p.p.Payload())]
		at := strings.Index(string(head[12:]), string(raw)) + 12
		s.descriptor.Apply(head[at : at+len(raw)])
	}
	return b
}

// play is a replay: tapes into a track, a forwarder, and a receiver that checks its
// packets.
type play struct {
	t       testing.TB
	track   *Track
	layers  []*Layer
	watched *Track         // the track of the subscription
	down    *downlink.Path // of the subscriber
	f       *Forwarder
	model   *modelreceiver.Receiver
	cfg     ForwarderConfig
	tape    *tape
	ssrcs   uint32
	link    func(h *rtp.Header, payload []byte) // the path to the receiver; nil: direct
	started time.Time
}

func newPlay(t testing.TB, tp *tape, described bool) *play {
	pl := &play{t: t, tape: tp, ssrcs: 100, started: time.Now()}
	pl.down = downlink.New(nil)
	pl.down.Connected()
	pl.track = pl.newTrack()
	pl.layers = pl.addLayers(pl.track, tp)
	pl.watched = pl.track
	pl.subscribe(described)
	return pl
}

func (pl *play) newTrack() *Track {
	t := NewTrack(TrackConfig{SID: "TR_x", Kind: livekit.TrackType_VIDEO, Codec: pl.tape.codec, RegressBelow: 100})
	pl.t.Cleanup(t.Close)
	return t
}

func (pl *play) addLayers(to *Track, tp *tape) (layers []*Layer) {
	for i, l := range tp.Layers {
		q := tp.quality(i)
		if len(tp.Layers) == 1 {
			q = loadedTop
		}
		layers = append(layers, to.AddLayer(LayerConfig{RID: l.RID, Codec: tp.codec, Ext: tp.extensions(), Quality: q}))
	}
	return layers
}

// subscribe adds the forwarder, or another one after the former was closed.
func (pl *play) subscribe(described bool) {
	pl.cfg = ForwarderConfig{
		Downlink: pl.down, SubscriberSID: "PA_s", SSRC: pl.ssrcs, RTXSSRC: pl.ssrcs + 1, CNAME: "parlor",
		Codec:  Codec{MimeType: pl.tape.MimeType, ClockRate: 90000, PayloadType: 40, RTXPayloadType: 41},
		Backup: Codec{MimeType: "video/VP8", ClockRate: 90000, PayloadType: 42, RTXPayloadType: 43},
	}
	pl.ssrcs += 2
	if strings.EqualFold(pl.tape.MimeType, "video/VP8") {
		pl.cfg.Backup = Codec{}
	}
	model := modelreceiver.Config{
		SSRC: pl.cfg.SSRC, Codecs: map[uint8]string{40: pl.tape.MimeType, 42: "video/VP8"}, RTX: map[uint8]uint8{41: 40, 43: 42}, Now: time.Now,
	}
	if described {
		pl.cfg.Ext.DependencyDescriptor, model.DescriptorID = 5, 5
	}
	pl.model = modelreceiver.New(model)
	pl.cfg.Output = received{pl.model, pl}
	pl.f = pl.watched.AddForwarder(pl.cfg)
}

// received is the model receiver behind the path.
type received struct {
	*modelreceiver.Receiver
	pl *play
}

func (r received) Write(h *rtp.Header, payload []byte, kind record.Kind) error {
	if r.pl.link != nil {
		r.pl.link(h, payload)
		return nil
	}
	return r.Receiver.Write(h, payload, kind)
}

// want sets the wanted layer of the tape.
func (pl *play) want(q livekit.VideoQuality) { pl.f.SetSettings(Settings{Quality: q}) }

// feed plays packets. Before each it calls do with the index.
func (pl *play) feed(layers []*Layer, packets []taped, do func(i int)) {
	begin := time.Now()
	for i, p := range packets {
		time.Sleep(time.Until(begin.Add(p.At)))
		if do != nil {
			do(i)
		}
		if p.RTCP {
			if decoded, err := rtcp.Unmarshal(p.Raw); err == nil {
				layers[p.layer].HandleRTCP(decoded)
			}
			continue
		}
		layers[p.layer].WriteRTP(p.Raw, time.Now())
		layers[p.layer].Flush()
	}
	time.Sleep(time.Second)
	pl.model.Tick()
}

// check checks the received packets. From the time from on, every frame of the wanted
// layers must be decoded; frames is their number.
func (pl *play) check(what string, frames int, from time.Time, interrupted int) {
	pl.t.Helper()
	var last uint32
	decoded := 0
	for i, f := range pl.model.Frames() {
		if f.Decoded.IsZero() {
			require.Fail(pl.t, what, "frame %d (timestamp %d, key %t, spatial %d, temporal %d): %s", i, f.Timestamp, f.Key, f.Spatial, f.Temporal, f.Why)
		}
		if i > 0 {
			require.GreaterOrEqual(pl.t, int32(f.Timestamp-last), int32(0), "%s: frame %d goes back in time", what, i)
		}
		last = f.Timestamp
		if !f.Complete.Before(from) {
			decoded++
		}
	}
	require.Empty(pl.t, pl.model.Dropped(), what)
	require.LessOrEqual(pl.t, pl.model.Fragments(), interrupted, "%s: parts of frames", what)
	require.GreaterOrEqual(pl.t, decoded, frames, "%s: frames after the key frame are missing", what)
}

// due is the number of frames of a layer in packets[i:] from the first keyframe on, and
// the time of that keyframe; ok is false if there is none.
func due(packets []taped, i, layer int) (frames int, at time.Duration, ok bool) {
	for ; i < len(packets); i++ {
		p := packets[i]
		if p.layer != layer || p.p == nil {
			continue
		}
		if p.key && !ok {
			ok, at = true, p.At
		}
		if ok && p.start {
			frames++
		}
	}
	return frames, at, ok
}

func tapeNames(t testing.TB) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "recordings", "*.rtp.gz"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".rtp.gz"))
	}
	return names
}

// everyTape runs a test for each recording, without dependency descriptors, and with them
// if there are any.
func everyTape(t *testing.T, test func(t *testing.T, tp *tape, described bool)) {
	for _, name := range append(tapeNames(t), madeTapes...) {
		tp := loadTape(t, name)
		for _, described := range []bool{true, false} {
			if described && tp.DescriptorID == 0 {
				continue
			}
			t.Run(fmt.Sprintf("%s descriptors %t", name, described), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { test(t, tp, described) })
			})
		}
	}
}

// Lengths before and after the moment under test.
const (
	lead  = 1500 * time.Millisecond
	trail = 1500 * time.Millisecond
)

// positions are the indices of the first packets of frames.
func (tp *tape) positions() (list []int) {
	for i, p := range tp.packets {
		if p.start && p.At > lead/2 && p.At < 8*time.Second-trail/2 {
			list = append(list, i)
		}
	}
	return list
}

// Whichever layer is forwarded, and at whatever frame the other is requested: all
// forwarded frames can be decoded, and the new layer from its first keyframe on.
func TestSwitchAtEveryFrame(t *testing.T) {
	everyTape(t, func(t *testing.T, tp *tape, described bool) {
		low, high := livekit.VideoQuality_LOW, livekit.VideoQuality(max(len(tp.Layers), 3)-1)
		if len(tp.Layers) > 1 {
			high = livekit.VideoQuality(len(tp.Layers) - 1)
		}
		for n, at := range tp.positions() {
			r := rand.New(rand.NewPCG(uint64(n), 1))
			when := tp.packets[at].At
			packets := tp.window(max(0, when-lead), when, when+trail, r, false)
			moment := slices.IndexFunc(packets, func(p taped) bool { return p.At >= when-max(0, when-lead) })
			from, to := low, high
			if n%2 == 1 {
				from, to = high, low
			}
			pl := newPlay(t, tp, described)
			pl.want(from)
			begin := time.Now()
			// Every third time, the request is repeated in both directions within one
			// frame.
			pl.feed(pl.layers, skew(packets, n), func(i int) {
				switch {
				case i == moment:
					pl.want(to)
				case n%3 == 2 && i == moment+1:
					pl.want(from)
				case n%3 == 2 && i == moment+2:
					pl.want(to)
				}
			})
			what := fmt.Sprintf("position %d, at %v, from %v to %v", n, when, from, to)
			if len(tp.Layers) > 1 {
				frames, key, _ := due(skew(packets, n), moment+3, int(to))
				pl.check(what, max(0, frames-2), begin.Add(key), 40)
			} else {
				pl.check(what, 0, begin, 0)
			}
			pl.track.Close()
		}
	})
}

// skew delays one of the layers, so that the keyframes of the layers come in both orders.
func skew(packets []taped, n int) []taped {
	if n%4 < 2 {
		return packets
	}
	list := slices.Clone(packets)
	for i := range list {
		if list[i].layer == n%2 {
			list[i].At += 25 * time.Millisecond
		}
	}
	slices.SortStableFunc(list, func(a, b taped) int { return cmp.Compare(a.At, b.At) })
	return list
}

// A subscriber of a muted track gets substitute frames, without descriptors. The
// publisher's later packets have descriptors, with any numbers, and can be decoded from
// the first frame on.
func TestRealFramesFollowMadeOnes(t *testing.T) {
	everyTape(t, func(t *testing.T, tp *tape, described bool) {
		for seed := range uint64(6) {
			pl := newPlay(t, tp, described)
			pl.want(livekit.VideoQuality_LOW)
			pl.track.SetMuted(true)
			time.Sleep(3500 * time.Millisecond)
			synctest.Wait() // the ticker sends the substitute frames
			made := len(pl.model.Frames())
			if f := tp.codec.family(); f == vp8Codec || f == h264Codec {
				require.Equal(t, 4, made)
			}
			pl.track.SetMuted(false)
			begin := time.Now()
			packets := tp.window(0, 0, lead, rand.New(rand.NewPCG(7, seed)), false)
			pl.feed(pl.layers, packets, nil)
			frames, key, ok := due(packets, 0, 0)
			require.True(t, ok)
			if len(tp.Layers) == 1 {
				frames = 1
			}
			pl.check("after the mute", frames, begin.Add(key), 0)
			pl.track.Close()
		}
	})
}
