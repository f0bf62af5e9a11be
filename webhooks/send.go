package webhooks

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"parlor/rooms/log"
)

// Bounds of what is read of an answer. Nothing uses its body, but reading a small one to
// its end lets the connection be reused.
const (
	maxAnswer    = 16 << 10
	maxExcerpt   = 200
	maxError     = 500
	answerTime   = time.Second // for the body, after the status
	maxHeader    = 64 << 10
	idleConnTime = 90 * time.Second
	// HTTP/2 would use a dead connection until the kernel gives it up, a quarter of an
	// hour later, so a ping checks it.
	pingAfter = 10 * time.Second
	pingTime  = 5 * time.Second
)

// NewTransport makes the transport that a [Dispatcher] uses: HTTP/2 where the receiver
// offers it, perHost kept connections, no decompression. tlsConfig may be nil.
func NewTransport(tlsConfig *tls.Config, perHost int) *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // a small answer must not unpack into a big one
		MaxIdleConnsPerHost:    perHost,
		MaxResponseHeaderBytes: maxHeader,
		IdleConnTimeout:        idleConnTime,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTime},
	}
}

// class tells what an attempt's outcome means for the endpoint.
type class int

const (
	delivered   class = iota // 2xx
	refused                  // it answered, but refused this event: the event's own failure
	unreachable              // no answer, or an answer that says the receiver is down or overloaded
	gone                     // 410: the receiver wants no more events
	aborted                  // the dispatcher was closed
)

// outcome is the result of one attempt.
type outcome struct {
	class      class
	status     int // HTTP status; 0 = no answer
	err        string
	retryAfter time.Duration
}

// label is the outcome's label in the metrics.
func (o outcome) label() string {
	switch {
	case o.class == aborted:
		return "aborted"
	case o.status == 0:
		return "no_answer"
	}
	return strconv.Itoa(o.status/100) + "xx"
}

// sender makes attempts. It is immutable and may be used concurrently.
type sender struct {
	transport http.RoundTripper
	timeout   time.Duration
	userAgent string
}

// send makes one attempt to deliver e to t.
func (s *sender) send(parent context.Context, t *target, e *log.Event) outcome {
	ctx, cancel := context.WithTimeout(parent, s.timeout)
	defer cancel()
	req, err := s.request(ctx, t, e)
	if err != nil {
		return outcome{class: refused, err: clip(err.Error(), maxError)}
	}
	// RoundTrip, and not a Client: it follows no redirects, keeps no cookies, and its
	// errors do not contain the URL.
	resp, err := s.transport.RoundTrip(req)
	switch {
	case err == nil:
	case parent.Err() != nil:
		return outcome{class: aborted}
	case ctx.Err() != nil:
		return outcome{class: unreachable, err: fmt.Sprintf("no answer within %v", s.timeout)}
	default:
		return outcome{class: unreachable, err: clip(describe(err), maxError)}
	}
	defer resp.Body.Close()
	// The status decides. A slow body gets no more time, and Close closes the connection
	// of a long one.
	stop := time.AfterFunc(answerTime, cancel)
	defer stop.Stop()
	excerpt := readAnswer(resp.Body)
	return judge(resp, excerpt)
}

func (s *sender) request(ctx context.Context, t *target, e *log.Event) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url.String(), bytes.NewReader(e.Body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	h := req.Header
	signer := Signer{t.key, t.secret, t.signing}
	if err := signer.Sign(h, e.ID, e.Body); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	h.Set("Content-Type", "application/webhook+json")
	h.Set("User-Agent", s.userAgent)
	h.Set("Parlor-Seq", strconv.FormatInt(e.Seq, 10))
	h.Set("Parlor-Room-Seq", strconv.FormatInt(e.RoomSeq, 10))
	h.Set("Parlor-Epoch", strconv.FormatInt(e.Epoch, 10))
	// An empty list is not sent, but lets net/http repeat the request at once if a kept
	// connection turns out to be closed. The event's id makes that harmless.
	h["Idempotency-Key"] = nil
	return req, nil
}

// judge classifies an answer.
func judge(resp *http.Response, excerpt string) outcome {
	code := resp.StatusCode
	if code >= 200 && code <= 299 {
		return outcome{class: delivered, status: code}
	}
	o := outcome{class: refused, status: code, err: strings.TrimSpace(strconv.Itoa(code) + " " + http.StatusText(code))}
	switch code {
	case http.StatusGone:
		o.class = gone
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		o.class = unreachable
		o.retryAfter = retryAfter(resp.Header, time.Now())
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		o.class = unreachable
	}
	if code >= 300 && code <= 399 {
		o.err += " (redirects are not followed)"
	}
	if excerpt != "" {
		o.err += ": " + excerpt
	}
	return o
}

// readAnswer reads a bounded part of an answer and returns its beginning. An error does
// not matter: the status is known already.
func readAnswer(r io.Reader) string {
	head := make([]byte, maxExcerpt)
	n, err := io.ReadFull(r, head)
	if err == nil {
		_, _ = io.CopyN(io.Discard, r, maxAnswer-maxExcerpt) // only so that the connection can be reused
	}
	return clip(string(head[:n]), maxExcerpt)
}

// describe is err in words for an operator.
func describe(err error) string {
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "bad certificate: " + e.Err.Error()
	}
	return err.Error()
}

// clip makes s short, printable and valid UTF-8.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s))
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
