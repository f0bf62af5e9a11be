package media

import (
	"strings"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

func onlyOpus(m *webrtc.MediaEngine) error {
	return m.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: opus, PayloadType: 111}, webrtc.RTPCodecTypeAudio)
}

// A client without any video codec rejects every video section, and pion writes those
// without a mid. The client does not get the video, but keeps its session.
func TestAudioOnlyClient(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		pump(t, a.publish("TR_v", vp8, nil))
		before := a.published("TR_v")

		cc := clientConfig{sid: "PA_b", single: single, codecs: onlyOpus}
		if single {
			cc.codecs = nil // pion neither makes such an offer nor handles its answer
		}
		b := newClient(t, e, cc)
		if single {
			b.reword = func(offer string) string { return edit(t, offer, rejectVideo) }
			b.reread = func(answer string) string {
				sections, err := parseOffer(answer, nil)
				require.NoError(t, err)
				for i, s := range sections {
					require.Equal(t, s.media == "video", s.rejected)
					require.False(t, s.unnamed, "section %d", i)
				}
				answer, err = asInactive(answer, b.pub.PendingLocalDescription().SDP, sections)
				require.NoError(t, err)
				return answer
			}
		}
		b.subscribe("PA_a", before)
		b.join()
		fails := func(sid string) {
			t.Helper()
			failed := b.events.wait(t, "failed")
			require.Equal(t, sid, failed.sid)
			require.Equal(t, livekit.SubscriptionError_SE_CODEC_UNSUPPORTED, failed.err)
		}
		fails("TR_v")
		// Its audio works in both directions, in negotiations that come after the
		// rejected sections.
		for i, sid := range []string{"TR_1", "TR_2", "TR_3", "TR_4"} { // more than a client in single mode offers by itself
			pump(t, a.publish(sid, opus, nil))
			b.subscribe("PA_a", a.published(sid))
			b.receives("PA_a", sid)
			if i == 1 {
				pump(t, a.publish("TR_w", vp8, nil))
				b.subscribe("PA_a", a.published("TR_w"))
				fails("TR_w")
			}
		}
		pump(t, b.publish("TR_b", opus, nil))
		a.subscribe("PA_b", b.published("TR_b"))
		a.receives("PA_b", "TR_b")
		b.peer.Unsubscribe("TR_1")
		pump(t, a.publish("TR_5", opus, nil))
		b.subscribe("PA_a", a.published("TR_5"))
		b.receives("PA_a", "TR_5")
		require.Zero(t, e.Stats().NeedsReconnect)
		require.Zero(t, e.Stats().BadDescriptions)
	})
}

// rejectVideo writes sections as clients do that have no codec for them.
func rejectVideo(d *sdp.SessionDescription) {
	for i, m := range d.MediaDescriptions {
		if m.MediaName.Media == "video" {
			gone := &sdp.MediaDescription{MediaName: m.MediaName, ConnectionInformation: m.ConnectionInformation}
			gone.MediaName.Port.Value, gone.MediaName.Formats = 0, []string{"0"}
			d.MediaDescriptions[i] = gone
		}
	}
}

// edit changes the sections of a description.
func edit(t *testing.T, text string, f func(d *sdp.SessionDescription)) string {
	var d sdp.SessionDescription
	require.NoError(t, d.UnmarshalString(text))
	f(&d)
	out, err := d.Marshal()
	require.NoError(t, err)
	return string(out)
}

