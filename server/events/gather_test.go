package events_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/rooms/log"
	"parlor/server/events"
)

// wired is a ResponseWriter whose body goes to a connection in memory, which has deadlines.
type wired struct {
	http.ResponseWriter
	net.Conn
	flushes atomic.Int64
}

func (w *wired) Write(b []byte) (int, error) { return w.Conn.Write(b) }
func (w *wired) Flush()                      { w.flushes.Add(1) }

// stream begins a stream with that context. ended is closed when its handler has ended.
func (f *fixture) stream(ctx context.Context, query string) (w *wired, reader net.Conn, ended <-chan struct{}) {
	near, far := net.Pipe()
	req := httptest.NewRequest(http.MethodGet, "/v1/events"+query, nil)
	req.Header.Set("Accept", "text/event-stream")
	w = &wired{ResponseWriter: httptest.NewRecorder(), Conn: near}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.handler.ServeHTTP(w, req.WithContext(ctx))
		_ = near.Close()
	}()
	return w, far, done
}

// TestGatheredStream: a stream for people looks a few times a second, loses and reorders
// nothing, and what comes after a silence comes at once. A stream for programs has each event
// at once.
func TestGatheredStream(t *testing.T) {
	for _, tc := range []struct {
		name    string
		with    func(context.Context) context.Context
		longest time.Duration
	}{
		{"for people", events.Gathered, 250 * time.Millisecond},
		{"for programs", func(ctx context.Context) context.Context { return ctx }, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				ctx, cancel := context.WithCancel(tc.with(t.Context()))
				w, far, ended := f.stream(ctx, "")
				type seen struct {
					seq int64
					at  time.Time
				}
				all := make(chan seen, 1000)
				go func() {
					defer close(all)
					for sc := bufio.NewScanner(far); sc.Scan(); {
						if id, ok := strings.CutPrefix(sc.Text(), "id: "); ok {
							seq, _, _ := strings.Cut(id, "-")
							n, err := strconv.ParseInt(seq, 10, 64)
							if err == nil {
								all <- seen{n, time.Now()}
							}
						}
					}
				}()
				time.Sleep(time.Second)
				written := []time.Time{} // by seq, from 1
				write := func(name string, n int) {
					types := []string{}
					for range n {
						types = append(types, log.RoomUpdated)
						written = append(written, time.Now())
					}
					f.room(name, types...)
				}
				const commits, between = 100, 20 * time.Millisecond
				for i := range commits {
					write("busy-"+strconv.Itoa(i), 2)
					time.Sleep(between)
				}
				time.Sleep(time.Second)
				write("after a silence", 1)
				time.Sleep(time.Second)
				cancel()
				<-ended
				last := seen{}
				for one := range all {
					require.Equal(t, last.seq+1, one.seq)
					require.LessOrEqual(t, one.at.Sub(written[one.seq-1]), tc.longest, "event %d", one.seq)
					last = one
				}
				require.EqualValues(t, len(written), last.seq)
				require.Equal(t, written[len(written)-1], last.at)
				if tc.longest > 0 {
					looks := int64(commits*between/tc.longest) + 4 // its head, the first, the last, and that of after the silence
					require.LessOrEqual(t, w.flushes.Load(), looks)
				}
			})
		})
	}
}

// TestSlowReaderIsCutOff in a stream that gathers, too.
func TestSlowReaderIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		_, far, ended := f.stream(events.Gathered(t.Context()), "")
		sc := bufio.NewScanner(far)
		sc.Scan() // the head; it reads no more
		f.room("a", log.RoomStarted)
		began := time.Now()
		<-ended
		require.LessOrEqual(t, time.Since(began), 31*time.Second)
		require.GreaterOrEqual(t, time.Since(began), 29*time.Second)
	})
}

// TestReadersOfManyEvents: readers at different places of the log each have all of it, as it
// is.
func TestReadersOfManyEvents(t *testing.T) {
	f := newFixture(t)
	srv := httptest.NewServer(f.handler)
	defer srv.Close()
	defer f.handler.Close() // or the server waits for the streams
	_, early := f.open(srv.URL, "")
	const n = 300
	for i := range n / 3 {
		f.room(fmt.Sprint("room-", i), log.RoomStarted, log.RoomUpdated, log.RoomFinished)
	}
	_, late := f.open(srv.URL, "")
	_, filtered := f.open(srv.URL, "?type=room_finished")
	check := func(r *streamReader, first, step int64) {
		t.Helper()
		for seq := first; seq <= n; seq += step {
			got, more := r.next()
			require.True(t, more)
			require.Equal(t, fmt.Sprint(seq, "-1"), got.id)
			var e events.Event
			require.NoError(t, json.Unmarshal([]byte(got.data), &e))
			require.Equal(t, seq, e.Seq)
			require.Equal(t, fmt.Sprint("room-", (seq-1)/3), e.Room)
			require.Equal(t, got.event, e.Type)
			require.NotContains(t, got.data, "hush")
		}
	}
	check(early, 1, 1)
	check(late, 1, 1)
	check(filtered, 3, 3)
}
