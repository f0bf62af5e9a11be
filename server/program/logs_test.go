package program

import (
	"bytes"
	"errors"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/server/config"
)

// TestTheLogTellsWhoDidWhat: the log has a line for each join, departure, refusal and
// action of a moderator, with room, identity, address and client, and without secrets.
func TestTheLogTellsWhoDidWhat(t *testing.T) {
	var log transcript
	h := startLogging(t, filepath.Join(t.TempDir(), "parlor.db"), slog.New(slog.NewTextHandler(&log, nil)))
	logged := func(parts ...string) {
		t.Helper()
		require.Eventually(t, func() bool { return hasLine(log.String(), parts) }, time.Minute, 10*time.Millisecond, "%v", parts)
	}

	token := h.mint(time.Now(), &auth.VideoGrant{Room: "r"})
	conn, _ := h.dial("&sdk=js&version=2.15.0", token)
	require.NotNil(t, conn)
	h.await(conn, func(m *livekit.SignalResponse) string { return m.GetJoin().GetParticipant().GetSid() })
	logged("participant joined", "room=r", "participant=ann", "client.address=127.0.0.1", "client.sdk=js", "client.version=2.15.0")

	status, body := h.operate("PATCH", "/v1/rooms/r", `{"locked":true}`, "")
	require.Equal(t, 200, status, body)
	logged(`msg="API call"`, "method=PATCH", "path=/v1/rooms/r", "key=devkey", "address=127.0.0.1")
	status, _ = h.operate("DELETE", "/v1/rooms/r", "", token)
	require.Contains(t, []int{401, 403}, status)
	logged(`msg="API call refused"`, "method=DELETE", "path=/v1/rooms/r", "by=ann", "why=")

	stranger, status := h.dial("", "n0nsense")
	require.Nil(t, stranger)
	require.Equal(t, 401, status)
	logged(`msg="connect refused"`, "status=401", "address=127.0.0.1")
	stranger, status = h.dial("", h.mint(time.Now(), &auth.VideoGrant{Room: ""}))
	require.Nil(t, stranger)
	require.Equal(t, 400, status)
	logged(`msg="connect refused"`, "status=400", "participant=ann", "key=devkey")

	c, ctx := h.roomService()
	_, err := c.RemoveParticipant(ctx, &livekit.RoomParticipantIdentity{Room: "r", Identity: "ann"})
	require.Error(t, err, "its token has no roomAdmin")
	logged(`msg="API call refused"`, "method=RemoveParticipant", "key=devkey", "address=127.0.0.1")
	_, err = c.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: "s"})
	require.NoError(t, err)
	logged(`msg="API call"`, "method=CreateRoom", "room=s", "key=devkey", "address=127.0.0.1")
	status, body = h.operate("DELETE", "/v1/rooms/r/participants/ann", "", "")
	require.Equal(t, 204, status, body)
	logged("participant left", "participant=ann", "reason=PARTICIPANT_REMOVED", "after=", "client.address=127.0.0.1")
	logged(`msg="API call"`, "method=DELETE", "path=/v1/rooms/r/participants/ann")
	require.NotContains(t, log.String(), token)
	for _, hidden := range []string{"n0nsense", "secret"} {
		require.NotContains(t, log.String(), hidden)
	}
}

// hasLine reports whether one line of a log has all parts.
func hasLine(log string, parts []string) bool {
	for line := range strings.Lines(log) {
		all := true
		for _, part := range parts {
			all = all && strings.Contains(line, part)
		}
		if all {
			return true
		}
	}
	return false
}

// TestLogLinesAreBounded: what strangers send makes no line of a megabyte.
func TestLogLinesAreBounded(t *testing.T) {
	long := strings.Repeat("ä", 500_000)
	for _, json := range []bool{true, false} {
		var text bytes.Buffer
		cfg := &config.Config{}
		cfg.Logging.JSON = json
		newLogger(&text, cfg, slog.LevelInfo).With("agent", long).WithGroup("client").Info("refused", "version", long, "error", errors.New(long),
			"path", &url.URL{Path: long}, "tracks", []string{long, long}, "body", []byte(long), "short", "still there", "reasons", []string{"one", "two"})
		require.Less(t, text.Len(), 15_000)
		require.Contains(t, text.String(), "still there")
		if json {
			require.Contains(t, text.String(), `["one","two"]`)
		} else {
			require.Contains(t, text.String(), "[one two]")
		}
	}
}
