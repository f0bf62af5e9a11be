package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"parlor/rooms/log"
	"parlor/server/access"
	"parlor/server/problem"
)

const (
	// beat is the longest silence of a stream, so that proxies do not take it for dead.
	beat = 15 * time.Second
	// writeTime is how long a write may take. A slower reader is cut off, and comes back
	// to where it was.
	writeTime = 30 * time.Second
	// reconnect is how long a reader should wait before it comes back.
	reconnect = 2 * time.Second
	// recheck is how old the check of the reader's right may be when it is sent
	// something; while nothing is sent, it is checked every fifth of a beat.
	recheck = time.Second
	// gathering is how long a stream for people gathers events: they see no difference, and
	// on a busy server each look at the log finds many.
	gathering = 250 * time.Millisecond
)

type whileKey struct{}

// While makes streams of requests with that context end when check returns an error.
// check is called again and again with the request's context. If the error is a
// [*problem.Problem], the reader gets it in an event "gone"; any other error is logged,
// and the reader gets "internal error".
func While(ctx context.Context, check func(context.Context) error) context.Context {
	return context.WithValue(ctx, whileKey{}, check)
}

// Beside has the streams of requests with that context tell something else, too, at once
// and again after every: an event of that name, without an id, whose data is what tell
// returns. nil is nothing.
func Beside(ctx context.Context, name string, every time.Duration, tell func() []byte) context.Context {
	return context.WithValue(ctx, besideKey{}, &beside{name: name, every: every, tell: tell})
}

// Gathered has the streams of requests with that context bring events a few times a second
// at most, so that a person who watches costs a busy server little.
func Gathered(ctx context.Context) context.Context {
	return context.WithValue(ctx, gatheredKey{}, gathering)
}

type (
	besideKey   struct{}
	gatheredKey struct{}
)

type beside struct {
	name  string
	every time.Duration
	tell  func() []byte
	told  time.Time
}

// stream sends the log as server-sent events (WHATWG HTML, section 9.2) until the reader
// goes or the handler is closed.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request, q log.Query) {
	key := ""
	if c := access.FromContext(r.Context()); c != nil {
		key = c.APIKey
	}
	if p := h.begin(key); p != nil {
		w.Header().Set("Retry-After", "5")
		p.Write(w)
		return
	}
	defer h.ended(key)
	// An error that shows now becomes the HTTP answer; a later one ends the stream.
	if _, err := h.log.Page(r.Context(), log.Query{After: q.After, Epoch: q.Epoch, Limit: 1}); err != nil {
		h.asProblem(r, err).Write(w)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	stop := context.AfterFunc(h.closing, cancel)
	defer stop()

	s := &sse{w: w, control: http.NewResponseController(w), sent: q.After, frames: &h.frames, checked: time.Now()}
	if check, ok := r.Context().Value(whileKey{}).(func(context.Context) error); ok {
		s.check = func() error { return check(ctx) }
	}
	every := beat / 5
	if b, ok := r.Context().Value(besideKey{}).(*beside); ok {
		s.beside, every = b, b.every
	}
	gather, _ := r.Context().Value(gatheredKey{}).(time.Duration) // else each event comes at once
	_ = s.control.SetReadDeadline(time.Time{})                    // the request has been read; some writers have no deadlines
	head := w.Header()
	head.Set("Content-Type", "text/event-stream")
	head.Set("X-Accel-Buffering", "no") // nginx would buffer the stream
	err := s.write(fmt.Sprintf("retry: %d\n\n", reconnect.Milliseconds()))
	if err == nil {
		err = s.flush()
	}
	if err != nil {
		return // the reader has gone
	}
	q.Limit = maxLimit
	err = h.log.Stream(ctx, q, log.Sink{Event: s.event, CaughtUp: s.caughtUp, Every: every, Gather: gather})
	h.end(s, r, err)
}

// begin takes a place for a stream of that API key, or returns why there is none.
func (h *Handler) begin(key string) *problem.Problem {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.ofKey[key] >= h.mostOf: // RFC 6585, section 4
		return problem.New(http.StatusTooManyRequests, "too_many_streams",
			"this API key has %d streams open already: close some, or read pages", h.mostOf)
	case h.streams >= maxStreams:
		return problem.New(http.StatusServiceUnavailable, "unavailable", "too many streams are open")
	}
	h.streams++
	h.ofKey[key]++
	return nil
}

// ended gives up the place.
func (h *Handler) ended(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.streams--
	if h.ofKey[key]--; h.ofKey[key] == 0 {
		delete(h.ofKey, key)
	}
	if h.streams == 0 {
		h.frames.clear()
	}
}

// end tells the reader why the stream ends, if the reader is still there.
func (h *Handler) end(s *sse, r *http.Request, err error) {
	if s.failed || errors.Is(err, context.Canceled) {
		return // the reader has gone, or will come back
	}
	body, err := json.Marshal(h.asProblem(r, err))
	if err != nil {
		return // this package's own type: only a bug gets here
	}
	if s.write("event: gone\ndata: "+string(body)+"\n\n") == nil {
		_ = s.flush() // the reader may have gone
	}
}

// sse writes a stream. It belongs to its handler's goroutine.
type sse struct {
	w       http.ResponseWriter
	control *http.ResponseController

	sent    int64     // the seq that the reader has
	flushed time.Time // when something was last sent
	unsent  bool      // something is written and not flushed
	failed  bool      // the reader does not take what is written

	frames *frames
	beside *beside // what is told, too; nil = nothing

	check   func() error // whether the reader may still read; nil = it may
	checked time.Time    // when check was last called
}

// allowed returns why the reader may not read any more; nil if it may.
func (s *sse) allowed() error {
	if s.check == nil || time.Since(s.checked) < recheck {
		return nil
	}
	s.checked = time.Now()
	return s.check()
}

func (s *sse) event(e log.Event) error {
	if err := s.allowed(); err != nil {
		return err
	}
	text, err := s.frames.of(&e)
	if err != nil {
		return err
	}
	s.sent = e.Seq
	return s.write(text)
}

// caughtUp flushes what is written. After a silence it sends the cursor up to which there
// is nothing new, so that a reader that wants few events does not come back with an id
// that was pruned long ago. An id without data is no event.
func (s *sse) caughtUp(at log.Cursor) error {
	if err := s.allowed(); err != nil {
		return err
	}
	if err := s.tellBeside(); err != nil {
		return err
	}
	if time.Since(s.flushed) >= beat {
		comment := ": nothing new\n\n"
		if at.Seq > s.sent {
			comment = fmt.Sprintf("id: %v\n\n", at)
			s.sent = at.Seq
		}
		if err := s.write(comment); err != nil {
			return err
		}
	}
	return s.flush()
}

// tellBeside sends what is told beside the log, when it is time for it.
func (s *sse) tellBeside() error {
	b := s.beside
	// A ticker may be a little early.
	if b == nil || time.Since(b.told) < b.every*9/10 {
		return nil
	}
	b.told = time.Now()
	if data := b.tell(); data != nil {
		return s.write("event: " + b.name + "\ndata: " + string(data) + "\n\n")
	}
	return nil
}

func (s *sse) write(text string) error {
	// Some writers have no deadlines and need none.
	_ = s.control.SetWriteDeadline(time.Now().Add(writeTime))
	_, err := io.WriteString(s.w, text)
	s.unsent = true
	return s.written(err)
}

func (s *sse) flush() error {
	if !s.unsent {
		return nil
	}
	s.unsent, s.flushed = false, time.Now()
	return s.written(s.control.Flush())
}

func (s *sse) written(err error) error {
	s.failed = s.failed || err != nil
	return err
}
