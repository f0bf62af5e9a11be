package server

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/livekit/protocol/auth"
)

// devTokenLife is the lifetime of a development token.
const devTokenLife = 6 * time.Hour

// devToken gives every caller a token to join any room under any name. Requests must be
// JSON, which a form on another site cannot send.
func devToken(c *Config) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var want struct{ Room, Identity, Name string }
		body := http.MaxBytesReader(w, r.Body, 64<<10)
		if err := json.NewDecoder(body).Decode(&want); err != nil {
			http.Error(w, "the body must be JSON with room, identity and name", http.StatusBadRequest)
			return
		}
		if want.Room == "" || want.Identity == "" {
			http.Error(w, "room and identity must not be empty", http.StatusBadRequest)
			return
		}
		grant := &auth.VideoGrant{RoomJoin: true, Room: want.Room}
		grant.SetCanUpdateOwnMetadata(true)
		token, err := c.Verifier.Mint(c.DevKey, &auth.ClaimGrants{
			Identity: want.Identity, Name: want.Name, Video: grant,
		}, devTokenLife)
		if err != nil {
			c.Log.Error("cannot mint a token of development", "error", err)
			http.Error(w, "internal error", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(map[string]string{"token": token}) // the client may be gone
	})
}
