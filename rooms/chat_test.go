package rooms_test

import (
	"bytes"
	"compress/flate"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"parlor/rooms"
)

// keepsChat opens a room that keeps its chat.
func (h *house) keepsChat(room string) {
	h.t.Helper()
	_, err := h.Rooms.Create(h.t.Context(), &livekit.CreateRoomRequest{Name: room}, func(c *rooms.RoomConfig) { c.KeepChat = true })
	require.NoError(h.t, err)
}

// kept is what a room keeps of its chat, as sender and text.
func (h *house) kept(room string) []string {
	h.t.Helper()
	h.flush(room)
	rec, err := h.store.FindOpen(h.t.Context(), room)
	require.NoError(h.t, err)
	all, err := h.store.Chat(h.t.Context(), rec.SID)
	require.NoError(h.t, err)
	out := []string{}
	for _, m := range all {
		if m.Text != "" { // else it was deleted
			out = append(out, m.Identity+": "+m.Text)
		}
	}
	return out
}

// sends sends reliable packets, and waits until the room has handled them.
func (c *client) sends(t *testing.T, packets ...*livekit.DataPacket) {
	t.Helper()
	for _, dp := range packets {
		b, err := proto.Marshal(dp)
		require.NoError(t, err)
		c.Data(livekit.DataPacket_RELIABLE, b)
	}
	c.Sync()
}

func header(id string, edit ...func(*livekit.DataStream_Header)) *livekit.DataPacket {
	h := &livekit.DataStream_Header{
		StreamId: id, Topic: "lk.chat", MimeType: "text/plain",
		ContentHeader: &livekit.DataStream_Header_TextHeader{TextHeader: &livekit.DataStream_TextHeader{}},
	}
	for _, e := range edit {
		e(h)
	}
	return &livekit.DataPacket{Value: &livekit.DataPacket_StreamHeader{StreamHeader: h}}
}

func inline(content string) func(*livekit.DataStream_Header) {
	return func(h *livekit.DataStream_Header) { h.InlineContent = []byte(content) }
}

func compressed(h *livekit.DataStream_Header) { h.Compression = livekit.DataStream_DEFLATE_RAW }

func chunk(id string, index uint64, content string) *livekit.DataPacket {
	return &livekit.DataPacket{Value: &livekit.DataPacket_StreamChunk{StreamChunk: &livekit.DataStream_Chunk{
		StreamId: id, ChunkIndex: index, Content: []byte(content),
	}}}
}

func trailer(id string) *livekit.DataPacket {
	return &livekit.DataPacket{Value: &livekit.DataPacket_StreamTrailer{StreamTrailer: &livekit.DataStream_Trailer{StreamId: id}}}
}

func chatPacket(m *livekit.ChatMessage) *livekit.DataPacket {
	return &livekit.DataPacket{Value: &livekit.DataPacket_ChatMessage{ChatMessage: m}}
}

func to(identity string, dp *livekit.DataPacket) *livekit.DataPacket {
	dp.DestinationIdentities = []string{identity}
	return dp
}

func deflate(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	require.NoError(t, err)
	_, err = w.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.String()
}

