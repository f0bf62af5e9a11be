package rooms

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"
)

// A room that keeps its chat (RoomConfig.KeepChat) keeps the newest public messages of its
// participants until it ends. What is sent to some alone is not kept, nor what is encrypted
// end to end, which the server cannot read, nor what hidden participants send.

// The bounds of what is kept.
const (
	MostChat      = 200       // messages of a room
	MostChatBytes = 256 << 10 // of the messages of a room, each with what tells of it
	longestChat   = 16 << 10  // bytes of a message
	longestChatID = 128       // bytes
	mostStreams   = 8         // text streams of a participant that have not ended
)

// The pace at which messages of a participant are kept. Each kibibyte of one counts as a
// message, so that nobody's long ones push out at once what all others wrote.
const (
	chatBurst = 30
	chatEvery = time.Second
)

// The topics of chat: LiveKit's text streams, and its older data.
const (
	chatTopic    = "lk.chat"
	oldChatTopic = "lk-chat-topic"
)

// ChatTopic is the topic of the data by which clients are told whether the chat is kept.
const ChatTopic = "parlor.chat"

// ChatMessage is the row of a message that is kept.
type ChatMessage struct {
	ID       string // as its sender gave it
	Identity string // of its sender
	Name     string // of its sender, as it was
	Text     string // empty: the message was deleted
	SentMs   int64  // by the server's clock
	EditedMs int64  // 0 = it was not
}

// Size is what the message counts against [MostChatBytes].
func (m *ChatMessage) Size() int { return len(m.ID) + len(m.Identity) + len(m.Name) + len(m.Text) }

// ChatChange is a change of what a room keeps.
type ChatChange struct {
	Message ChatMessage
	// Edit: the message of that id and sender has another text, and if it is not kept nothing
	// is changed. Without a text it is deleted: its id and sender stay, so that no other text
	// comes under them. Without Edit it is kept if it is not, and else edited.
	Edit bool
}

// chatSender puts together the chat messages of a participant. It belongs to the goroutine
// that reads the participant's reliable data.
type chatSender struct {
	streams []chatStream // in the order of their beginning
	tokens  float64
	filled  time.Time
}

// chatStream is a text stream that has not ended.
type chatStream struct {
	id       string
	edit     bool // of the message of that id
	deflated bool
	content  []byte
	next     uint64 // the index of its next chunk
}

// chatWaits counts the messages of a room's chat that wait for the disk. It is bounded by what
// the room can keep, because senders are not held up meanwhile.
type chatWaits struct{ messages, bytes int }

// chatFate is what becomes of a message that is not kept.
type chatFate int

const (
	chatTooLong chatFate = iota
	chatInvalid
	chatTooFast
	chatUnwritten
	chatFates
)

// hearChat keeps what p sends if it is a chat message. private: it goes to some alone.
func (p *Participant) hearChat(dp *livekit.DataPacket, private bool) {
	switch v := dp.Value.(type) {
	case *livekit.DataPacket_StreamHeader:
		p.hearHeader(v.StreamHeader, private)
	case *livekit.DataPacket_StreamChunk:
		p.hearChunk(v.StreamChunk, private)
	case *livekit.DataPacket_StreamTrailer:
		if s, ok := p.chat.take(v.StreamTrailer.GetStreamId()); ok && !private && v.StreamTrailer.GetReason() == "" {
			p.hearText(s)
		}
	case *livekit.DataPacket_ChatMessage:
		m := v.ChatMessage
		if private || m.GetId() == "" {
			return
		}
		text := m.GetMessage()
		if m.GetDeleted() {
			text = ""
		}
		p.keepChat(m.Id, text, m.GetDeleted() || m.EditTimestamp != nil)
	case *livekit.DataPacket_User:
		if private || v.User.GetTopic() != oldChatTopic {
			return
		}
		var m struct {
			ID, Message  string
			IgnoreLegacy bool // it is sent as a text stream, too
		}
		if json.Unmarshal(v.User.Payload, &m) == nil && m.ID != "" && !m.IgnoreLegacy {
			p.keepChat(m.ID, m.Message, false)
		}
	}
}

func (p *Participant) hearHeader(h *livekit.DataStream_Header, private bool) {
	text := h.GetTextHeader()
	if private || text == nil || h.Topic != chatTopic || h.EncryptionType != livekit.Encryption_NONE { // as older clients say it
		return
	}
	switch text.OperationType {
	case livekit.DataStream_CREATE, livekit.DataStream_UPDATE:
	case livekit.DataStream_DELETE:
		p.keepChat(h.StreamId, "", true)
		return
	default: // a reaction
		return
	}
	if h.GetTotalLength() > longestChat || len(h.StreamId) > longestChatID {
		p.notKept(chatTooLong)
		return
	}
	deflated := h.Compression == livekit.DataStream_DEFLATE_RAW
	if !deflated && h.Compression != livekit.DataStream_NONE {
		p.notKept(chatInvalid)
		return
	}
	s := chatStream{id: h.StreamId, edit: text.OperationType == livekit.DataStream_UPDATE, deflated: deflated}
	if h.InlineContent != nil {
		s.content = h.InlineContent
		p.hearText(s)
		return
	}
	p.chat.take(h.StreamId)
	if len(p.chat.streams) == mostStreams {
		p.chat.streams = p.chat.streams[1:]
		p.notKept(chatTooFast)
	}
	p.chat.streams = append(p.chat.streams, s)
}

