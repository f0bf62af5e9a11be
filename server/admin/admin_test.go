package admin_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"parlor/server/access"
	"parlor/server/admin"
)

// The ring has rates of the time between two samples, and no more than an hour of them.
func TestRingKeepsAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		r := admin.NewRing(func() admin.Figures {
			s := uint64(time.Since(began) / time.Second)
			return admin.Figures{Participants: int(s), BytesIn: 1000 * s, PacketsOut: 100 * s, LostOut: 5 * s, CPU: float64(s) / 4}
		})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { r.Run(ctx) })
		time.Sleep(90*time.Minute + time.Second)
		hour := r.Hour()
		require.Len(t, hour, 360)
		for i := range hour {
			require.InDelta(t, 8000, hour[i].In, 1)
			require.InDelta(t, 0.05, hour[i].Loss, 1e-9)
			require.InDelta(t, 0.25, hour[i].CPU, 1e-9)
			if i > 0 {
				require.Equal(t, admin.SampleEvery, hour[i].At.Sub(hour[i-1].At))
			}
		}
		require.Equal(t, 5400, hour[359].Participants)
		cancel()
		running.Wait()
	})
}

// What strangers have the server refuse costs a bounded memory, and stays Unicode.
func TestRefusalsAreBounded(t *testing.T) {
	r := &admin.Refusals{}
	for i := range 1200 {
		r.Add(admin.Refusal{What: "call", Why: fmt.Sprint(i), Agent: strings.Repeat("é", 5000), Room: "\xff\xfe"})
	}
	newest, all := r.List()
	require.EqualValues(t, 1200, all)
	require.Len(t, newest, 500)
	for i, one := range newest {
		require.Equal(t, fmt.Sprint(1199-i), one.Why)
		require.Less(t, len(one.Agent), 300)
		require.True(t, utf8.ValidString(one.Agent) && utf8.ValidString(one.Room))
	}
	var none *admin.Refusals
	none.Add(admin.Refusal{})
	newest, all = none.List()
	require.Empty(t, newest)
	require.Zero(t, all)
}

// Links that nobody uses, and sessions, are bounded for each API key.
func TestLinksAreBounded(t *testing.T) {
	s := admin.NewSessions(access.NewVerifier(map[string]string{"k": "secret"}), nil, false, slog.New(slog.DiscardHandler))
	links := make([]string, 100)
	for i := range links {
		links[i], _ = s.NewLink("k", access.Look, time.Minute+time.Duration(i)*time.Second)
	}
	works := func(link string) bool {
		r := httptest.NewRequest("POST", "/v1/admin/session", nil)
		r.Header.Set(admin.Header, "1")
		w := httptest.NewRecorder()
		var err error
		s.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err = s.SignIn(w, r, admin.Credentials{Link: link})
		})).ServeHTTP(w, r)
		return err == nil
	}
	require.False(t, works(links[0]), "the oldest gave way")
	require.True(t, works(links[99]))
	for range 300 {
		link, _ := s.NewLink("k", access.Look, time.Minute)
		require.True(t, works(link))
	}
	require.Len(t, s.List("k"), 256)
	require.Empty(t, s.List("other"))
}
