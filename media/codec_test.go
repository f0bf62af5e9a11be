package media

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/media/forward/dd/ddtest"
	"parlor/media/forward/vp9"
	"parlor/rooms"
)

// until reads packets until ok holds for n of them in a row.
func until(t *testing.T, r remoteTrack, n int, ok func(p, before *rtp.Packet) bool) {
	t.Helper()
	require.NoError(t, r.SetReadDeadline(time.Now().Add(patience)))
	var before *rtp.Packet
	for held := 0; held < n; {
		p, _, err := r.ReadRTP()
		require.NoError(t, err, "held for %d of %d", held, n)
		held++
		if !ok(p, before) {
			held = 0
		}
		before = p
	}
}

func payloadType(t *testing.T, ctx boundTrack, codec webrtc.RTPCodecCapability) uint8 {
	t.Helper()
	for _, c := range ctx.codecs {
		if c.MimeType == codec.MimeType && (codec.SDPFmtpLine == "" || c.SDPFmtpLine == codec.SDPFmtpLine) {
			return uint8(c.PayloadType)
		}
	}
	require.FailNow(t, "not negotiated", "%+v", codec)
	return 0
}

// Of the variants of H.264 a subscriber gets the one that is sent, with its parameter
// sets unchanged.
func TestH264(t *testing.T) {
	for _, fmtp := range []string{
		"level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
		"level-asymmetry-allowed=1;packetization-mode=0;profile-level-id=42e01f",
		"level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42001f",
	} {
		t.Run(fmtp, func(t *testing.T) {
			bothModes(t, func(t *testing.T, single bool) {
				codec := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeH264, ClockRate: 90000, SDPFmtpLine: fmtp}
				e := newTestEngine(t, nil)
				a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
				a.join()
				ctx := a.publishRaw("TR_v", webrtc.RTPCodecTypeVideo, codec, nil)
				pt := payloadType(t, ctx, codec)
				// STAP-A of SPS, PPS and IDR (RFC 6184, section 5.7.1).
				key := []byte{0x78, 0, 4, 0x67, 0x42, 0xe0, 0x1f, 0, 2, 0x68, 0xce, 0, 3, 0x65, 1, 2}
				pumpPackets(t, ctx, func(i int) *rtp.Packet {
					p := &rtp.Packet{Header: rtp.Header{Marker: true, Timestamp: uint32(i * 900), PayloadType: pt}, Payload: []byte{0x41, 1, 2}}
					if i%10 == 0 {
						p.Payload = key
					}
					return p
				})
				published := a.published("TR_v")
				require.Eventually(t, func() bool { // whichever variant was assumed at first
					p := a.peer.pubTrack("TR_v")
					return p != nil && len(*p.codecs.Load()) == 1 && (*p.codecs.Load())[0].Fmtp == fmtp
				}, patience, time.Millisecond)
				b := newClient(t, e, clientConfig{sid: "PA_b", single: single})
				b.join()
				b.subscribe("PA_a", published)
				r := b.track()
				p, _, err := r.ReadRTP()
				require.NoError(t, err)
				require.Equal(t, key, p.Payload, "it begins with a key frame and what that needs")
				require.Equal(t, fmtp, r.Codec().SDPFmtpLine)
			})
		})
	}
}