// Sections that the server cannot use are answered with port 0, in their places. The
// sections beside them work as usual.
func TestUselessSectionsAreRejected(t *testing.T) {
	const (
		text   = "m=text 9 UDP/TLS/RTP/SAVPF 98\r\nc=IN IP4 0.0.0.0\r\na=mid:t\r\na=sendrecv\r\na=rtpmap:98 t140/1000\r\n"
		ended  = "m=video 0 UDP/TLS/RTP/SAVPF 0\r\nc=IN IP4 0.0.0.0\r\na=inactive\r\n"
		future = "m=video 9 UDP/TLS/RTP/SAVPF 97\r\nc=IN IP4 0.0.0.0\r\na=mid:f\r\na=sendrecv\r\na=rtpmap:97 H266/90000\r\n"
		nobody = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=sendonly\r\na=rtpmap:111 opus/48000/2\r\n"
		game   = "m=application 0 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n"
	)
	useless := []string{text, ended, future, nobody, game}
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single, change: func(c *PeerConfig) {
			c.Client = &livekit.ClientInfo{Sdk: livekit.ClientInfo_JS}
		}})
		a.reword = func(offer string) string {
			return edit(t, offer, func(d *sdp.SessionDescription) {
				var extra sdp.SessionDescription
				require.NoError(t, extra.UnmarshalString("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"+strings.Join(useless, "")))
				for i, at := range d.Attributes {
					if at.Key == "group" { // the transport of the group's first section counts
						d.Attributes[i].Value = strings.Replace(at.Value, "BUNDLE", "BUNDLE t f", 1)
					}
				}
				d.MediaDescriptions = append(extra.MediaDescriptions, d.MediaDescriptions...)
			})
		}
		a.reread = func(answer string) string {
			return edit(t, answer, func(d *sdp.SessionDescription) {
				for i, mid := range []string{"t", "", "f", "", ""} {
					m := d.MediaDescriptions[i]
					require.Zero(t, m.MediaName.Port.Value)
					require.True(t, strings.HasPrefix(useless[i], "m="+m.MediaName.Media+" "), m.MediaName.Media)
					got, _ := m.Attribute("mid")
					require.Equal(t, mid, got, "as it was offered")
				}
				group, _ := d.Attribute("group")
				require.NotContains(t, group, "BUNDLE t")
				d.MediaDescriptions = d.MediaDescriptions[len(useless):]
			})
		}
		a.join()
		pump(t, a.publish("TR_v", vp8, nil))
		published := a.published("TR_v")
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single})
		b.join()
		b.subscribe("PA_a", published)
		b.receives("PA_a", "TR_v")
		a.peer.SendData(nil, livekit.DataPacket_RELIABLE, []byte("well"))
		require.Equal(t, "well", string(a.message().data))
		require.Zero(t, e.Stats().NeedsReconnect)
		require.Zero(t, e.Stats().BadDescriptions)
	})
}

// An offer of which all sections are rejected is answered too.
func TestOfferOfNothing(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		answers := a.answered()
		const audio = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=rtpmap:111 opus/48000/2\r\n"
		a.peer.HandleOffer(Description{SDP: offerHead + "m=text 9 RTP 98\r\na=mid:0\r\n" + audio, ID: 99})
		require.Eventually(t, func() bool { return a.answered() == answers+1 }, patience, time.Millisecond)
		a.mu.Lock()
		answer := a.answers[answers]
		a.mu.Unlock()
		require.EqualValues(t, 99, answer.ID)
		var d sdp.SessionDescription
		require.NoError(t, d.UnmarshalString(answer.SDP))
		require.Len(t, d.MediaDescriptions, 2)
		for _, m := range d.MediaDescriptions {
			require.Zero(t, m.MediaName.Port.Value)
		}
		pump(t, a.publish("TR_a", opus, nil))
		a.published("TR_a")
		require.Zero(t, e.Stats().NeedsReconnect)
	})
}

// Tracks that a client cannot decode do not use up its sections for others.
func TestUnusableTracksTakeNoSections(t *testing.T) {
	t.Parallel()
	h265 := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeH265, ClockRate: 90000}
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single, codecs: only(vp8)})
		for _, sid := range []string{"TR_1", "TR_2", "TR_3", "TR_v"} {
			codec := h265
			if sid == "TR_v" {
				codec = vp8
			}
			pump(t, a.publish(sid, codec, nil))
			b.subscribe("PA_a", a.published(sid))
		}
		b.joinVideoOnly()
		for range 3 {
			require.Equal(t, livekit.SubscriptionError_SE_CODEC_UNSUPPORTED, b.events.wait(t, "failed").err)
		}
		b.receives("PA_a", "TR_v")
		b.mu.Lock()
		defer b.mu.Unlock()
		require.Empty(t, b.requirements, "the section that it offered is enough")
	})
}
