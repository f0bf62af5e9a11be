package forward

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"
)

func redConfig() Codec {
	return Codec{MimeType: "audio/red", ClockRate: 48000, Channels: 2, PayloadType: 63, Fmtp: "111/111"}
}

// voice sends a packet of Opus every 20 ms.
func (s *sender) voice(payload []byte) {
	s.layer.WriteRTP(s.packet(false, payload), s.at)
	s.ts += 960
	s.at = s.at.Add(20 * time.Millisecond)
}

// redOf wraps the newest of payloads with those before as redundancy.
func redOf(payloads ...string) (b []byte) {
	last := len(payloads) - 1
	for i, p := range payloads[:last] {
		offset := 960 * (last - i)
		b = append(b, 0x80|111, byte(offset>>6), byte(offset<<2)|byte(len(p)>>8), byte(len(p)))
	}
	b = append(b, 111)
	for _, p := range payloads {
		b = append(b, p...)
	}
	return b
}

func payloads(packets []rtp.Packet) (all []string) {
	for _, p := range packets {
		all = append(all, string(p.Payload))
	}
	return all
}

func TestOpus(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_AUDIO, opusConfig())
	s := newSender(track, 1, opusConfig(), "", 0)
	r := newReceiver(track, opusConfig(), nil)
	for range 3 {
		s.voice([]byte("x"))
	}
	got := r.take()
	require.Len(t, got, 3)
	requireContiguous(t, got)
	require.Equal(t, uint8(111), got[0].PayloadType)
	require.Equal(t, 3, r.flushes)
}

func TestREDToOpus(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_AUDIO, redConfig())
	s := newSender(track, 1, redConfig(), "", 0)
	r := newReceiver(track, opusConfig(), nil)
	s.voice(redOf("a"))
	s.voice(redOf("a", "b"))
	s.seq++ // "c" is lost
	s.ts += 960
	s.voice(redOf("b", "c", "d"))
	s.seq += 3 // "e" "f" "g" are lost; of "e" there is nothing
	s.ts += 3 * 960
	s.voice(redOf("f", "g", "h"))
	s.pt = 111
	s.voice([]byte("plain"))
	got := r.take()
	require.Equal(t, []string{"a", "b", "c", "d", "f", "g", "h", "plain"}, payloads(got))
	requireContiguous(t, got[:4])
	requireContiguous(t, got[4:])
	require.Equal(t, got[3].SequenceNumber+2, got[4].SequenceNumber, "a place for what may come")
	for i, p := range got[1:4] {
		require.Equal(t, got[0].Timestamp+960*uint32(i+1), p.Timestamp)
	}
	require.Equal(t, uint64(3), r.f.Stats().Rebuilt)
	require.Equal(t, uint8(111), got[0].PayloadType)
}

func TestLateAfterRepairIsNotSentTwice(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_AUDIO, redConfig())
	s := newSender(track, 1, redConfig(), "", 0)
	r := newReceiver(track, opusConfig(), nil)
	s.voice(redOf("a"))
	late := s.packet(false, redOf("a", "b"))
	s.ts += 960
	s.voice(redOf("a", "b", "c"))
	s.layer.WriteRTP(late, s.at)
	require.Equal(t, []string{"a", "b", "c"}, payloads(r.take()))
}

func TestREDPassesThrough(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_AUDIO, redConfig())
	s := newSender(track, 1, redConfig(), "", 0)
	same := newReceiver(track, redConfig(), nil)
	renamed := newReceiver(track, Codec{MimeType: "audio/red", ClockRate: 48000, PayloadType: 64, Fmtp: "100/100"}, nil)
	s.voice(redOf("a", "b"))
	s.pt = 111
	s.voice([]byte("plain"))
	require.Equal(t, []string{string(redOf("a", "b")), "plain"}, payloads(same.take()))
	got := renamed.take()
	want := redOf("a", "b")
	want[0], want[4] = 0x80|100, 100
	require.Equal(t, string(want), string(got[0].Payload))
	require.Equal(t, []uint8{64, 100}, []uint8{got[0].PayloadType, got[1].PayloadType})
}

func TestBrokenREDIsDropped(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_AUDIO, redConfig())
	s := newSender(track, 1, redConfig(), "", 0)
	r := newReceiver(track, opusConfig(), nil)
	s.voice(redOf("a"))
	s.voice([]byte{0xff, 0xff})
	require.Len(t, r.take(), 1)
	require.Equal(t, uint64(1), s.layer.Stats().Malformed)
}

func TestAudioLevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_AUDIO, opusConfig())
		s := newSender(track, 1, opusConfig(), "", 0)
		speak := func(level byte, n int) {
			for range n {
				p := rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 111, SequenceNumber: s.seq, Timestamp: s.ts, SSRC: 1}, Payload: []byte("x")}
				require.NoError(t, p.SetExtension(1, []byte{0x80 | level}))
				raw, err := p.Marshal()
				require.NoError(t, err)
				s.layer.WriteRTP(raw, time.Now())
				s.seq++
				s.ts += 960
				time.Sleep(20 * time.Millisecond)
			}
		}
		speak(20, 50)
		level, speaking := track.AudioLevel()
		require.True(t, speaking)
		require.InDelta(t, 0.09, level, 0.02)
		speak(60, 50)
		_, speaking = track.AudioLevel()
		require.False(t, speaking)
		speak(20, 50)
		time.Sleep(2 * time.Second) // DTX
		_, speaking = track.AudioLevel()
		require.False(t, speaking, "nothing comes any more")
		speak(20, 50)
		track.SetMuted(true)
		_, speaking = track.AudioLevel()
		require.False(t, speaking)
	})
}

func TestAudioGoesOnAfterMute(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_AUDIO, opusConfig())
	s := newSender(track, 1, opusConfig(), "", 0)
	r := newReceiver(track, opusConfig(), nil)
	s.voice([]byte("a"))
	track.SetMuted(true)
	for range 10 {
		s.voice([]byte("b"))
	}
	track.SetMuted(false)
	s.voice([]byte("c"))
	got := r.take()
	require.Equal(t, []string{"a", "c"}, payloads(got))
	requireContiguous(t, got)
	require.Equal(t, uint32(11*960), got[1].Timestamp-got[0].Timestamp)
}
