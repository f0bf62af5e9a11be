package api_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/livekit/protocol/auth"
	"github.com/stretchr/testify/require"
)

// Every route of the description is called by each kind of caller without permission.
func TestEveryRouteRefusesWhoeverLacksItsGrant(t *testing.T) {
	h := open(t)
	expired, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"iss": key, "sub": "x", "exp": time.Now().Add(-5 * time.Minute).Unix(),
		"video": map[string]any{"roomCreate": true, "roomList": true, "roomAdmin": true, "room": "r"},
	}).SignedString([]byte(secret))
	require.NoError(t, err)
	callers := []struct {
		name, token string
		status      int
		unless      string // text in the grant's description that permits this caller
	}{
		{"nobody", "", 401, "-"},
		{"garbage", "x", 401, "-"},
		{"expired", expired, 401, "-"},
		{"nothing granted", h.token(&auth.VideoGrant{}), 403, "-"},
		{"join", h.token(&auth.VideoGrant{RoomJoin: true, Room: "r"}), 403, "Needs roomJoin"},
		{"admin of another room", h.token(&auth.VideoGrant{RoomAdmin: true, Room: "other"}), 403, "-"},
		{"room without roomAdmin", h.token(&auth.VideoGrant{Room: "r"}), 403, "-"},
		{"admin", h.token(&auth.VideoGrant{RoomAdmin: true, Room: "r"}), 403, "roomAdmin"},
		{"list", h.token(&auth.VideoGrant{RoomList: true}), 403, "roomList"},
		{"create", h.token(&auth.VideoGrant{RoomCreate: true}), 403, "roomCreate"},
	}
	count := 0
	for path, methods := range openAPI()["paths"].(object) {
		target := "/v1" + strings.ReplaceAll(path, "{name}", "r")
		target = regexp.MustCompile(`\{\w+\}`).ReplaceAllString(target, "x")
		if path == "/live" {
			target += "?after=nonsense" // a stream would not end
		}
		for method, operation := range methods.(object) {
			count++
			needs := operation.(object)["description"].(string)
			if needs == "Needs no credentials but those of its body." || needs == "Needs a session of the dashboard." {
				continue // TestForgedRequestsAreRefused and TestRoles have them
			}
			for _, c := range callers {
				if strings.Contains(needs, c.unless) {
					continue
				}
				resp, _ := h.ask(strings.ToUpper(method), target, c.token, "application/json", "{}")
				require.Equal(t, c.status, resp.StatusCode, "%s %s by %s", method, target, c.name)
			}
			// A caller with the key is admitted.
			resp, body := h.server(strings.ToUpper(method), target, "")
			require.NotContains(t, []int{http.StatusUnauthorized, http.StatusForbidden}, resp.StatusCode, "%s %s: %s", method, target, body)
		}
	}
	require.Greater(t, count, 30)
}
