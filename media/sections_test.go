package media

import (
	"fmt"
	"testing"

	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

// offerOf is pion's offer for that many sections of each kind that we send.
func offerOf(tb testing.TB, sections int) (string, map[string]audioShape) {
	tb.Helper()
	set, err := newCodecSet(nil)
	require.NoError(tb, err)
	m, err := set.mediaEngine(roleSubscriber)
	require.NoError(tb, err)
	pc, err := webrtc.NewAPI(webrtc.WithMediaEngine(m), webrtc.WithInterceptorRegistry(noInterceptors())).NewPeerConnection(webrtc.Configuration{})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, pc.Close()) })
	shapes := map[string]audioShape{}
	for i := range sections {
		for _, kind := range []webrtc.RTPCodecType{webrtc.RTPCodecTypeAudio, webrtc.RTPCodecTypeVideo} {
			_, err := pc.AddTransceiverFromKind(kind)
			require.NoError(tb, err)
		}
		shapes[fmt.Sprint(2*i)] = audioShape{nack: true, sends: true}
	}
	offer, err := pc.CreateOffer(nil)
	require.NoError(tb, err)
	return offer.SDP, shapes
}

func BenchmarkShapeOffer(b *testing.B) {
	text, shapes := offerOf(b, 10)
	b.ReportAllocs()
	for b.Loop() {
		shapeOffer(text, shapes, true)
	}
}
