package events_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"

	"parlor/rooms"
	"parlor/rooms/guid"
	"parlor/rooms/log"
	"parlor/rooms/sqlite"
	"parlor/rooms/sqlite/sqlitetest"
	"parlor/server/events"
)

type fixture struct {
	t       testing.TB
	store   *sqlite.Store
	handler *events.Handler
}

func newFixture(t testing.TB) *fixture {
	s, err := sqlite.Open(context.Background(), sqlite.Config{Path: sqlitetest.Path(t)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	h := events.New(&log.Reader{Store: s}, slog.New(slog.NewTextHandler(t.Output(), nil)), 2)
	t.Cleanup(h.Close)
	return &fixture{t: t, store: s, handler: h}
}

// room opens a room with these events.
func (f *fixture) room(name string, types ...string) rooms.Record {
	r := rooms.Record{
		SID: guid.New("RM_"), Name: name, CreatedMs: rooms.NowMs(time.Now()),
		EmptyTimeout: rooms.Never, DepartureTimeout: rooms.Never, Metadata: "a\nb <&>", TurnPassword: "hush",
	}
	c := &rooms.Change{Kind: rooms.ChangeCreate, Room: r}
	for _, typ := range types {
		c.Events = append(c.Events, log.New(&livekit.WebhookEvent{Event: typ, Room: r.Info()}, time.Now()))
	}
	done := make(chan error, 1)
	f.store.Submit(c, func(_ rooms.Outcome, err error) { done <- err })
	require.NoError(f.t, <-done)
	return r
}

func (f *fixture) prune(keep int64) {
	_, err := f.store.PruneEvents(context.Background(), 0, keep, 1000)
	require.NoError(f.t, err)
}

type answer struct {
	status int
	header http.Header
	Events []struct {
		Seq       int64
		ID        string
		Type      string
		RoomSID   string `json:"room_sid"`
		Room      string
		RoomSeq   int64     `json:"room_seq"`
		CreatedAt time.Time `json:"created_at"`
		Epoch     int64
		Event     json.RawMessage
	}
	Next, Oldest, Newest int64
	Cursor, Code, Detail string
}

func (f *fixture) get(target string) answer {
	rec := httptest.NewRecorder()
	f.handler.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, target, nil))
	a := answer{status: rec.Code, header: rec.Header()}
	require.NoError(f.t, json.Unmarshal(rec.Body.Bytes(), &a), rec.Body.String())
	return a
}

func (a *answer) seqs() []int64 {
	out := []int64{}
	for _, e := range a.Events {
		out = append(out, e.Seq)
	}
	return out
}