// H.265 is passed on byte for byte, from the parameter sets of a key frame on.
func TestH265(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		codec := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeH265, ClockRate: 90000}
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		ctx := a.publishRaw("TR_v", webrtc.RTPCodecTypeVideo, codec, nil)
		pt := payloadType(t, ctx, codec)
		// A packet of VPS, SPS and PPS, two fragments of an IDR picture, and others (RFC 7798,
		// section 4.4).
		stream := [][]byte{
			{0x60, 1, 0, 3, 0x40, 1, 7, 0, 3, 0x42, 1, 8, 0, 3, 0x44, 1, 9}, {0x62, 1, 0x80 | 19, 1, 2}, {0x62, 1, 0x40 | 19, 3, 4},
			{0x02, 1, 5}, {0x02, 1, 6}, {0x02, 1, 7}, {0x02, 1, 8},
		}
		const key = 3 // packets of its frame
		pumpPackets(t, ctx, func(i int) *rtp.Packet {
			n := i % len(stream)
			frame := i/len(stream)*len(stream) + max(n, key-1)
			return &rtp.Packet{
				Header:  rtp.Header{Marker: n >= key-1, Timestamp: uint32(frame * 900), PayloadType: pt},
				Payload: slices.Clone(stream[n]),
			}
		})
		published := a.published("TR_v")
		require.Equal(t, "video/H265", published.info.MimeType)
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single})
		b.join()
		b.subscribe("PA_a", published)
		r := b.track()
		require.Equal(t, webrtc.MimeTypeH265, r.Codec().MimeType)
		var first *rtp.Packet
		for i := 0; i < 3*len(stream); {
			p, _, err := r.ReadRTP()
			require.NoError(t, err)
			if len(p.Payload) == 0 {
				continue // only padding
			}
			if first == nil {
				first = p
			}
			require.Equal(t, stream[i%len(stream)], p.Payload, "packet %d", i)
			require.Equal(t, first.SequenceNumber+uint16(i), p.SequenceNumber)
			i++
		}
	})
}

// pubTrack is a published track as the loop has it.
func (p *Peer) pubTrack(sid string) *track {
	ch := make(chan *track, 1)
	p.post(func() {
		if pub := p.pubs[sid]; pub != nil {
			ch <- pub.track
			return
		}
		ch <- nil
	})
	return <-ch
}

// Of VP9 in L3T3_KEY, a subscriber that wants a low quality gets only the lowest spatial
// layer, as a stream without gaps whose pictures end with that layer.
func TestVP9SpatialLayers(t *testing.T) {
	t.Parallel()
	codec := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP9, ClockRate: 90000, SDPFmtpLine: "profile-id=0"}
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	a.join()
	ctx := a.publishRaw("TR_v", webrtc.RTPCodecTypeVideo, codec, nil)
	pt := payloadType(t, ctx, codec)
	pumpPackets(t, ctx, func(i int) *rtp.Packet {
		picture, spatial := i/3, byte(i%3)
		temporal := [...]byte{0, 2, 1, 2}[picture%4]
		const hasID, hasLayers, begin, end, predicted = 0x80, 0x20, 0x08, 0x04, 0x40
		b := []byte{
			hasID | hasLayers | begin | end, 0x80 | byte(picture>>8)&0x7f, byte(picture),
			temporal<<5 | spatial<<1, byte(picture / 4), 0xee,
		}
		switch key := picture%20 == 0; {
		case !key:
			b[0] |= predicted
		case spatial > 0:
			b[3] |= 1 // depends on the layer below
		}
		return &rtp.Packet{Header: rtp.Header{Marker: spatial == 2, Timestamp: uint32(picture * 2700), PayloadType: pt}, Payload: b}
	})
	b := newClient(t, e, clientConfig{sid: "PA_b"})
	b.join()
	b.subscribe("PA_a", a.published("TR_v"))
	r := b.track()
	read := func(p *rtp.Packet) vp9.Descriptor {
		var d vp9.Descriptor
		require.True(t, d.Parse(p.Payload))
		return d
	}
	until(t, r, 30, func(p, before *rtp.Packet) bool {
		return before == nil || read(p).Spatial == (read(before).Spatial+1)%3
	})
	set := func(q livekit.VideoQuality) {
		b.peer.SetTrackSettings([]string{"TR_v"}, rooms.TrackSettings{Quality: q})
	}
	for q, top := range map[livekit.VideoQuality]uint8{livekit.VideoQuality_LOW: 0, livekit.VideoQuality_MEDIUM: 1} {
		set(q)
		until(t, r, 20, func(p, before *rtp.Packet) bool {
			d := read(p)
			if before == nil || d.Spatial > top || p.Marker != (d.Spatial == top) || p.SequenceNumber != before.SequenceNumber+1 {
				return false
			}
			next := read(before).PictureID
			if d.Spatial == 0 {
				next++
			}
			return d.PictureID == next&0x7fff
		})
	}
	set(livekit.VideoQuality_HIGH)
	until(t, r, 30, func(p, before *rtp.Packet) bool {
		return before != nil && read(p).Spatial == (read(before).Spatial+1)%3 && p.SequenceNumber == before.SequenceNumber+1
	})
}