func (p *Participant) hearChunk(c *livekit.DataStream_Chunk, private bool) {
	s, ok := p.chat.take(c.GetStreamId())
	if !ok {
		return
	}
	switch {
	case private || len(c.Iv) > 0: // others may not have it, or nobody can read it here
	case c.ChunkIndex != s.next || c.Version != 0:
		p.notKept(chatInvalid)
	case len(s.content)+len(c.Content) > longestChat:
		p.notKept(chatTooLong)
	default:
		s.content = append(s.content, c.Content...)
		s.next++
		p.chat.streams = append(p.chat.streams, s)
	}
}

// take removes the stream of that id and returns it.
func (c *chatSender) take(id string) (chatStream, bool) {
	for i, s := range c.streams {
		if s.id == id {
			c.streams = append(c.streams[:i:i], c.streams[i+1:]...)
			return s, true
		}
	}
	return chatStream{}, false
}

// hearText keeps the content of a text stream that has ended.
func (p *Participant) hearText(s chatStream) {
	content := s.content
	if s.deflated {
		if len(content) > longestChat {
			p.notKept(chatTooLong)
			return
		}
		all, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(content)), longestChat+1))
		if err != nil {
			p.notKept(chatInvalid)
			return
		}
		content = all
	}
	p.keepChat(s.id, string(content), s.edit)
}

// keepChat has a message kept, within the bounds. Under the id of one that is kept it is an
// edit, as it is for clients, and without a text it deletes that.
func (p *Participant) keepChat(id, text string, edit bool) {
	now := time.Now()
	edit = edit || text == ""
	switch {
	case len(text) > longestChat || len(id) > longestChatID:
		p.notKept(chatTooLong)
		return
	case !readable(id) || !readable(text) || !inPath(id) || !inPath(p.identity):
		p.notKept(chatInvalid)
		return
	case !p.chat.may(now, len(text)):
		p.notKept(chatTooFast)
		return
	}
	m := ChatMessage{ID: id, Identity: p.identity, Text: text, SentMs: NowMs(now)}
	if edit {
		m.EditedMs = m.SentMs
	}
	p.post(func(r *Room, p *Participant) {
		if !r.rec.Config.KeepChat || !r.stored.Config.KeepChat {
			return
		}
		p.pay(now)
		m.Name = p.info.Name
		size := m.Size()
		if r.chatWaits.messages == MostChat || r.chatWaits.bytes+size > MostChatBytes {
			p.notKept(chatUnwritten)
			return
		}
		r.chatWaits.messages, r.chatWaits.bytes = r.chatWaits.messages+1, r.chatWaits.bytes+size
		r.requestChange(&Change{Kind: ChangeUpdate, Chat: []ChatChange{{Message: m, Edit: edit}}}, func(_ Outcome, err error) {
			r.chatWaits.messages, r.chatWaits.bytes = r.chatWaits.messages-1, r.chatWaits.bytes-size
			if err != nil {
				r.rooms.chatUnkept[chatUnwritten].Add(1)
			}
		})
	})
}

// inPath reports whether s is a segment of a URL's path, by which the API names a message.
func inPath(s string) bool { return s != "" && s != "." && s != ".." }

func readable(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

func (p *Participant) notKept(why chatFate) { p.room.rooms.chatUnkept[why].Add(1) }

// may reports whether another message of a size is kept now, and counts it if so.
func (c *chatSender) may(now time.Time, size int) bool {
	cost := 1 + float64(size>>10)
	if c.filled.IsZero() {
		c.tokens = chatBurst
	} else {
		c.tokens = min(chatBurst, c.tokens+float64(now.Sub(c.filled))/float64(chatEvery))
	}
	c.filled = now
	if c.tokens < cost {
		return false
	}
	c.tokens -= cost
	return true
}

// ChatID tells a kept message: ids are of their senders.
type ChatID struct {
	Identity string `json:"identity"`
	ID       string `json:"id"`
}

// DeleteChat deletes a message that a room keeps, and has the clients show it no more. It is
// no error if there is none.
func (rs *Rooms) DeleteChat(ctx context.Context, room string, which ChatID) error {
	_, err := askName(ctx, rs, room, func(r *Room, reply answer[struct{}]) {
		if err := r.found(); err != nil {
			reply(struct{}{}, err)
			return
		}
		m := ChatMessage{ID: which.ID, Identity: which.Identity}
		r.requestChange(&Change{Kind: ChangeUpdate, Chat: []ChatChange{{Message: m, Edit: true}}}, func(out Outcome, err error) {
			if err == nil {
				r.tellChat(out.Room.Config.KeepChat, &which)
			} else if errors.Is(err, ErrEnded) {
				err = errRetired
			}
			reply(struct{}{}, err)
		})
	})
	return err
}

// tellChat tells everybody's client whether the chat is kept from now on, and which message is
// deleted; nil = none.
func (r *Room) tellChat(kept bool, deleted *ChatID) {
	topic := ChatTopic
	payload, _ := json.Marshal(struct { // always possible
		Kept    bool    `json:"kept"`
		Deleted *ChatID `json:"deleted,omitempty"`
	}{kept, deleted})
	packet, _ := proto.Marshal(&livekit.DataPacket{ // our own message, valid by construction
		Value: &livekit.DataPacket_User{User: &livekit.UserPacket{Payload: payload, Topic: &topic}},
	})
	for _, p := range r.participants {
		if p.peer != nil && !p.shadow() {
			p.peer.SendData(nil, livekit.DataPacket_RELIABLE, packet)
		}
	}
}
