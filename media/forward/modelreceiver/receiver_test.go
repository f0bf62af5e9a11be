package modelreceiver

import (
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink/sent"
)

// Frames whose base layer was lost for so long that TL0PICIDX has wrapped around must not
// confuse the receiver about the frames that follow the next keyframe.
func TestALongGapEndsWithTheNextKeyframe(t *testing.T) {
	now := time.Unix(1000, 0)
	r := New(Config{SSRC: 1, Codecs: map[uint8]string{96: "video/VP8"}, Now: func() time.Time { return now }})
	var sequence, picture uint16
	var tl0 uint8
	frame := func(temporal int, key, arrives bool) {
		if temporal == 0 {
			tl0++
		}
		picture++
		sequence++
		now = now.Add(33 * time.Millisecond)
		if !arrives {
			return
		}
		start := byte(1) // the frame is not a keyframe
		if key {
			start = 0
		}
		payload := []byte{0x90, 0xe0, 0x80 | byte(picture>>8), byte(picture), tl0, byte(temporal) << 6, start, 0, 0}
		h := rtp.Header{Version: 2, PayloadType: 96, SSRC: 1, SequenceNumber: sequence, Timestamp: uint32(picture) * 2970, Marker: true}
		require.NoError(t, r.Write(&h, payload, sent.Video))
		r.Tick()
	}
	frame(0, true, true)
	frame(0, false, false) // all that follow depend on it
	for range 200 {
		frame(0, false, true)
		frame(1, false, true)
	}
	frame(0, true, true)
	for range 20 {
		frame(0, false, true)
		frame(1, false, true)
	}
	now = now.Add(time.Second)
	r.Tick()
	decoded := 0
	for _, f := range r.Frames() {
		if !f.Decoded.IsZero() {
			decoded++
		}
	}
	require.Equal(t, 1+1+40, decoded)
}

// A frame that can be decoded waits for packets before it for as long as a browser puts off
// showing it. One that a queue has held up for longer is shown when it comes.
func TestAFrameThatIsLateAlreadyWaitsForNothing(t *testing.T) {
	for _, queue := range []time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond} {
		now := time.Unix(1000, 0)
		r := New(Config{SSRC: 1, Codecs: map[uint8]string{96: "video/VP8"}, Now: func() time.Time { return now }})
		write := func(sequence uint16, key bool) {
			start := byte(1)
			if key {
				start = 0
			}
			payload := []byte{0x90, 0xe0, 0x80, byte(sequence), byte(sequence), 0, start, 0, 0}
			h := rtp.Header{Version: 2, PayloadType: 96, SSRC: 1, SequenceNumber: sequence, Timestamp: uint32(sequence) * 2970, Marker: true}
			require.NoError(t, r.Write(&h, payload, sent.Video))
		}
		for sequence := uint16(1); sequence <= 20; sequence++ {
			now = now.Add(33 * time.Millisecond)
			write(sequence, sequence == 1)
		}
		now = now.Add(2*33*time.Millisecond + queue)
		write(22, true) // 21 was lost
		came := now
		for range 20 {
			now = now.Add(10 * time.Millisecond)
			r.Tick()
		}
		frames := r.Frames()
		last := frames[len(frames)-1]
		require.Equal(t, max(hold-queue, 0), last.Decoded.Sub(came).Round(5*time.Millisecond), "a queue of %s", queue)
	}
}
