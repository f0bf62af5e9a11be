package unpack_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"parlor/server/unpack"
)

const plenty = 1 << 40

// allocated is how many bytes f allocates.
func allocated(f func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// TestTheEstimateIsNoLess: decoding a message allocates no more than was estimated,
// also if it repeats any field with as few bytes as possible.
func TestTheEstimateIsNoLess(t *testing.T) {
	for _, m := range []proto.Message{
		&livekit.CreateRoomRequest{}, &livekit.UpdateParticipantRequest{}, &livekit.UpdateSubscriptionsRequest{}, &livekit.ListRoomsRequest{},
		&livekit.SendDataRequest{}, &livekit.JoinRequest{}, &livekit.AddTrackRequest{}, &livekit.SyncState{}, &livekit.SessionDescription{},
		&livekit.UpdateSubscription{}, &livekit.TrackInfo{}, &livekit.SubscriptionPermission{}, &livekit.UpdateLocalAudioTrack{},
	} {
		shape := unpack.ShapeOf(m)
		fields := m.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			f := fields.Get(i)
			if !f.IsList() && !f.IsMap() {
				continue
			}
			const n = 50_000
			var wire []byte
			for k := range n {
				switch {
				case f.IsMap(): // distinct keys: the same one would be held once
					wire = protowire.AppendTag(wire, f.Number(), protowire.BytesType)
					entry := protowire.AppendTag(nil, 1, protowire.BytesType)
					entry = protowire.AppendString(entry, string(rune('0'+k)))
					wire = protowire.AppendBytes(wire, entry)
				case f.IsPacked():
					if wire == nil {
						wire = protowire.AppendBytes(protowire.AppendTag(nil, f.Number(), protowire.BytesType), make([]byte, n))
					}
				default:
					wire = append(protowire.AppendTag(wire, f.Number(), protowire.BytesType), 0)
				}
			}
			took := allocated(func() { require.NoError(t, proto.Unmarshal(wire, m.ProtoReflect().New().Interface())) })
			cost, err := shape.Binary(wire, plenty)
			require.NoError(t, err)
			// Lists double as they grow: twice of what is held at the end goes through the heap.
			require.GreaterOrEqual(t, 2*cost, took, "%s: %d bytes", f.FullName(), len(wire))
			_, err = shape.Binary(wire, cost/2)
			require.ErrorIs(t, err, unpack.ErrTooMuch)
			if f.Kind() == protoreflect.MessageKind && !f.IsMap() {
				text := []byte(`{"` + f.JSONName() + `":[{}` + strings.Repeat(",{}", n-1) + `]}`)
				cost, err := shape.JSON(text, plenty)
				require.NoError(t, err)
				parsed := m.ProtoReflect().New().Interface()
				require.NoError(t, protojson.Unmarshal(text, parsed))
				list := parsed.ProtoReflect().Get(f).List().Len()
				require.Equal(t, n, list)
				runtime.KeepAlive(parsed)
				require.Greater(t, cost, int64(n)*int64(proto.Size(parsed)/n), "%s", f.FullName())
			}
		}
	}
}

func TestTheEstimateOfJSONIsNoLess(t *testing.T) {
	const n = 50_000
	for name, text := range map[string]string{
		"objects": "[{}" + strings.Repeat(",{}", n) + "]",
		"filled":  `[{"":0}` + strings.Repeat(`,{"":0}`, n) + "]",
		"lists":   "[[]" + strings.Repeat(",[]", n) + "]",
		"numbers": "[1" + strings.Repeat(",1", n) + "]",
		"strings": `[""` + strings.Repeat(`,""`, n) + "]",
	} {
		var tree any
		took := allocated(func() {
			d := json.NewDecoder(strings.NewReader(text))
			d.UseNumber()
			require.NoError(t, d.Decode(&tree))
		})
		cost, err := unpack.JSON([]byte(text), plenty)
		require.NoError(t, err)
		require.GreaterOrEqual(t, 2*cost, took, name)
		_, err = unpack.JSON([]byte(text), cost-1)
		require.ErrorIs(t, err, unpack.ErrTooMuch)
	}
	_, err := unpack.JSON([]byte(strings.Repeat("[", 100)), plenty)
	require.ErrorIs(t, err, unpack.ErrTooDeep)
	cost, err := unpack.JSON([]byte(`{"a":"[[[[{{{{,,,,\"[[[["}`), plenty)
	require.NoError(t, err)
	require.Less(t, cost, int64(1000), "what stands in strings is no value")
}