func TestPages(t *testing.T) {
	f := newFixture(t)
	a := f.room("a", "room_started", "participant_joined", "participant_left") // 1 2 3
	f.room("b", "room_started", "participant_joined")                          // 4 5

	p := f.get("/v1/events")
	require.Equal(t, 200, p.status)
	require.Equal(t, "application/json", p.header.Get("Content-Type"))
	require.Equal(t, []int64{1, 2, 3, 4, 5}, p.seqs())
	require.Equal(t, [3]int64{5, 1, 5}, [3]int64{p.Next, p.Oldest, p.Newest})
	first := p.Events[0]
	require.Equal(t, "room_started", first.Type)
	require.Equal(t, a.SID, first.RoomSID)
	require.Equal(t, "a", first.Room)
	require.EqualValues(t, 1, first.RoomSeq)
	require.EqualValues(t, 1, first.Epoch)
	var ev livekit.WebhookEvent
	require.NoError(t, protojson.Unmarshal(first.Event, &ev))
	require.Equal(t, first.ID, ev.Id)
	require.Equal(t, a.Metadata, ev.Room.Metadata)
	require.Equal(t, a.SID, ev.Room.Sid)
	for _, e := range p.Events {
		require.NotContains(t, string(e.Event), "hush", "the password is for clients and, as LiveKit has it, for webhooks")
	}

	// Page by page, to the end.
	p = f.get("/v1/events?limit=2")
	require.Equal(t, []int64{1, 2}, p.seqs())
	require.EqualValues(t, 2, p.Next)
	p = f.get("/v1/events?limit=3&after=2")
	require.Equal(t, []int64{3, 4, 5}, p.seqs())
	p = f.get("/v1/events?limit=3&after=5")
	require.Equal(t, []int64{}, p.seqs())
	require.NotNil(t, p.Events, "an empty page is a list")
	require.EqualValues(t, 5, p.Next)
	p = f.get("/v1/events?after=latest")
	require.Empty(t, p.Events)
	require.EqualValues(t, 5, p.Next)

	// Filters; next moves past what is not wanted.
	p = f.get("/v1/events?room=b")
	require.Equal(t, []int64{4, 5}, p.seqs())
	p = f.get("/v1/events?room=" + a.SID)
	require.Equal(t, []int64{1, 2, 3}, p.seqs())
	require.EqualValues(t, 5, p.Next)
	p = f.get("/v1/events?type=participant_left,participant_joined&type=participant_left,,room_updated,webhook_test")
	require.Equal(t, []int64{2, 3, 5}, p.seqs())
	p = f.get("/v1/events?type=participant_joined&room=b&limit=1")
	require.Equal(t, []int64{5}, p.seqs())

	// Backwards: the newest first, page by page to the front, and on from the end.
	p = f.get("/v1/events?before=latest&limit=2")
	require.Equal(t, []int64{5, 4}, p.seqs())
	require.EqualValues(t, 4, p.Next)
	require.Empty(t, f.get("/v1/events?after="+p.Cursor).Events)
	p = f.get("/v1/events?limit=2&before=4")
	require.Equal(t, []int64{3, 2}, p.seqs())
	p = f.get("/v1/events?limit=2&before=2")
	require.Equal(t, []int64{1}, p.seqs())
	require.Zero(t, p.Next)
	require.Equal(t, []int64{3, 2, 1}, func() []int64 { p := f.get("/v1/events?before=latest&room=" + a.SID); return p.seqs() }())
	p = f.get("/v1/events?before=5&type=participant_left,participant_joined&limit=2")
	require.Equal(t, []int64{3, 2}, p.seqs())
	f.prune(2)
	p = f.get("/v1/events?before=latest&limit=2")
	require.Equal(t, []int64{5, 4}, p.seqs())
	require.Zero(t, p.Next, "what is left was told")
	require.Empty(t, f.get("/v1/events?before=2").Events)
}

func TestBadRequests(t *testing.T) {
	f := newFixture(t)
	for _, q := range []string{"after=-1", "after=x", "after=1.5", "after=1-", "after=1--1", "after=1-x", "before=0", "before=-1", "before=x", "before=3&after=1", "before=latest&after=latest", "limit=0", "limit=1001", "limit=x", "after=99999999999999999999", "type=x", "type=room_started,%27", "room=a&type=x",
		"type=" + strings.Repeat("room_started,", 1000) + "x"} {
		p := f.get("/v1/events?" + q)
		require.Equal(t, 400, p.status, q)
		require.Equal(t, "invalid_argument", p.Code, q)
		require.Equal(t, "application/problem+json", p.header.Get("Content-Type"))
	}
	rec := httptest.NewRecorder()
	f.handler.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/v1/events", nil))
	require.Equal(t, 405, rec.Code)
}

func TestGapsAreTold(t *testing.T) {
	f := newFixture(t)
	require.Equal(t, 200, f.get("/v1/events?after=0").status, "an empty log has no gaps")
	require.Equal(t, 409, f.get("/v1/events?after=1").status)
	f.room("a", "1", "2", "3", "4", "5")
	f.prune(2)
	p := f.get("/v1/events?after=1")
	require.Equal(t, 410, p.status)
	require.Equal(t, "pruned", p.Code)
	require.EqualValues(t, 4, p.Oldest)
	require.Equal(t, 410, f.get("/v1/events?after=2").status)
	require.Equal(t, 410, f.get("/v1/events?after=1&room=b").status)
	require.Equal(t, []int64{4, 5}, seqsOf(f.get("/v1/events?after=3")))
	require.Equal(t, []int64{4, 5}, seqsOf(f.get("/v1/events")), "who asks for nothing before is told no gap")
	p = f.get("/v1/events?after=6")
	require.Equal(t, 409, p.status)
	require.Equal(t, "ahead", p.Code)
	require.EqualValues(t, 5, p.Newest)
}