// Every form in which LiveKit's clients send a message is kept, as what its true sender wrote.
func TestChatIsKept(t *testing.T) {
	h := newHouse(t)
	h.keepsChat("tea")
	ann := h.join("tea", "ann", func(r *rooms.JoinRequest) { r.Info.Name = "Ann" })
	bob := h.join("tea", "bob")
	ann.sends(t, header("1", inline("at once")))
	bob.sends(t, header("1", inline(deflate(t, "deflated")), compressed))
	ann.sends(t, header("2"), header("3"), chunk("2", 0, "in "), chunk("3", 0, "between"), chunk("2", 1, "pieces"), trailer("3"), trailer("2"))
	long := deflate(t, strings.Repeat("long ", 2000))
	ann.sends(t, header("4", compressed), chunk("4", 0, long[:10]), chunk("4", 1, long[10:]), trailer("4"))
	bob.sends(t, chatPacket(&livekit.ChatMessage{Id: "5", Message: "a packet"}))
	topic := "lk-chat-topic"
	old := &livekit.DataPacket{ParticipantIdentity: "bob", Value: &livekit.DataPacket_User{User: &livekit.UserPacket{
		Topic: &topic, Payload: []byte(`{"id":"6","timestamp":1,"message":"as older apps do"}`),
	}}}
	bob.sends(t, old)
	bob.sends(t, &livekit.DataPacket{Value: &livekit.DataPacket_User{User: &livekit.UserPacket{
		Topic: &topic, Payload: []byte(`{"id":"7","message":"sent twice","ignoreLegacy":true}`),
	}}})
	want := []string{
		"ann: at once", "bob: deflated", "ann: between", "ann: in pieces", "ann: " + strings.Repeat("long ", 2000), "bob: a packet", "bob: as older apps do",
	}
	require.Equal(t, want, h.kept("tea"))

	// What comes again under the id of its sender's is an edit, as clients take it.
	bob.sends(t, chatPacket(&livekit.ChatMessage{Id: "5", Message: "again under the same id"}), header("6", inline("")))
	require.Equal(t, append(want[:5:5], "bob: again under the same id"), h.kept("tea"))

	stamp := time.Now().UnixMilli()
	bob.sends(t, chatPacket(&livekit.ChatMessage{Id: "5", Message: "an edited packet", EditTimestamp: &stamp}),
		chatPacket(&livekit.ChatMessage{Id: "2", Message: "not his", EditTimestamp: &stamp}),
		chatPacket(&livekit.ChatMessage{Id: "7", Deleted: true}))
	want = append(want[:5:5], "bob: an edited packet")
	require.Equal(t, want, h.kept("tea"))

	// Text streams edit and delete what their sender wrote, too.
	as := func(what livekit.DataStream_OperationType) func(*livekit.DataStream_Header) {
		return func(h *livekit.DataStream_Header) { h.GetTextHeader().OperationType = what }
	}
	ann.sends(t, header("1", as(livekit.DataStream_UPDATE), inline("edited at once")), header("2", as(livekit.DataStream_UPDATE)), chunk("2", 0, "edited in pieces"), trailer("2"),
		header("3", as(livekit.DataStream_DELETE)), header("5", as(livekit.DataStream_UPDATE), inline("not hers")), header("4", as(livekit.DataStream_REACTION), inline("x")))
	want = []string{"ann: edited at once", "bob: deflated", "ann: edited in pieces", want[4], "bob: an edited packet"}
	require.Equal(t, want, h.kept("tea"))

	// A host deletes any, and everybody is told.
	before := len(bob.packets())
	require.NoError(t, h.DeleteChat(t.Context(), "tea", rooms.ChatID{Identity: "ann", ID: "2"}))
	require.NoError(t, h.DeleteChat(t.Context(), "tea", rooms.ChatID{Identity: "ann", ID: "none"}))
	want = append(want[:2:2], want[3:]...)
	require.Equal(t, want, h.kept("tea"))
	require.JSONEq(t, `{"kept":true,"deleted":{"identity":"ann","id":"2"}}`, string(bob.packets()[before].GetUser().GetPayload()))
	ann.sends(t, header("2", inline("again under the same id")), header("2", as(livekit.DataStream_UPDATE), inline("edited after all")), header("3", inline("again")))
	require.Equal(t, want, h.kept("tea"), "what was deleted stays so")
	h.restart()
	require.Equal(t, want, h.kept("tea"))
	all, err := h.store.Chat(t.Context(), ann.snap.Room.Sid)
	require.NoError(t, err)
	require.Equal(t, []any{"1", "Ann", "bob", int64(0)}, []any{all[0].ID, all[0].Name, all[1].Identity, all[1].EditedMs})
	require.NotZero(t, all[0].EditedMs)
	require.Equal(t, "bob: an edited packet", all[5].Identity+": "+all[5].Text)
	require.NotZero(t, all[5].EditedMs)

	require.NoError(t, h.Delete(t.Context(), "tea"))
	all, err = h.store.Chat(t.Context(), ann.snap.Room.Sid)
	require.NoError(t, err)
	require.Empty(t, all, "it ends with the room")
}

