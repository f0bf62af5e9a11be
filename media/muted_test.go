package media

import (
	"bytes"
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// A client gets a track that is muted when it subscribes, although pion reports a track
// only with its first packet. The packets after the unmuting continue the stream.
func TestMutedBeforeSubscribed(t *testing.T) {
	t.Parallel()
	codecs := []struct {
		codec webrtc.RTPCodecCapability
		body  []byte // beginning of the first payload; nil: padding
	}{
		{opus, []byte{0xf8}},
		{webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypePCMU, ClockRate: 8000}, []byte{0xff}},
		{vp8, []byte{0x90, 0xf0}},
		{vp9Codec, nil},
	}
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single})
		b.join()
		for i, c := range codecs {
			sid := "TR_" + string(rune('0'+i))
			local := a.publish(sid, c.codec, nil)
			if c.body == nil {
				pumpPayload(t, local, vp9Key)
			} else {
				pump(t, local)
			}
			p := a.published(sid)
			a.setMuted(sid, true)
			b.subscribe("PA_a", p)
			r := b.track()
			require.Equal(t, sid, b.trackAt(r.mid))
			require.Equal(t, c.codec.MimeType, r.Codec().MimeType)
			read := func() *rtp.Packet {
				t.Helper()
				packet, _, err := r.ReadRTP()
				require.NoError(t, err)
				return packet
			}
			first := read()
			if c.body == nil {
				require.Empty(t, first.Payload)
			} else {
				require.Equal(t, c.body, first.Payload[:len(c.body)])
			}
			a.setMuted(sid, false)
			next, last := read(), first
			for ; len(next.Payload) == len(first.Payload); next = read() { // skip substitute frames that were under way
				require.Equal(t, last.SequenceNumber+1, next.SequenceNumber)
				last = next
			}
			require.Equal(t, last.SequenceNumber+1, next.SequenceNumber)
			require.Positive(t, int32(next.Timestamp-last.Timestamp))
			require.Less(t, next.Timestamp-last.Timestamp, 10*r.Codec().ClockRate)
			require.Equal(t, first.SSRC, next.SSRC)
		}
	})
}

// Substitute frames in a track that is encrypted end to end have the trailer that the
// subscriber was told, so that its client does not decrypt them.
func TestMadeFramesOfEncryptedTracksAreMarked(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	b := newClient(t, e, clientConfig{sid: "PA_b"})
	b.join()
	trailer := []byte("as the client was told")
	for sid, encryption := range map[string]livekit.Encryption_Type{"TR_g": livekit.Encryption_GCM, "TR_n": livekit.Encryption_NONE} {
		pump(t, a.publish(sid, opus, nil))
		p := a.published(sid)
		p.info.Encryption = encryption // as the room has it
		a.setMuted(sid, true)
		b.peer.Subscribe(rooms.Subscription{Track: p.track, Info: p.info, PublisherSID: "PA_a", PublisherIdentity: "id-PA_a", Trailer: trailer})
		packet, _, err := b.track().ReadRTP()
		require.NoError(t, err)
		require.Equal(t, encryption == livekit.Encryption_GCM, bytes.HasSuffix(packet.Payload, trailer))
	}
}