// The same holds for AV1, by the dependency descriptor, which is forwarded too.
func TestAV1SpatialLayers(t *testing.T) {
	t.Parallel()
	codec := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeAV1, ClockRate: 90000}
	withDD := func(m *webrtc.MediaEngine) error {
		if err := m.RegisterDefaultCodecs(); err != nil {
			return err
		}
		return m.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: uriDependencyDescr}, webrtc.RTPCodecTypeVideo)
	}
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true, codecs: withDD})
	a.join()
	ctx := a.publishRaw("TR_v", webrtc.RTPCodecTypeVideo, codec, nil)
	pt, id := payloadType(t, ctx, codec), ctx.extensions.DependencyDescriptor
	require.NotZero(t, id)
	structure := ddtest.L2T2Key()
	pumpPackets(t, ctx, func(i int) *rtp.Packet {
		picture, spatial := i/2, i%2
		at := picture % 20
		template := 2
		switch {
		case at == 0:
			template = 0
		case at%2 == 0:
			template = 1
		}
		p := &rtp.Packet{Header: rtp.Header{Marker: spatial == 1, Timestamp: uint32(picture * 2700), PayloadType: pt}, Payload: []byte{0x10, 0x32, byte(spatial)}}
		p.Extension, p.ExtensionProfile = true, rtp.ExtensionProfileTwoByte
		if p.SetExtension(id, structure.Encode(ddtest.Frame{
			Start: true, End: true, Template: template + 3*spatial, Number: uint16(i), Structure: at == 0 && spatial == 0, Active: -1,
		})) != nil {
			p.Payload = nil // the test observes this gap
		}
		return p
	})
	b := newClient(t, e, clientConfig{sid: "PA_b", codecs: withDD})
	b.join()
	b.subscribe("PA_a", a.published("TR_v"))
	r := b.track()
	for q, top := range map[livekit.VideoQuality]byte{livekit.VideoQuality_HIGH: 1, livekit.VideoQuality_LOW: 0} {
		b.peer.SetTrackSettings([]string{"TR_v"}, rooms.TrackSettings{Quality: q})
		until(t, r, 20, func(p, before *rtp.Packet) bool {
			spatial := p.Payload[2]
			return before != nil && spatial <= top && p.Marker == (spatial == top) &&
				p.SequenceNumber == before.SequenceNumber+1 && len(p.GetExtensionIDs()) > 0
		})
	}
}

