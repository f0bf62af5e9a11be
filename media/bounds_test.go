package media

import (
	"fmt"
	"reflect"
	"testing"
	"time"
	"unsafe"

	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// If a section names new SSRCs with each offer, only the newest streams are kept, up to
// the bound, and the older ones have ended.
func TestStreamsOfASectionAreBounded(t *testing.T) {
	p := &Peer{}
	s := &upSection{p: p, t: &transport{ingress: newIngress(func() {})}}
	for ssrc := range uint32(3 * maxSectionStreams) {
		u := s.stream(ssrc+1, "")
		require.Same(t, u, s.stream(ssrc+1, ""))
		require.LessOrEqual(t, len(s.streams), maxSectionStreams)
	}
	require.Len(t, s.streams, maxSectionStreams)
	require.EqualValues(t, 2*maxSectionStreams+1, s.streams[0].ssrc, "the oldest that is left")
	require.EqualValues(t, 3*maxSectionStreams, s.streams[maxSectionStreams-1].ssrc)
	s.stream(1, "q")
	last := s.stream(2, "q") // a layer that restarts
	require.Len(t, s.streams, maxSectionStreams)
	require.Same(t, last, s.streams[len(s.streams)-1])
}

// A stream that repairs one that has not come yet is kept for the next stream of that rid alone, as
// long as the client sends in the section, and only for a rid that the section has.
func TestARepairThatComesFirstIsKeptForOneStream(t *testing.T) {
	p := &Peer{}
	s := &upSection{p: p, t: &transport{ingress: newIngress(func() {})}, offeredSection: offeredSection{sends: true, rids: []string{"q", "h"}}}
	s.repairedBy("q", 9)
	require.Zero(t, s.stream(1, "h").repair)
	require.EqualValues(t, 9, s.stream(2, "q").repair)
	require.Zero(t, s.stream(3, "q").repair, "it repaired the former")
	s.repairedBy("h", 8)
	require.EqualValues(t, 8, s.stream(1, "h").repair)
	require.Zero(t, s.stream(4, "h").repair, "that one was not early")
	for i := range uint32(100) {
		s.repairedBy(fmt.Sprint(i), i+10)
	}
	require.Empty(t, s.early, "the client may name any")

	s = &upSection{p: p, t: s.t, offeredSection: offeredSection{sends: true, rids: []string{"q"}}}
	s.repairedBy("q", 9)
	p.updateSection(s, offeredSection{})
	p.updateSection(s, offeredSection{sends: true, rids: []string{"q"}})
	require.Zero(t, s.stream(1, "q").repair, "the client has stopped sending in between")
}

// A message that exceeds the announced maximum makes its sender reconnect, and harms no
// other client.
func TestAMessageThatIsTooLong(t *testing.T) {
	e := newTestEngine(t, nil)
	w := newWitness(t, e)
	for i, size := range []int{rooms.MaxDataPacket + 1, 1 << 19} {
		a := newClient(t, e, clientConfig{sid: fmt.Sprint("PA_", i), single: true})
		long, err := a.pub.CreateDataChannel("long", nil)
		require.NoError(t, err)
		a.join()
		require.Eventually(t, func() bool { return long.ReadyState() == webrtc.DataChannelStateOpen }, patience, time.Millisecond)
		require.NoError(t, long.Send(make([]byte, rooms.MaxDataPacket)))
		require.Len(t, a.events.wait(t, "message").data, rooms.MaxDataPacket)
		require.Error(t, long.Send(make([]byte, size)), "the server has said what it takes")

		setMaxMessageSize(a.pub, 2<<20) // a client that ignores the bound
		require.NoError(t, long.Send(make([]byte, size)))
		require.Contains(t, a.events.wait(t, "reconnect").label, "longer")
		require.EqualValues(t, i+1, e.Stats().DataRefused)
	}
	w.isWell()
}

// setMaxMessageSize changes what a client takes for the server's maximum message size,
// which pion does not permit.
func setMaxMessageSize(pc *webrtc.PeerConnection, n uint32) {
	field := reflect.ValueOf(pc.SCTP()).Elem().FieldByName("sctpAssociation")
	association := reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem().Interface()
	association.(interface{ SetMaxMessageSize(n uint32) }).SetMaxMessageSize(n)
}
