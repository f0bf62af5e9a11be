package api

import (
	"bytes"
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"parlor/rooms"
	"parlor/rooms/log"
	"parlor/server/access"
	"parlor/server/problem"
	"parlor/server/unpack"
)

// The bounds of the remembered replies.
const (
	maxReplies  = 10_000
	repliesLive = 24 * time.Hour
	maxReplyKey = 255      // bytes
	maxKept     = 32 << 20 // bytes of answers in memory
	maxStored   = 64 << 10 // bytes of the longest answer that is stored
)

// Replies stores answers, so that they survive a restart.
type Replies interface {
	FindReply(ctx context.Context, key [sha256.Size]byte, nowMs int64) (log.Reply, bool, error)
	SaveReply(ctx context.Context, r log.Reply) error
}

// replies remembers the answers to POST requests with an Idempotency-Key, so that a retry
// gets the same answer and does nothing. A key counts together with its path, API key,
// token identity and the token's grants. Failures of the server (5xx) are not remembered:
// a retry tries again.
//
// An answer is stored before it is sent, and kept for a day. The newest [maxReplies] keys
// and [maxKept] bytes of answers are also in memory; when that is full, the API key with
// the most loses its oldest, so that none crowds out the others. Answers with secrets,
// and long ones, are only in memory: a restart forgets them.
type replies struct {
	store Replies // nil = replies are only in memory

	mu    sync.Mutex // guards the following
	byKey map[[sha256.Size]byte]*list.Element
	kept  map[string]*keptReplies // by API key; a key without replies has no entry
	bytes int                     // of answers
}

// keptReplies are the replies of one API key. replies.mu guards them.
type keptReplies struct {
	order *list.List // of *reply, the oldest first
	bytes int        // of answers
}

// reply is the answer to a request; status 0 while the request is under way.
type reply struct {
	key         [sha256.Size]byte
	fingerprint [sha256.Size]byte // of the request
	since       time.Time
	apiKey      string

	status int
	header map[string]string
	body   []byte
}

func newReplies(store Replies) *replies {
	return &replies{store: store, byKey: map[[sha256.Size]byte]*list.Element{}, kept: map[string]*keptReplies{}}
}

// attempt makes the reply for r. It reads r's body and puts it back.
func attempt(r *http.Request, key string) (*reply, error) {
	if len(key) > maxReplyKey {
		return nil, problem.New(http.StatusBadRequest, "malformed", "Idempotency-Key must not be longer than %d bytes", maxReplyKey)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, bodyProblem(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	who, apiKey := "", ""
	if c := access.FromContext(r.Context()); c != nil {
		// The grants are part of the key, so that nobody sees another's answer.
		grants, _ := json.Marshal(c.Grants.Video) // they come from JSON, so they can be marshalled
		apiKey = c.APIKey
		who = apiKey + "\n" + c.Grants.Identity + "\n" + string(grants)
	}
	h := sha256.New()
	_, _ = io.WriteString(h, r.URL.RawQuery+"\n"+r.Header.Get("Content-Type")+"\n") // a hash never fails
	_, _ = h.Write(body)
	mine := &reply{key: sha256.Sum256([]byte(who + "\n" + r.URL.EscapedPath() + "\n" + key)), since: time.Now(), apiKey: apiKey}
	h.Sum(mine.fingerprint[:0])
	return mine, nil
}

// once calls do to answer r, or repeats the answer to an earlier request with the key.
// secret keeps the answer off the disk.
func (rs *replies) once(w http.ResponseWriter, r *http.Request, key string, secret bool, log *slog.Logger, do handler) error {
	mine, err := attempt(r, key)
	if err != nil {
		return err
	}
	if twin := rs.begin(mine); twin != nil {
		return twin.repeat(w, mine)
	}
	rec := &recorder{ResponseWriter: w, status: http.StatusOK}
	defer func() { rs.end(mine, rec) }() // also when do panics
	twin, err := rs.stored(r.Context(), mine)
	switch {
	case err != nil: // the request may have been done already
		return err
	case twin != nil:
		return twin.repeat(w, mine)
	}
	if err := do(rec, r); err != nil {
		asProblem(r, log, err).Write(rec)
	}
	rec.done = true
	if rs.store != nil && !secret && rec.final() && rec.body.Len() <= maxStored {
		// The request is done, whether or not the client still waits.
		if err := rs.store.SaveReply(context.WithoutCancel(r.Context()), mine.answered(rec).row()); err != nil {
			log.Error("cannot store what a request with an Idempotency-Key was answered: a retry after a restart would repeat it", "error", err)
		}
	}
	rec.send()
	return nil
}

// stored returns mine's twin from before a restart; nil if there is none.
func (rs *replies) stored(ctx context.Context, mine *reply) (*reply, error) {
	if rs.store == nil {
		return nil, nil
	}
	row, found, err := rs.store.FindReply(ctx, mine.key, rooms.NowMs(mine.since))
	if err != nil || !found {
		return nil, err
	}
	return &reply{fingerprint: row.Fingerprint, status: row.Status, header: row.Header, body: row.Body}, nil
}

// answered is mine with rec's answer.
func (mine *reply) answered(rec *recorder) *reply {
	done := *mine
	done.status, done.body = rec.status, rec.body.Bytes()
	done.header = map[string]string{}
	for _, name := range []string{"Content-Type", "ETag", "Location", "Cache-Control"} {
		if v := rec.Header().Get(name); v != "" {
			done.header[name] = v
		}
	}
	return &done
}

func (mine *reply) row() log.Reply {
	return log.Reply{
		Key: mine.key, APIKey: mine.apiKey, Fingerprint: mine.fingerprint, CreatedMs: rooms.NowMs(mine.since),
		Status: mine.status, Header: mine.header, Body: mine.body,
	}
}

// begin remembers mine, unless it has a twin; then it returns a copy of the twin.
func (rs *replies) begin(mine *reply) (twin *reply) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, k := range rs.kept {
		for e := k.order.Front(); e != nil && mine.since.Sub(e.Value.(*reply).since) >= repliesLive; e = k.order.Front() {
			rs.forget(e)
		}
	}
	if e := rs.byKey[mine.key]; e != nil {
		known := *e.Value.(*reply)
		return &known
	}
	for len(rs.byKey) >= maxReplies {
		rs.forgetOf(func(k *keptReplies) int { return k.order.Len() })
	}
	k := rs.kept[mine.apiKey]
	if k == nil {
		k = &keptReplies{order: list.New()}
		rs.kept[mine.apiKey] = k
	}
	rs.byKey[mine.key] = k.order.PushBack(mine)
	return nil
}

// end records mine's answer, or forgets mine if the request may be tried again.
func (rs *replies) end(mine *reply, rec *recorder) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	e := rs.byKey[mine.key]
	if e == nil || e.Value != mine {
		return // it was crowded out meanwhile
	}
	if !rec.final() {
		rs.forget(e)
		return
	}
	*mine = *mine.answered(rec)
	rs.bytes += len(mine.body)
	rs.kept[mine.apiKey].bytes += len(mine.body)
	for rs.bytes > maxKept {
		rs.forgetOf(func(k *keptReplies) int { return k.bytes })
	}
}

