package rooms_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// lines is a log that can be read while it is written.
type lines struct {
	mu   sync.Mutex // guards the following
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// take returns the lines since the last call.
func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.text.String()
	l.text.Reset()
	return s
}

// TestAnOutageIsToldOnceAMinute: the reaper tries each second, but logs once a minute,
// and logs the end.
func TestAnOutageIsToldOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, log := newDisk(1), &lines{}
		h := &house{t: t, path: t.TempDir() + "/parlor.db", allow: d.allow}
		h.open(func(c *rooms.Config) { c.Log = slog.New(slog.NewTextHandler(log, nil)) })
		defer h.close()
		_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "r", EmptyTimeout: 60})
		require.NoError(t, err)
		synctest.Wait() // the reaper's first round, at the start, is over
		d.fails.Store(100)
		const complaint, end = "cannot end the rooms that are due", "rooms that are due are ended again"
		time.Sleep(62 * time.Second)
		first := log.take()
		require.Equal(t, 1, strings.Count(first, complaint), first)
		time.Sleep(10 * time.Minute)
		text := log.take()
		require.InDelta(t, 10, strings.Count(text, complaint), 1, text) // the attempts are not aligned with the minute
		require.NotContains(t, text, end)
		d.fails.Store(0)
		time.Sleep(10 * time.Second)
		text = log.take()
		require.Equal(t, 1, strings.Count(text, end), text)
		require.NotContains(t, text, complaint)
		list, err := h.List(t.Context(), nil)
		require.NoError(t, err)
		require.Empty(t, list)
		time.Sleep(time.Hour)
		require.Empty(t, log.take())
	})
}