func TestWhatOfTheChatIsNotKept(t *testing.T) {
	h := newHouse(t)
	h.keepsChat("tea")
	ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
	hidden := h.join("tea", "eve", func(r *rooms.JoinRequest) { r.Info.Permission.Hidden = true })
	mute := h.join("tea", "mute", func(r *rooms.JoinRequest) { r.Info.Permission.CanPublishData = false })
	huge := strings.Repeat("x", 1<<14+1)
	for what, packets := range map[string][]*livekit.DataPacket{
		"to one alone":                  {to("bob", header("1", inline("secret")))},
		"begun in public, then to one":  {header("2"), to("bob", chunk("2", 0, "secret")), chunk("2", 1, "!"), trailer("2")},
		"ended to one":                  {header("3"), chunk("3", 0, "secret"), to("bob", trailer("3"))},
		"a packet to one":               {to("bob", chatPacket(&livekit.ChatMessage{Id: "4", Message: "secret"}))},
		"another topic":                 {header("5", inline("x"), func(h *livekit.DataStream_Header) { h.Topic = "lk.transcription" })},
		"a file":                        {header("6", inline("x"), func(h *livekit.DataStream_Header) { h.ContentHeader = &livekit.DataStream_Header_ByteHeader{} })},
		"encrypted":                     {header("7", inline("x"), func(h *livekit.DataStream_Header) { h.EncryptionType = livekit.Encryption_GCM })},
		"encrypted as a whole":          {{Value: &livekit.DataPacket_EncryptedPacket{EncryptedPacket: &livekit.EncryptedPacket{EncryptedValue: []byte("x")}}}},
		"not ended":                     {header("8"), chunk("8", 0, "x")},
		"interrupted":                   {header("9"), chunk("9", 0, "x"), {Value: &livekit.DataPacket_StreamTrailer{StreamTrailer: &livekit.DataStream_Trailer{StreamId: "9", Reason: "error"}}}},
		"with a hole":                   {header("10"), chunk("10", 0, "x"), chunk("10", 2, "y"), trailer("10")},
		"never begun":                   {chunk("11", 0, "x"), trailer("11")},
		"empty":                         {header("12", inline("")), header("13"), trailer("13")},
		"too long":                      {header("14", inline(huge))},
		"too long in pieces":            {header("15"), chunk("15", 0, huge[:10_000]), chunk("15", 1, huge[:10_000]), trailer("15")},
		"said to be too long":           {header("16", inline("x"), func(h *livekit.DataStream_Header) { n := uint64(1 << 20); h.TotalLength = &n })},
		"a bomb":                        {header("17", inline(deflate(t, strings.Repeat("x", 1<<24))), compressed)},
		"not deflated as it says":       {header("18", inline("\xff\xff\xff"), compressed)},
		"compressed in an unknown way":  {header("19", inline("x"), func(h *livekit.DataStream_Header) { h.Compression = 7 })},
		"not UTF-8":                     {header("20", inline("\xff"))},
		"a NUL":                         {header("21", inline("a\x00b"))},
		"under a name without end":      {header(strings.Repeat("i", 129), inline("x"))},
		"a stream without an id":        {header("", inline("x"))},
		"under a part of a path":        {header(".", inline("x")), header("..", inline("x"))},
		"an edit of nothing":            {chatPacket(&livekit.ChatMessage{Id: "22", Message: "x", EditTimestamp: proto.Int64(1)})},
		"a deletion of nothing":         {chatPacket(&livekit.ChatMessage{Id: "23", Deleted: true})},
		"a change of a stream":          {header("24", inline("x"), func(h *livekit.DataStream_Header) { h.GetTextHeader().OperationType = livekit.DataStream_UPDATE })},
		"a packet that names no sender": {chatPacket(&livekit.ChatMessage{Message: "x"})},
	} {
		ann.sends(t, packets...)
		require.Empty(t, h.kept("tea"), what)
	}
	hidden.sends(t, header("1", inline("boo")))
	h.join("tea", "..").sends(t, header("1", inline("up")))
	mute.sends(t, header("1", inline("mm")))
	require.Empty(t, h.kept("tea"))
	agent := h.join("tea", "agent", anAgent)
	for _, generated := range []*livekit.DataPacket{header("1", inline("what ann said")), chatPacket(&livekit.ChatMessage{Id: "2", Message: "what ann said"})} {
		generated.ParticipantIdentity = "ann"
		agent.sends(t, generated)
	}
	require.Empty(t, h.kept("tea"), "a text that an agent generated for ann")
	b, err := proto.Marshal(header("30", inline("lossy")))
	require.NoError(t, err)
	ann.Data(livekit.DataPacket_LOSSY, b)
	ann.Sync()
	require.Empty(t, h.kept("tea"))

	off := false
	bob.sends(t, header("1", inline("hello")))
	require.Equal(t, []string{"bob: hello"}, h.kept("tea"))
	_, err = h.Edit(t.Context(), "tea", rooms.RoomEdit{KeepChat: &off})
	require.NoError(t, err)
	bob.sends(t, header("2", inline("off the record")))
	require.Empty(t, h.kept("tea"), "what was kept is deleted, and nothing is kept")
	var told []string
	for _, p := range ann.packets() {
		if u := p.GetUser(); u.GetTopic() == rooms.ChatTopic {
			told = append(told, string(u.Payload))
		}
	}
	require.Equal(t, []string{`{"kept":false}`}, told)
	h.join("plain", "ann").sends(t, header("1", inline("hello")))
	require.Empty(t, h.kept("plain"), "a room keeps nothing unless told to")
}