// TestOrdinaryMessagesFit: what clients send is far below the bounds.
func TestOrdinaryMessagesFit(t *testing.T) {
	req := &livekit.SyncState{Answer: &livekit.SessionDescription{Sdp: strings.Repeat("a=rtpmap:96 VP8/90000\r\n", 20_000)}, Subscription: &livekit.UpdateSubscription{}}
	for range 2000 {
		req.Subscription.TrackSids = append(req.Subscription.TrackSids, "TR_VCabcdefghijkl")
	}
	for range 20 {
		req.PublishTracks = append(req.PublishTracks, &livekit.TrackPublishedResponse{Cid: "x", Track: &livekit.TrackInfo{Layers: make([]*livekit.VideoLayer, 3)}})
	}
	wire, err := proto.Marshal(req)
	require.NoError(t, err)
	_, err = unpack.ShapeOf(req).Binary(wire, 2*int64(len(wire))+256<<10)
	require.NoError(t, err)
	text, err := protojson.Marshal(req)
	require.NoError(t, err)
	_, err = unpack.ShapeOf(req).JSON(text, 2*int64(len(text))+256<<10)
	require.NoError(t, err)
}

func FuzzBinary(f *testing.F) {
	shape := unpack.ShapeOf(&livekit.SignalRequest{})
	f.Add([]byte{0x0a, 0x02, 0x0a, 0x00})
	f.Add([]byte{0xff})
	f.Add(bytes.Repeat([]byte{0x0b}, 200)) // groups in groups
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := shape.Binary(b, plenty)
		if proto.Unmarshal(b, &livekit.SignalRequest{}) == nil && err != nil {
			require.ErrorIs(t, err, unpack.ErrTooDeep, "what can be read has an estimate")
		}
	})
}

func TestGunzip(t *testing.T) {
	pack := func(b []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		_, err := w.Write(b)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return out.Bytes()
	}
	out, err := unpack.Gunzip(pack(make([]byte, 60<<10)), 1<<20)
	require.NoError(t, err, "what is small may have any ratio")
	require.Len(t, out, 60<<10)
	_, err = unpack.Gunzip(pack(make([]byte, 1<<20)), 1<<20)
	require.ErrorIs(t, err, unpack.ErrTooMuch)
	_, err = unpack.Gunzip(pack(make([]byte, 1<<10)), 1<<9)
	require.ErrorIs(t, err, unpack.ErrTooLong)
	_, err = unpack.Gunzip([]byte("no"), 1<<20)
	require.ErrorIs(t, err, unpack.ErrMalformed)
}

func TestSDP(t *testing.T) {
	ordinary := "v=0\r\n" + strings.Repeat("m=video 9 UDP/TLS/RTP/SAVPF 96\r\n"+strings.Repeat("a=rtpmap:96 VP8/90000\r\n", 30), 1000)
	require.NoError(t, unpack.SDP(ordinary))
	for name, text := range map[string]string{
		"sections":   strings.Repeat("m=a 9 b 0\n", 3000),
		"lines":      "m=a 9 b 0\n" + strings.Repeat("a=x\n", 300),
		"candidates": "m=a 9 b 0\n" + strings.Repeat("a=candidate:1\n", 65),
	} {
		require.ErrorIs(t, unpack.SDP(text), unpack.ErrTooMuch, name)
	}
	require.ErrorIs(t, unpack.SDP(strings.Repeat("x", 2<<20)), unpack.ErrTooLong)
}

// TestTheGuardBoundsWhatIsDecodedAtOneTime, but not small messages.
func TestTheGuardBoundsWhatIsDecodedAtOneTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := unpack.NewGuard()
		ctx := context.Background()
		leave, err := g.Enter(ctx, 64<<20)
		require.NoError(t, err)
		began := time.Now()
		_, err = g.Enter(ctx, 64<<10)
		require.ErrorIs(t, err, unpack.ErrBusy)
		require.Equal(t, 10*time.Second, time.Since(began))
		other, err := g.Enter(ctx, 100)
		require.NoError(t, err)
		other()
		leave()
		leave() // gives back once
		again, err := g.Enter(ctx, plenty)
		require.NoError(t, err)
		defer again()
		gone, cancel := context.WithCancel(ctx)
		cancel()
		_, err = g.Enter(gone, 64<<10)
		require.ErrorIs(t, err, context.Canceled)
	})
}