// TestForgottenEventsAreTold: a restored log gives numbers again that a reader has
// seen. However late the reader comes, it is told what it shares with the log.
func TestForgottenEventsAreTold(t *testing.T) {
	f := newFixture(t)
	f.room("a", "1", "2")
	f.room("b", "3", "4", "5")
	seen := f.get("/v1/events").Cursor
	require.Equal(t, "5-1", seen)

	// The same up to 2, as after the restore of a replica that had no more.
	f = newFixture(t)
	f.room("a", "1", "2")
	p := f.get("/v1/events?after=" + seen)
	require.Equal(t, 409, p.status)
	require.EqualValues(t, 2, p.Newest)
	require.NoError(t, f.store.SetEpoch(t.Context(), 2))
	for n := range 3 {
		f.room("c"+strconv.Itoa(n), "x", "y")
		p = f.get("/v1/events?after=" + seen)
		require.Equal(t, 409, p.status, "also once the log has caught up")
		require.Equal(t, "ahead", p.Code)
		require.EqualValues(t, 2, p.Newest)
	}
	require.Equal(t, 200, f.get("/v1/events?after=5").status, "a seq alone says nothing of it")
	s := httptest.NewServer(f.handler)
	defer s.Close()
	defer f.handler.Close() // or the server waits for the stream
	resp, _ := f.open(s.URL, "", "Last-Event-ID", seen)
	require.Equal(t, 409, resp.StatusCode)

	// A reader that has read no further than the restore goes on, and so does one that came
	// after it.
	p = f.get("/v1/events?after=2-1&limit=2")
	require.Equal(t, []int64{3, 4}, p.seqs())
	require.Equal(t, "4-2", p.Cursor)
	p = f.get("/v1/events?after=4-2")
	require.Equal(t, []int64{5, 6, 7, 8}, p.seqs())
	require.Equal(t, "8-2", p.Cursor)
	require.Equal(t, "8-2", f.get("/v1/events?after=8-2").Cursor)
	require.Equal(t, "8-2", f.get("/v1/events?type=track_muted").Cursor)

	// The log is restored again, and later the events that both had are pruned.
	require.NoError(t, f.store.SetEpoch(t.Context(), 3))
	f.room("d", "9")
	require.EqualValues(t, 8, f.get("/v1/events?after=9-2").Newest)
	require.EqualValues(t, 2, f.get("/v1/events?after=9-1").Newest)
	f.prune(2)
	require.Equal(t, 410, f.get("/v1/events?after=5-1").status)
	require.Equal(t, 409, f.get("/v1/events?after=8-1").status)
}

func seqsOf(a answer) []int64 { return a.seqs() }

// frame is one server-sent event.
type frame struct{ id, event, data string }

// streamReader reads a stream as a browser does.
type streamReader struct {
	t  testing.TB
	sc *bufio.Scanner
	id string // last event id
}

func (s *streamReader) next() (frame, bool) {
	var f frame
	for s.sc.Scan() {
		name, value, _ := strings.Cut(s.sc.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case s.sc.Text() == "":
			if f.data != "" {
				f.id = s.id
				return f, true
			}
			f = frame{}
		case name == "id":
			s.id = value
		case name == "event":
			f.event = value
		case name == "data":
			f.data += value
		}
	}
	return f, false
}

