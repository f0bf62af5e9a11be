package api_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// TestTimesAreShownByTheWallClockAsItIsSet: deadlines are times of another clock, which is two
// hours behind here.
func TestTimesAreShownByTheWallClockAsItIsSet(t *testing.T) {
	began := time.Now()
	h := open(t, func(c *rooms.Config) {
		const behind = 2 * time.Hour
		c.Boot, c.Elapsed = "a", func() time.Duration { return time.Since(began) }
		require.NoError(t, c.Store.SetClock(t.Context(), rooms.ClockState{Boot: "a", Base: began.Add(-behind).UnixNano(), Ahead: -int64(behind)}, nil))
	})
	token := h.token(&auth.VideoGrant{RoomCreate: true, RoomList: true, RoomAdmin: true, Room: "tea"})
	ask := func(method, path, body string) map[string]any {
		resp, text := h.ask(method, path, token, "application/json", body)
		require.Less(t, resp.StatusCode, 300, text)
		var out map[string]any
		require.NoError(t, json.Unmarshal([]byte(text), &out))
		return out
	}
	shows := func(out map[string]any, name string, d time.Duration) {
		t.Helper()
		at, err := time.Parse(time.RFC3339, out[name].(string))
		require.NoError(t, err)
		require.WithinDuration(t, began.Add(d), at, 30*time.Second, name)
	}
	check := func(room map[string]any) {
		t.Helper()
		shows(room, "created_at", 0)
		shows(room, "empty_since", 0)
		shows(room, "expires_at", 10*time.Minute)
	}
	check(ask("POST", "/v1/rooms", `{"name":"tea","empty_timeout":600}`))
	check(ask("GET", "/v1/rooms/tea", ""))
	check(ask("GET", "/v1/rooms", "")["rooms"].([]any)[0].(map[string]any))
	require.Zero(t, ask("GET", "/v1/status", "")["rooms"].(map[string]any)["overdue"])

	_, err := h.rooms.CreateDispatch(t.Context(), &livekit.CreateAgentDispatchRequest{Room: "tea", AgentName: "n"})
	require.NoError(t, err)
	ask("PUT", "/v1/rooms/tea/breakouts", `{"breakouts":[{"title":"one"}]}`)
	division := ask("POST", "/v1/rooms/tea/breakouts/open", `{"seconds":600}`)
	shows(division, "call_back_at", 10*time.Minute)
	require.InDelta(t, 600, division["seconds_left"], 30)
}
