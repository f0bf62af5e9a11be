package api

import (
	"bytes"
	"container/list"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"

	"parlor/server/access"
)

// The bounds of what is remembered of requests with an Idempotency-Key.
const (
	maxReplies  = 10_000
	repliesLive = 24 * time.Hour
	maxReplyKey = 255      // bytes
	maxKept     = 32 << 20 // bytes of answers
)

// replies remembers what POST requests with an Idempotency-Key were answered, so
// that a retry gets the same answer and does nothing. A key is its API key's and
// its path's own. Failures of ours (5xx) are not remembered: a retry tries again.
//
// It is kept in memory, for a day and for the newest [maxReplies] keys and
// [maxKept] bytes of answers: a restart forgets it. What must not happen twice even then is safe by itself: a room's
// name is taken once, and an event has an id.
type replies struct {
	mu    sync.Mutex // guards the following
	byKey map[string]*list.Element
	order *list.List // of *reply, the oldest first
	bytes int        // of answers
}

// reply is what a request was answered; status 0 while it is under way.
type reply struct {
	key         string
	fingerprint [sha256.Size]byte // of the request
	since       time.Time

	status int
	header http.Header
	body   []byte
}

func newReplies() *replies {
	return &replies{byKey: map[string]*list.Element{}, order: list.New()}
}

// once has do answer r, or gives the answer that r's twin got.
func (rs *replies) once(w http.ResponseWriter, r *http.Request, key string, log *slog.Logger, do handler) error {
	if len(key) > maxReplyKey {
		return problemf(http.StatusBadRequest, "malformed", "Idempotency-Key must not be longer than %d bytes", maxReplyKey)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return bodyProblem(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	apiKey := ""
	if c := access.FromContext(r.Context()); c != nil {
		apiKey = c.APIKey
	}
	h := sha256.New()
	_, _ = io.WriteString(h, r.URL.RawQuery+"\n"+r.Header.Get("Content-Type")+"\n") // a hash takes everything
	_, _ = h.Write(body)
	mine := &reply{key: apiKey + "\n" + r.URL.EscapedPath() + "\n" + key, since: time.Now()}
	h.Sum(mine.fingerprint[:0])

	if twin := rs.begin(mine); twin != nil {
		return twin.repeat(w, mine)
	}
	rec := &recorder{ResponseWriter: w, status: http.StatusOK}
	defer func() { rs.end(mine, rec) }() // also when do panics
	if err := do(rec, r); err != nil {
		asProblem(r, log, err).write(rec)
	}
	rec.done = true
	return nil
}

// begin remembers mine, unless it has a twin, of which it returns a copy.
func (rs *replies) begin(mine *reply) (twin *reply) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for e := rs.order.Front(); e != nil; e = rs.order.Front() {
		if rs.order.Len() < maxReplies && mine.since.Sub(e.Value.(*reply).since) < repliesLive {
			break
		}
		rs.forget(e)
	}
	if e := rs.byKey[mine.key]; e != nil {
		known := *e.Value.(*reply)
		return &known
	}
	rs.byKey[mine.key] = rs.order.PushBack(mine)
	return nil
}

// end keeps what mine was answered, or forgets it if it may be tried again.
func (rs *replies) end(mine *reply, rec *recorder) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	e := rs.byKey[mine.key]
	if e == nil || e.Value != mine {
		return // crowded out meanwhile
	}
	if !rec.done || rec.status >= 500 || rec.status == http.StatusTooManyRequests {
		rs.forget(e)
		return
	}
	mine.status, mine.header, mine.body = rec.status, rec.kept, rec.body.Bytes()
	rs.bytes += len(mine.body)
	for rs.bytes > maxKept {
		rs.forget(rs.order.Front())
	}
}

func (rs *replies) forget(e *list.Element) {
	r := e.Value.(*reply)
	delete(rs.byKey, r.key)
	rs.order.Remove(e)
	rs.bytes -= len(r.body)
}

// repeat answers asked as its twin was.
func (twin *reply) repeat(w http.ResponseWriter, asked *reply) error {
	switch {
	case twin.fingerprint != asked.fingerprint:
		return problemf(http.StatusUnprocessableEntity, "idempotency_key_reused", "the Idempotency-Key was used for another request")
	case twin.status == 0:
		w.Header().Set("Retry-After", retryAfter)
		return problemf(http.StatusConflict, "in_progress", "the request with this Idempotency-Key is still under way")
	}
	maps.Copy(w.Header(), twin.header)
	w.Header().Set("Idempotency-Replayed", "true")
	w.WriteHeader(twin.status)
	_, _ = w.Write(twin.body) // the client may be gone
	return nil
}

// recorder keeps what it passes on.
type recorder struct {
	http.ResponseWriter
	status int
	kept   http.Header
	body   bytes.Buffer
	done   bool // the handler has returned
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) WriteHeader(status int) {
	if r.kept == nil {
		r.status, r.kept = status, r.Header().Clone()
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.kept == nil {
		r.WriteHeader(http.StatusOK)
	}
	r.body.Write(b)
	return r.ResponseWriter.Write(b)
}

// bodyProblem is why a request's body could not be read.
func bodyProblem(err error) *problem {
	if big, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return problemf(http.StatusRequestEntityTooLarge, "too_large", "the body must not be longer than %d bytes", big.Limit)
	}
	return problemf(http.StatusBadRequest, "malformed", "the body ended early")
}
