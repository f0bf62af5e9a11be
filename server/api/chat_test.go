package api_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

// writes sends a chat message, and waits until its room has handled it.
func (g *guest) writes(t *testing.T, id, text string) {
	t.Helper()
	b, err := proto.Marshal(&livekit.DataPacket{Value: &livekit.DataPacket_ChatMessage{ChatMessage: &livekit.ChatMessage{Id: id, Message: text}}})
	require.NoError(t, err)
	g.Data(livekit.DataPacket_RELIABLE, b)
	g.Sync()
}

// What a room keeps of its chat, if it is told to, is read by those who are in it and by
// those who may administer it.
func TestWhoReadsTheKeptChat(t *testing.T) {
	h := open(t)
	type shown struct {
		Kept     bool
		Messages []struct {
			ID, Identity, Name, Text string
			SentAt                   time.Time  `json:"sent_at"`
			EditedAt                 *time.Time `json:"edited_at"`
		}
		Deleted []struct{ Identity, ID string }
	}
	_, body := h.server("POST", "/v1/rooms", `{"name":"board","keep_chat":true}`)
	require.True(t, read[struct {
		KeepChat bool `json:"keep_chat"`
	}](t, body).KeepChat, body)
	_, body = h.server("POST", "/v1/rooms", `{"name":"plain"}`)
	require.False(t, read[struct {
		KeepChat bool `json:"keep_chat"`
	}](t, body).KeepChat, body)
	began := time.Now().Add(-time.Second)
	ada := h.mustJoin("board", "ada")
	ada.writes(t, "1", "<b>hello</b>")
	ada.writes(t, "2", "late ones read this")

	of := func(identity, room string, g auth.VideoGrant) string {
		g.Room = room
		token, err := h.verifier.Mint(key, &auth.ClaimGrants{Identity: identity, Video: &g}, time.Hour)
		require.NoError(t, err)
		return token
	}
	join := auth.VideoGrant{RoomJoin: true}
	bob := of("bob", "board", join)
	ask := func(token string) (int, shown) {
		t.Helper()
		resp, body := h.ask("GET", "/v1/rooms/board/chat", token, "", "")
		if resp.StatusCode != 200 {
			return resp.StatusCode, shown{}
		}
		return 200, read[shown](t, body)
	}
	status, _ := ask(bob)
	require.Equal(t, 403, status, "who is not in the room")
	h.mustJoin("board", "bob")
	status, got := ask(bob)
	require.Equal(t, 200, status)
	require.True(t, got.Kept)
	require.Equal(t, "[1 ada <b>hello</b>] [2 ada late ones read this]", fmt.Sprintf("[%s %s %s] [%s %s %s]",
		got.Messages[0].ID, got.Messages[0].Identity, got.Messages[0].Text, got.Messages[1].ID, got.Messages[1].Identity, got.Messages[1].Text))
	require.WithinRange(t, got.Messages[0].SentAt, began, time.Now().Add(time.Second))
	require.Nil(t, got.Messages[0].EditedAt)

	for who, token := range map[string]string{
		"for another room":      of("bob", "plain", join),
		"that is not for rooms": of("bob", "board", auth.VideoGrant{}),
		"of nobody who is here": of("eve", "board", join),
		"for no room":           of("bob", "", join),
		"that lists rooms":      of("", "", auth.VideoGrant{RoomList: true}),
	} {
		status, _ := ask(token)
		require.Equal(t, 403, status, "a token %s", who)
	}
	status, _ = ask("")
	require.Equal(t, 401, status)
	status, _ = ask(of("boss", "board", auth.VideoGrant{RoomAdmin: true}))
	require.Equal(t, 200, status)
	require.Equal(t, 200, h.status("GET", "/v1/rooms/board/chat", ""))
	require.Equal(t, 404, h.status("GET", "/v1/rooms/none/chat", ""))

	resp, _ := h.ask("DELETE", "/v1/rooms/board/chat/ada/1", bob, "", "")
	require.Equal(t, 403, resp.StatusCode, "he is no host")
	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/board/chat/ada/1", ""))
	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/board/chat/bob/2", ""), "it is not his: nothing is to be deleted")
	_, got = ask(bob)
	require.Equal(t, "2", got.Messages[0].ID)
	require.Len(t, got.Messages, 1)
	require.Equal(t, "[{ada 1}]", fmt.Sprint(got.Deleted))
	require.Equal(t, 200, h.status("PATCH", "/v1/rooms/board", `{"keep_chat":false}`))
	_, got = ask(bob)
	require.False(t, got.Kept)
	require.Empty(t, got.Messages)
	require.Empty(t, got.Deleted)
	ada.writes(t, "3", "not kept")
	require.Equal(t, 200, h.status("PATCH", "/v1/rooms/board", `{"keep_chat":true,"locked":true}`))
	_, got = ask(bob)
	require.True(t, got.Kept)
	require.Empty(t, got.Messages)
	require.Equal(t, 200, h.status("PUT", "/v1/rooms/board/bans/bob", ""))
	status, _ = ask(bob)
	require.Equal(t, 403, status)
}
