package api_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/log"
	"parlor/rooms/sqlite"
	"parlor/rooms/sqlite/sqlitetest"
	"parlor/server/access"
	"parlor/server/api"
	"parlor/server/events"
)

// piped is a ResponseWriter whose body can be read while it is written.
type piped struct {
	http.ResponseWriter
	w io.Writer
}

func (p *piped) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p *piped) Flush()                      {}

// TestAStreamEndsWithItsToken in a synctest bubble, with a real database.
func TestAStreamEndsWithItsToken(t *testing.T) {
	const (
		ttl, leeway = 5 * time.Minute, time.Minute
		expired     = `"status":401,"code":"unauthenticated"`
	)
	for _, tc := range []struct {
		name, identity string
		after          func(*rooms.Rooms) error
		gone           string
	}{
		{"expired", "host", nil, expired},
		{"banned", "host", func(rs *rooms.Rooms) error {
			return rs.Ban(context.Background(), rooms.Ban{RoomName: "sec", Identity: "host"})
		}, `"status":403,"code":"banned"`},
		{"revoked", "host", func(rs *rooms.Rooms) error {
			return rs.Revoke(context.Background(), "sec", "host", rooms.NowMs(time.Now()))
		}, `"status":403,"code":"revoked"`},
		{"host no more", "host", func(rs *rooms.Rooms) error {
			if _, err := rs.Create(context.Background(), &livekit.CreateRoomRequest{Name: "sec"}); err != nil {
				return err
			}
			_, _, err := rs.Join(context.Background(), rooms.JoinRequest{Room: "sec", Info: &livekit.ParticipantInfo{Identity: "host"}, Outlet: new(guest)})
			if err != nil {
				return err
			}
			return rs.SetHost(context.Background(), "sec", "host", false)
		}, `"status":403,"code":"permission_denied"`},
		{"another is banned", "host", func(rs *rooms.Rooms) error {
			return rs.Ban(context.Background(), rooms.Ban{RoomName: "sec", Identity: "other"})
		}, expired},
		{"no identity", "", nil, expired},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				logger := slog.New(slog.DiscardHandler)
				store, err := sqlite.Open(t.Context(), sqlite.Config{Path: sqlitetest.Path(t), Log: logger})
				require.NoError(t, err)
				defer func() { require.NoError(t, store.Close(context.Background())) }()
				rs := rooms.New(rooms.Config{Store: store, Moderation: store, Log: logger})
				require.NoError(t, rs.Open(t.Context()))
				defer func() { require.NoError(t, rs.Close(context.Background())) }()
				pull := events.New(&log.Reader{Store: store}, logger, 1)
				defer pull.Close()
				verifier := access.NewVerifier(map[string]string{key: secret})
				rest := api.REST(api.Config{Rooms: rs, Records: store, Moderation: store, Verifier: verifier, Log: logger, Events: pull})

				token, err := verifier.Mint(key, &auth.ClaimGrants{
					Identity: tc.identity, Video: &auth.VideoGrant{RoomAdmin: true, Room: "sec"},
				}, ttl)
				require.NoError(t, err)
				begin := time.Now()
				req := httptest.NewRequest(http.MethodGet, "/events?room=sec", nil)
				req.Header.Set("Accept", "text/event-stream")
				req.Header.Set("Authorization", "Bearer "+token)
				body, w := io.Pipe()
				go func() { // ends with the stream, which is read to its end
					rest.ServeHTTP(&piped{httptest.NewRecorder(), w}, req)
					w.Close()
				}()
				first := make([]byte, len("retry: "))
				_, err = io.ReadFull(body, first)
				require.NoError(t, err)
				time.Sleep(2 * time.Minute)
				if tc.after != nil {
					go func() { _ = tc.after(rs) }() // while the stream is read; the stream's end shows its effect
				}
				all, err := io.ReadAll(body)
				require.NoError(t, err)
				require.Contains(t, string(all), "event: gone\ndata: ")
				require.Contains(t, string(all), tc.gone)
				if lasted := time.Since(begin); tc.gone == expired {
					require.GreaterOrEqual(t, lasted, ttl+leeway-time.Second, "a token tells whole seconds")
				} else {
					require.Less(t, lasted, 3*time.Minute)
				}
			})
		})
	}
}
