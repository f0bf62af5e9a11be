package forward

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
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

// redOf wraps the newest payload, with the earlier ones as redundancy.
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

func pcmuConfig() Codec {
	return Codec{MimeType: "audio/PCMU", ClockRate: 8000, PayloadType: 0}
}

// speak sends an audio packet every 20 ms of the codec's clock.
func (s *sender) speak(samples uint32, payload []byte) {
	s.layer.WriteRTP(s.packet(false, payload), s.at)
	s.ts += samples
	s.at = s.at.Add(20 * time.Millisecond)
}

// If the policy is regression, the backup codec replaces the first one for subscribers
// that can receive both, in the same stream, at its own clock rate. Others keep the
// first.
func TestRegressionOfSound(t *testing.T) {
	for _, c := range []struct {
		name   string
		backup Codec // of the publisher
		wrap   func(string) []byte
	}{
		{"Opus", opusConfig(), func(s string) []byte { return []byte(s) }},
		{"RED", redConfig(), func(s string) []byte { return redOf("before", s) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				track := NewTrack(TrackConfig{Kind: livekit.TrackType_AUDIO, Codec: pcmuConfig(), RegressBelow: 100})
				defer track.Close()
				first := newSender(track, 1, pcmuConfig(), "", 0)
				first.pt = 0
				able := newReceiver(track, pcmuConfig(), func(c *ForwarderConfig) { c.Backup = opusConfig() })
				stubborn := newReceiver(track, pcmuConfig(), nil)
				modern := newReceiver(track, opusConfig(), nil)
				const interval = 20 * time.Millisecond
				for range 5 {
					first.at = time.Now()
					first.speak(160, []byte("x"))
					time.Sleep(interval)
				}
				backup := newSender(track, 2, c.backup, "", 0)
				for i := range 55 {
					first.at, backup.at = time.Now(), time.Now()
					first.speak(160, []byte("x"))
					if i == 5 {
						backup.layer.HandleRTCP([]rtcp.Packet{&rtcp.SenderReport{SSRC: 2, NTPTime: 1 << 32, RTPTime: backup.ts}})
					}
					backup.speak(960, c.wrap("y"))
					time.Sleep(interval)
				}
				require.Len(t, stubborn.take(), 60)
				require.Len(t, modern.take(), 55)
				got := able.take()
				require.GreaterOrEqual(t, len(got), 60)
				requireContiguous(t, got)
				var switched int
				for i, p := range got[1:] {
					step := p.Timestamp - got[i].Timestamp
					switch {
					case p.PayloadType == 0:
						require.EqualValues(t, 160, step)
						require.Equal(t, "x", string(p.Payload))
					case got[i].PayloadType == 0:
						switched++
						require.LessOrEqual(t, step, uint32(160), "as the clock before has it")
					default:
						require.EqualValues(t, 960, step)
						require.Equal(t, "y", string(p.Payload))
					}
				}
				require.Equal(t, 1, switched)
				require.EqualValues(t, 111, got[len(got)-1].PayloadType)

				reports := of[*rtcp.SenderReport](able.rtcp.take())
				require.NotEmpty(t, reports)
				last := reports[len(reports)-1]
				// The publisher reported at its packet 5, which is five before the sixth.
				want := got[len(got)-50].Timestamp + uint32((last.NTPTime>>32-1)*48000+last.NTPTime&0xffffffff*48000>>32)
				require.InDelta(t, 0, int32(last.RTPTime-want), 48, "reports follow the clock of what is sent")
				able.f.HandleRTCP([]rtcp.Packet{&rtcp.ReceiverReport{Reports: []rtcp.ReceptionReport{{SSRC: 5000, Jitter: 480}}}})
				require.Equal(t, 10*time.Millisecond, able.f.Stats().Jitter)

				lost := got[3]
				able.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{lost.SequenceNumber})}})
				again := able.take()
				require.Len(t, again, 1)
				require.Equal(t, lost.Header.PayloadType, again[0].PayloadType, "what was lost before is repeated in its own format")
				require.Equal(t, lost.Payload, again[0].Payload)

				backup.layer.Close()
				first.at = time.Now()
				first.speak(160, []byte("x"))
				first.at = time.Now()
				first.speak(160, []byte("x"))
				got = able.take()
				require.Len(t, got, 2, "without the backup, the first again")
				require.EqualValues(t, 0, got[1].PayloadType)
				require.EqualValues(t, 160, got[1].Timestamp-got[0].Timestamp)
			})
		})
	}
}

// The demand for audio codecs is reported, the first codec always as wanted. RED does not
// count as a codec beside Opus.
func TestDynacastOfSound(t *testing.T) {
	for _, c := range []struct {
		name    string
		first   Codec
		regress int
		want    []string
	}{
		{"side by side", pcmuConfig(), 0, []string{
			"0s pcmu true", "1s pcmu true opus true", "9s pcmu true opus false", "12s pcmu true opus true",
		}},
		{"regression", pcmuConfig(), 100, []string{
			"0s pcmu true", "1s pcmu true opus true", "7s pcmu false opus true", "14s pcmu false opus false", "15s pcmu true opus false",
		}},
		{"RED and Opus", redConfig(), 100, []string{"0s opus true"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log []string
				start := time.Now()
				track := NewTrack(TrackConfig{
					Kind: livekit.TrackType_AUDIO, Codec: c.first, RegressBelow: c.regress,
					OnQualities: func(codecs []Wanted) {
						line := fmt.Sprintf("%v", time.Since(start).Truncate(time.Second))
						for _, c := range codecs {
							line += fmt.Sprintf(" %s %t", c.Codec, c.Has(livekit.VideoQuality_HIGH))
						}
						log = append(log, line)
					},
				})
				defer track.Close()
				newSender(track, 1, c.first, "", 0)
				newReceiver(track, c.first, func(f *ForwarderConfig) {
					f.AdaptiveStream = true // which concerns only video
					if c.regress > 0 && c.first.family() == pcmu {
						f.Backup = opusConfig()
					}
				})
				time.Sleep(time.Second)
				modern := newReceiver(track, opusConfig(), nil)
				time.Sleep(time.Second)
				if c.regress > 0 {
					backup := newSender(track, 2, opusConfig(), "", 0)
					time.Sleep(7 * time.Second)
					modern.f.Close()
					if c.first.family() == pcmu {
						for _, f := range *track.forwarders.Load() {
							f.SetSettings(Settings{Disabled: true})
						}
					}
					time.Sleep(6 * time.Second)
					backup.layer.Close()
				} else {
					newSender(track, 2, redConfig(), "", 0)
					time.Sleep(2 * time.Second)
					modern.f.Close()
					time.Sleep(8 * time.Second)
					newReceiver(track, opusConfig(), nil)
				}
				synctest.Wait()
				require.Equal(t, c.want, log)
			})
		})
	}
}