// forgetOf forgets the oldest reply of the API key that has the most.
func (rs *replies) forgetOf(have func(*keptReplies) int) {
	var most *keptReplies
	for _, k := range rs.kept {
		if most == nil || have(k) > have(most) {
			most = k
		}
	}
	rs.forget(most.order.Front())
}

func (rs *replies) forget(e *list.Element) {
	r := e.Value.(*reply)
	delete(rs.byKey, r.key)
	k := rs.kept[r.apiKey]
	k.order.Remove(e)
	k.bytes -= len(r.body)
	rs.bytes -= len(r.body)
	if k.order.Len() == 0 {
		delete(rs.kept, r.apiKey)
	}
}

// repeat answers asked as its twin was answered.
func (twin *reply) repeat(w http.ResponseWriter, asked *reply) error {
	switch {
	case twin.fingerprint != asked.fingerprint:
		return problem.New(http.StatusUnprocessableEntity, "idempotency_key_reused", "the Idempotency-Key was used for another request")
	case twin.status == 0:
		w.Header().Set("Retry-After", problem.RetryAfter)
		return problem.New(http.StatusConflict, "in_progress", "the request with this Idempotency-Key is still under way")
	}
	for name, value := range twin.header {
		w.Header().Set(name, value)
	}
	w.Header().Set("Idempotency-Replayed", "true")
	w.WriteHeader(twin.status)
	_, _ = w.Write(twin.body) // the client may be gone
	return nil
}

// recorder holds an answer until it is sent.
type recorder struct {
	http.ResponseWriter
	status  int
	written bool
	body    bytes.Buffer
	done    bool // the handler has returned
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader implements [http.ResponseWriter].
func (r *recorder) WriteHeader(status int) {
	if !r.written {
		r.status, r.written = status, true
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.written = true
	return r.body.Write(b)
}

// final reports whether the answer must be remembered: it tells what was done, or the
// state that the request met. A refused request did nothing, and may be corrected and
// sent again with its key.
func (r *recorder) final() bool {
	if !r.done || r.status >= 500 {
		return false
	}
	switch r.status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestEntityTooLarge,
		http.StatusUnsupportedMediaType, http.StatusTooManyRequests:
		return false
	}
	return true
}

func (r *recorder) send() {
	r.ResponseWriter.WriteHeader(r.status)
	_, _ = r.ResponseWriter.Write(r.body.Bytes()) // the client may be gone
}

// bodyProblem is the problem of a body that cannot be read.
func bodyProblem(err error) error {
	if big, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &refused{problem.New(http.StatusRequestEntityTooLarge, "too_large", "the body must not be longer than %d bytes", big.Limit), unpack.ErrTooLong}
	}
	return problem.New(http.StatusBadRequest, "malformed", "the body ended early")
}