// Stereo is negotiated with subscribers, DTX is permitted, and the room's playout delay
// is in the packets of video.
func TestStereoDTXAndPlayoutDelay(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		withDelay := func(m *webrtc.MediaEngine) error {
			if err := m.RegisterDefaultCodecs(); err != nil {
				return err
			}
			return m.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: uriPlayoutDelay}, webrtc.RTPCodecTypeVideo)
		}
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		ctx := a.publishRaw("TR_a", webrtc.RTPCodecTypeAudio, opus, func(r *livekit.AddTrackRequest) { r.Stereo = true })
		audio := a.published("TR_a")
		audio.info.AudioFeatures = []livekit.AudioTrackFeature{livekit.AudioTrackFeature_TF_STEREO} // as the room has it
		pumpPackets(t, ctx, func(i int) *rtp.Packet {                                               // as with DTX: 400 ms between packets, the first one marked
			return &rtp.Packet{Header: rtp.Header{Marker: i%5 == 0, Timestamp: uint32(i * 19200), PayloadType: 111}, Payload: []byte{0xfc}}
		})
		pump(t, a.publish("TR_v", vp8, nil))
		video := a.published("TR_v")

		b := newClient(t, e, clientConfig{sid: "PA_b", single: single, codecs: withDelay})
		b.join()
		b.subscribe("PA_a", audio)
		r := b.receives("PA_a", "TR_a")
		until(t, r, 20, func(p, before *rtp.Packet) bool {
			return before != nil && p.Timestamp-before.Timestamp == 19200 && p.SequenceNumber == before.SequenceNumber+1
		})
		b.mu.Lock()
		said := b.pub.RemoteDescription().SDP
		if !single {
			said = b.sub.RemoteDescription().SDP
		}
		b.mu.Unlock()
		require.Regexp(t, `a=fmtp:111 [^\r]*stereo=1;[^\r]*sprop-stereo=1`, said)

		b.peer.Subscribe(rooms.Subscription{
			Track: video.track, Info: video.info, PublisherSID: "PA_a", PublisherIdentity: "id-PA_a",
			MinPlayoutDelay: 100, MaxPlayoutDelay: 2000,
		})
		v := b.receives("PA_a", "TR_v")
		var id uint8
		for _, x := range v.receiver.GetParameters().HeaderExtensions {
			if x.URI == uriPlayoutDelay {
				id = uint8(x.ID)
			}
		}
		require.NotZero(t, id)
		p, _, err := v.ReadRTP()
		require.NoError(t, err)
		require.Equal(t, []byte{0x00, 0xa0, 0xc8}, p.GetExtension(id), "10 and 200 in units of 10 ms, 12 bits each")
	})
}

// TestTheListedCodecsAreNegotiated: operators and clients are told the list.
func TestTheListedCodecsAreNegotiated(t *testing.T) {
	set, err := newCodecSet(nil)
	require.NoError(t, err)
	negotiated := map[string]bool{}
	for _, c := range append(set.audio, set.video...) {
		if c.MimeType != mimeRTX {
			negotiated[c.MimeType] = true
		}
	}
	listed := map[string]bool{}
	for _, mime := range rooms.Codecs() {
		listed[mime] = true
	}
	require.Equal(t, listed, negotiated)
}

// A client that must not publish a codec is not asked for it, and still gets it from others.
func TestCodecsThatAreNotToBePublished(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single, change: func(c *PeerConfig) {
			c.DisabledPublishCodecs = []string{"video/h264"}
		}})
		a.join()
		vp8 := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000}
		a.publishRaw("TR_a", webrtc.RTPCodecTypeVideo, vp8, nil)
		a.mu.Lock()
		answer, err := parseOffer(a.answers[len(a.answers)-1].SDP, nil)
		a.mu.Unlock()
		require.NoError(t, err)
		sections := slices.DeleteFunc(answer, func(s offeredSection) bool {
			return s.kind != webrtc.RTPCodecTypeVideo || s.sends || !s.receives
		})
		require.Len(t, sections, 1)
		types := map[string]bool{}
		for _, c := range sections[0].codecs {
			require.NotEqual(t, "video/h264", strings.ToLower(c.mime))
			types[strconv.Itoa(int(c.pt))] = true
		}
		for _, c := range sections[0].codecs {
			if strings.EqualFold(c.mime, mimeRTX) {
				require.Contains(t, types, fmtpParameter(c.fmtp, "apt"), "RTX of nothing")
			}
		}

		b := newClient(t, e, clientConfig{sid: "PA_b", single: single})
		b.join()
		h264 := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeH264, ClockRate: 90000, SDPFmtpLine: "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"}
		pumpPayload(t, b.publish("TR_b", h264, nil), []byte{0x65, 1, 2, 3})
		a.subscribe("PA_b", b.published("TR_b"))
		require.Equal(t, webrtc.MimeTypeH264, a.receives("PA_b", "TR_b").Codec().MimeType)
	})
}
