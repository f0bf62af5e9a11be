// Package authorize asks the operator's own service before a participant is let into a
// room, and before a join opens a room.
//
// A [Hook] posts a [Question] as JSON, signed as webhooks are, and reads an [Answer],
// which may allow, deny with a message, or allow with changes. Concurrent joins with one
// token share one request, and the answer is kept for a while: so a crowd that comes back
// after a restart asks once per token.
package authorize

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"parlor/rooms/guid"
	"parlor/webhooks"
)

const (
	// maxAnswer bounds an answer in bytes; it may have two of LiveKit's 512 KiB of
	// metadata.
	maxAnswer = 2 << 20
	// maxRequests is how many questions may be under way at a time; others wait, within
	// the time for an answer.
	maxRequests = 64
)

// Config configures a [Hook].
type Config struct {
	URL     string
	Timeout time.Duration // for an answer, the wait for a free connection included
	// AllowOnFailure lets everybody in if there is no answer; otherwise nobody is let in.
	AllowOnFailure bool
	Cache          time.Duration // how long an answer is kept for its token; 0 = only for the joins that wait for it
	Signer         *webhooks.Signer
	UserAgent      string
	Log            *slog.Logger
	Transport      http.RoundTripper // nil = one of its own
}

// Unavailable means that a question got no answer and nobody is let in then.
type Unavailable struct{ Cause error }

func (u *Unavailable) Error() string { return "ask whether to let in: " + u.Cause.Error() }
func (u *Unavailable) Unwrap() error { return u.Cause }

// Hook asks the operator's service. Its methods may be called concurrently.
type Hook struct {
	cfg     Config
	metrics *metrics

	life context.Context // ends when Close is called: the requests' own lifetime
	quit context.CancelFunc

	mu      sync.Mutex     // guards the following
	calls   sync.WaitGroup // one for each request under way; added to under mu while life lasts
	answers answers
}

// New makes a hook; call [Hook.Close] when it is no longer needed.
func New(cfg Config) *Hook {
	if cfg.Transport == nil {
		t := webhooks.NewTransport(nil, maxRequests)
		t.MaxConnsPerHost = maxRequests
		cfg.Transport = t
	}
	life, quit := context.WithCancel(context.Background())
	return &Hook{cfg: cfg, metrics: newMetrics(), life: life, quit: quit, answers: newAnswers(cfg.Cache)}
}

// Close aborts the requests and waits for them.
func (h *Hook) Close() {
	h.mu.Lock()
	h.quit()
	h.mu.Unlock()
	h.calls.Wait()
	if t, ok := h.cfg.Transport.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

// Ask asks q about the bearer of the token with that digest, and returns the answer,
// which must not be changed. It fails with [*Unavailable] if there is no answer and
// AllowOnFailure is not set.
func (h *Hook) Ask(ctx context.Context, digest [sha256.Size]byte, q *Question) (*Answer, error) {
	who, err := json.Marshal(q.Participant) // the client's own wishes are in it
	if err != nil {
		return nil, fmt.Errorf("write the question: %w", err)
	}
	c, err := h.begin(callKey{sha256.Sum256(append(digest[:], who...)), q.Create, q.Reconnect}, q)
	if err != nil {
		return nil, err
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	switch {
	case c.err == nil:
		return c.answer, nil
	case h.cfg.AllowOnFailure:
		h.cfg.Log.Warn("let in without an answer of the authorization hook", "room", q.Room, "participant", q.Participant.Identity, "error", c.err)
		yes := true
		return &Answer{Allow: &yes}, nil
	}
	return nil, &Unavailable{c.err}
}

// begin finds a call that answers the question, or starts one.
func (h *Hook) begin(key callKey, q *Question) (*call, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.answers.find(key, time.Now()); c != nil {
		h.metrics.cached.Inc()
		return c, nil
	}
	if err := h.life.Err(); err != nil {
		return nil, &Unavailable{err}
	}
	c := h.answers.add(key)
	h.calls.Go(func() { h.end(c, q) }) // ends by its timeout, or by Close
	return c, nil
}

// end makes the request, and wakes the joins that wait for it.
func (h *Hook) end(c *call, q *Question) {
	began := time.Now()
	answer, size, err := h.post(q)
	result := "allowed"
	switch {
	case err != nil:
		result = "failed"
	case !*answer.Allow:
		result = "denied"
	}
	h.metrics.requests.WithLabelValues(result).Observe(time.Since(began).Seconds())

	h.mu.Lock()
	defer h.mu.Unlock()
	c.answer, c.size, c.err = answer, size, err
	h.answers.finish(c, time.Now())
	close(c.done)
}

// post makes one request.
func (h *Hook) post(q *Question) (_ *Answer, size int, _ error) {
	ctx, cancel := context.WithTimeout(h.life, h.cfg.Timeout)
	defer cancel()
	body, err := json.Marshal(q)
	if err != nil {
		return nil, 0, fmt.Errorf("write the question: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return nil, 0, errors.New("hooks.authorize is not a URL that can be asked")
	}
	if err := h.cfg.Signer.Sign(req.Header, guid.New("AQ_"), body); err != nil {
		return nil, 0, fmt.Errorf("sign the question: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", h.cfg.UserAgent)
	req.Header["Idempotency-Key"] = nil // not sent; lets net/http retry on a stale connection
	// RoundTrip, and not a Client: it follows no redirects, and its errors do not contain
	// the URL, which may hold a secret.
	resp, err := h.cfg.Transport.RoundTrip(req)
	if err != nil {
		if ctx.Err() != nil && h.life.Err() == nil {
			return nil, 0, fmt.Errorf("no answer within %v", h.cfg.Timeout)
		}
		return nil, 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("read the answer: %w", err)
	case len(text) > maxAnswer:
		return nil, 0, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	a, err := parse(resp.StatusCode, text)
	return a, len(text), err
}