func (f *fixture) open(base, query string, header ...string) (*http.Response, *streamReader) {
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, base+"/v1/events"+query, nil)
	require.NoError(f.t, err)
	req.Header.Set("Accept", "text/event-stream")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(f.t, err)
	f.t.Cleanup(func() { resp.Body.Close() })
	return resp, &streamReader{t: f.t, sc: bufio.NewScanner(resp.Body)}
}

func TestStream(t *testing.T) {
	f := newFixture(t)
	s := httptest.NewUnstartedServer(f.handler)
	s.Config.ReadTimeout = 200 * time.Millisecond // as servers have them: they must not end a stream
	s.Config.WriteTimeout = 200 * time.Millisecond
	s.Start()
	defer s.Close()
	a := f.room("a", "room_started", "participant_joined")
	resp, r := f.open(s.URL, "?after=1")
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	got, more := r.next()
	require.True(t, more)
	require.Equal(t, "2-1", got.id)
	require.Equal(t, "participant_joined", got.event)
	var e struct {
		Seq     int64
		RoomSID string `json:"room_sid"`
	}
	require.NoError(t, json.Unmarshal([]byte(got.data), &e))
	require.EqualValues(t, 2, e.Seq)
	require.Equal(t, a.SID, e.RoomSID)

	// Events come long after the server's timeouts, too.
	time.Sleep(500 * time.Millisecond) // real time: it is the kernel's deadlines that are tried
	for i := range 3 {
		f.room("b"+strconv.Itoa(i), "room_started")
		got, more = r.next()
		require.True(t, more)
		require.Equal(t, strconv.Itoa(3+i)+"-1", got.id)
	}

	// A reader that comes again gets what it missed; the header goes before the query.
	_, r = f.open(s.URL, "?after=1", "Last-Event-ID", "4-1")
	got, _ = r.next()
	require.Equal(t, "5-1", got.id)

	// Close ends streams without a word.
	f.handler.Close()
	_, more = r.next()
	require.False(t, more)
}

func TestStreamTellsOfGaps(t *testing.T) {
	f := newFixture(t)
	s := httptest.NewServer(f.handler)
	defer s.Close()
	defer f.handler.Close() // or the server waits for the stream
	f.room("a", "1", "2", "3", "4", "5")
	f.prune(2)
	resp, _ := f.open(s.URL, "?after=1")
	require.Equal(t, 410, resp.StatusCode)
	resp, _ = f.open(s.URL, "", "Last-Event-ID", "9")
	require.Equal(t, 409, resp.StatusCode)
	resp, r := f.open(s.URL, "")
	require.Equal(t, 200, resp.StatusCode)
	got, _ := r.next()
	require.Equal(t, "4-1", got.id)
}

// recorder is a ResponseWriter in memory, to be read while it is written.
type recorder struct {
	http.ResponseWriter
	w io.Writer
}

func (r *recorder) Write(b []byte) (int, error) { return r.w.Write(b) }
func (r *recorder) Flush()                      {}

// TestQuietStream: a stream whose filter passes little is kept alive, and its id moves on.
func TestQuietStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		req := httptest.NewRequest(http.MethodGet, "/v1/events?type=track_muted", nil)
		req.Header.Set("Accept", "text/event-stream")
		ctx, cancel := context.WithCancel(t.Context())
		pr, pw := io.Pipe()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			f.handler.ServeHTTP(&recorder{httptest.NewRecorder(), pw}, req.WithContext(ctx))
			pw.Close()
		}()
		lines := make(chan string, 1000)
		go func() {
			sc := bufio.NewScanner(pr)
			for sc.Scan() {
				lines <- sc.Text()
			}
		}()
		f.room("a", "1", "2", "3")
		begin := time.Now()
		for line := range lines {
			if line == "id: 3-1" {
				break
			}
		}
		require.LessOrEqual(t, time.Since(begin), 20*time.Second)
		for line := range lines {
			if strings.HasPrefix(line, ":") {
				break
			}
		}
		require.LessOrEqual(t, time.Since(begin), 40*time.Second)
		cancel()
		<-ended
	})
}
