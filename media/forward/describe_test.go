package forward

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"

	"parlor/media/forward/dd"
	"parlor/media/forward/dd/ddtest"
)

const describedID = 12

// oneLayer is the structure of a stream with one layer, such as each layer of a
// simulcast.
func oneLayer() *ddtest.Structure {
	return &ddtest.Structure{
		Templates: []ddtest.Template{
			{Targets: "S", Chains: []int{0}},
			{Targets: "S", Diffs: []int{1}, Chains: []int{1}},
		},
		ChainOf: []int{0},
	}
}

// describedPacket makes the only packet of a frame, with a dependency descriptor.
func (s *sender) describedPacket(payload []byte, descriptor []byte) []byte {
	p := rtp.Packet{Header: rtp.Header{
		Version: 2, Marker: true, PayloadType: s.pt, SequenceNumber: s.seq, Timestamp: s.ts, SSRC: s.ssrc,
	}, Payload: payload}
	p.ExtensionProfile = rtp.ExtensionProfileTwoByte
	if err := p.SetExtension(describedID, descriptor); err != nil {
		panic(err)
	}
	b, err := p.Marshal()
	if err != nil {
		panic(err)
	}
	s.seq++
	s.next()
	return b
}

func withDescriptors(c *ForwarderConfig) { c.Ext.DependencyDescriptor = describedID }

// Chromium counts the frames of all layers of a simulcast in one series. The keyframe of
// a later layer may have a lower number than the forwarded frames of another layer, and
// must still follow them.
func TestDescriptorsCountOnOverASwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track, q, h, _ := simulcast(t)
		r := newReceiver(track, vp8Config(), withDescriptors)
		s := oneLayer()
		send := func(from *sender, number uint16, key bool) {
			template := 1
			if key {
				template = 0
			}
			from.at = time.Now()
			from.layer.WriteRTP(from.describedPacket(from.vp8Payload(true, key, 0, 100), s.Encode(ddtest.Frame{
				Start: true, End: true, Template: template, Number: number, Structure: key, Active: -1,
			})), from.at)
			time.Sleep(time.Millisecond)
		}
		send(q, 1, true)
		for _, n := range []uint16{2, 3, 4, 6, 8} {
			send(q, n, false)
		}
		send(h, 5, true)
		send(h, 7, false)
		send(h, 9, false)
		require.Equal(t, []uint16{1, 2, 3, 4, 6, 8, 9, 11, 13}, frameNumbers(t, r.take()))

		// The same holds after a pause, and after a restart of the publisher.
		track.SetMuted(true)
		track.SetMuted(false)
		send(h, 3, true)
		send(h, 4, false)
		require.Equal(t, []uint16{14, 15}, frameNumbers(t, r.take()))
		h.ssrc = 77
		send(h, 60000, true)
		send(h, 60001, false)
		send(h, 60002, false)
		require.Equal(t, []uint16{16, 17, 18}, frameNumbers(t, r.take()))
	})
}

// frameNumbers are the frame numbers in packets. Each descriptor is parsed with the
// structure in force, as a receiver does, and template ids of different structures must
// differ.
func frameNumbers(t *testing.T, packets []rtp.Packet) (numbers []uint16) {
	t.Helper()
	var structure *dd.Structure
	for _, p := range packets {
		var f dd.Frame
		require.NoError(t, f.Parse(p.GetExtension(describedID), structure))
		if f.NewStructure && structure != nil {
			require.ErrorIs(t, new(dd.Frame).Parse(p.GetExtension(describedID)[:3], structure), dd.ErrInvalid)
		}
		structure = f.Structure
		numbers = append(numbers, f.Number)
	}
	return numbers
}

// A retransmission is the same as the original.
func TestDescriptorsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track, q, h, _ := simulcast(t)
		r := newReceiver(track, vp8Config(), withDescriptors)
		s := oneLayer()
		key := ddtest.Frame{Start: true, End: true, Structure: true, Active: -1, Number: 900}
		q.layer.WriteRTP(q.describedPacket(q.vp8Payload(true, true, 0, 100), s.Encode(key)), q.at)
		key.Number = 100
		h.layer.WriteRTP(h.describedPacket(h.vp8Payload(true, true, 0, 100), s.Encode(key)), h.at)
		sent := r.take()
		require.Len(t, sent, 2)
		r.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{
			MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{sent[1].SequenceNumber}),
		}})
		again := r.take()
		require.Len(t, again, 1)
		require.Equal(t, sent[1].GetExtension(describedID), again[0].GetExtension(describedID))
	})
}

// A receiver drops packets with a descriptor before it has the structure, so a source
// that begins without a structure is forwarded without descriptors.
func TestNoDescriptorWithoutItsStructure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track, q, _, _ := simulcast(t)
		r := newReceiver(track, vp8Config(), withDescriptors)
		s := oneLayer()
		delta := s.Encode(ddtest.Frame{Start: true, End: true, Template: 1, Number: 7, Active: -1})
		q.layer.WriteRTP(q.describedPacket(q.vp8Payload(true, true, 0, 100), delta), q.at)
		q.layer.WriteRTP(q.describedPacket(q.vp8Payload(true, false, 0, 100), delta), q.at)
		key := s.Encode(ddtest.Frame{Start: true, End: true, Number: 8, Structure: true, Active: -1})
		q.layer.WriteRTP(q.describedPacket(q.vp8Payload(true, true, 0, 100), key), q.at)
		packets := r.take()
		require.Len(t, packets, 3)
		require.Nil(t, packets[0].GetExtension(describedID))
		require.Nil(t, packets[1].GetExtension(describedID))
		require.Equal(t, key, packets[2].GetExtension(describedID))
	})
}

// VP9's picture numbers are continuous too, for receivers without descriptors.
func TestVP9NumbersCountOnOverASwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		codec := Codec{MimeType: "video/VP9", ClockRate: 90000, PayloadType: 98}
		track := newTestTrack(t, livekit.TrackType_VIDEO, codec)
		low := newSender(track, 1, codec, "q", livekit.VideoQuality_LOW)
		high := newSender(track, 2, codec, "h", livekit.VideoQuality_MEDIUM)
		r := newReceiver(track, codec, nil)
		send := func(from *sender, picture uint16, tl0 uint8, key bool) {
			first := byte(0x80 | 0x20 | 0x08 | 0x04) // I, L, B, E
			if !key {
				first |= 0x40
			}
			from.layer.WriteRTP(from.packet(true, []byte{first, 0x80 | byte(picture>>8), byte(picture), 0, tl0, 1, 2}), from.at)
			from.next()
		}
		send(low, 0x7fff, 255, true)
		send(low, 0, 0, false)
		send(high, 300, 9, true)
		send(high, 301, 10, false)
		var got [][]byte
		for _, p := range r.take() {
			got = append(got, p.Payload[1:5])
		}
		require.Equal(t, [][]byte{{0xff, 0xff, 0, 255}, {0x80, 0, 0, 0}, {0x80, 1, 0, 1}, {0x80, 2, 0, 2}}, got)
	})
}