// The newest messages stay, within bounds that no sender can exceed.
func TestKeptChatIsBounded(t *testing.T) {
	h := newHouse(t)
	h.keepsChat("tea")
	ann := h.join("tea", "ann")
	for n := range 1000 {
		ann.sends(t, header(fmt.Sprint(n), inline(fmt.Sprint(n))))
	}
	fast := h.kept("tea")
	require.GreaterOrEqual(t, len(fast), 30, "a burst")
	require.Less(t, len(fast), 200)
	require.Equal(t, uint64(1000-len(fast)), h.Stats().ChatUnkept.Rate)

	say := func(n int, text string) {
		c := h.join("tea", fmt.Sprint("guest", n/20))
		c.sends(t, header(fmt.Sprint(n), inline(text)))
	}
	for n := range rooms.MostChat + 5 {
		say(n, fmt.Sprint(n))
	}
	all := h.kept("tea")
	require.Len(t, all, rooms.MostChat)
	require.True(t, strings.HasSuffix(all[0], ": 5"), all[0])
	loud := h.join("tea", "loud")
	for n := range 20 {
		loud.sends(t, header(fmt.Sprint("loud", n), inline(strings.Repeat("x", 1<<14-20))))
	}
	require.Len(t, h.kept("tea"), rooms.MostChat, "one guest's long messages do not push out all others")
	for n := range 20 {
		say(1000+n, strings.Repeat("x", 1<<14-20)+fmt.Sprint(n))
	}
	all = h.kept("tea")
	require.LessOrEqual(t, len(strings.Join(all, "")), rooms.MostChatBytes)
	require.Equal(t, 16, len(all))
	require.True(t, strings.HasSuffix(all[15], "x19"))
	for n := range 100 { // streams that never end
		ann.sends(t, header(fmt.Sprint("open", n)), chunk(fmt.Sprint("open", n), 0, "x"))
	}
	require.Equal(t, all, h.kept("tea"))
}

// chatStore is a heldStore that adds up the messages submitted to it.
type chatStore struct {
	heldStore
	messages, bytes atomic.Int64
}

func (s *chatStore) Submit(c *rooms.Change, done func(rooms.Outcome, error)) {
	for i := range c.Chat {
		s.messages.Add(1)
		s.bytes.Add(int64(c.Chat[i].Message.Size()))
	}
	s.heldStore.Submit(c, done)
}

// While the disk is slow, no more waits for it than a room can keep, however many write.
func TestChatThatWaitsForTheDiskIsBounded(t *testing.T) {
	for name, text := range map[string]string{"long": strings.Repeat("x", 9000), "short": "x"} {
		t.Run(name, func(t *testing.T) {
			s := &chatStore{}
			h := newHouse(t, func(c *rooms.Config) { s.Store, c.Store = c.Store, s })
			t.Cleanup(s.letGo)
			h.keepsChat("tea")
			var guests []*client
			for n := range 20 {
				guests = append(guests, h.join("tea", fmt.Sprint("guest", n)))
			}
			h.flush("tea")
			s.hold("tea")
			for n := range 20 {
				for _, c := range guests {
					c.sends(t, header(fmt.Sprint(n), inline(text)))
				}
			}
			require.LessOrEqual(t, s.messages.Load(), int64(rooms.MostChat))
			require.LessOrEqual(t, s.bytes.Load(), int64(rooms.MostChatBytes))
			require.Equal(t, uint64(400-s.messages.Load()), h.Stats().ChatUnkept.Unwritten+h.Stats().ChatUnkept.Rate)
			require.NotZero(t, h.Stats().ChatUnkept.Unwritten)
			s.letGo()
			require.Len(t, h.kept("tea"), int(s.messages.Load()))
			guests[0].sends(t, header("last", inline("after it")))
			all := h.kept("tea")
			require.Equal(t, "guest0: after it", all[len(all)-1])
		})
	}
}
