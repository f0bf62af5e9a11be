package webhooks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"parlor/rooms/log"
)

// The defaults of [Config].
const (
	DefaultTimeout     = 15 * time.Second
	DefaultConcurrency = 8
	DefaultRelaxAfter  = 3
	DefaultProbeMin    = time.Second
	DefaultProbeMax    = time.Minute
	DefaultMaxPending  = 1_000_000
)

// Ordering tells what happens to a room's later events while an earlier one fails.
type Ordering string

// The orderings.
const (
	// Relaxed, the default: after [Config.RelaxAfter] failed attempts an event no
	// longer holds up the later events of its room.
	Relaxed Ordering = "relaxed"
	// Strict: a room's event waits until the earlier one is delivered or dead.
	Strict Ordering = "strict"
)

// Endpoint is a receiver of webhooks in the configuration.
type Endpoint struct {
	URL  string // http or https; tells endpoints apart
	Name string // for people: logs and status; may be empty
	Key  string // the API key that signs; empty = Config.Key
	// Include names the event types that are sent, "*" all of them. If it is empty, all
	// types that LiveKit sends are sent, except those in Exclude.
	Include, Exclude []string
	Ordering         Ordering // empty = Config.Ordering
	// Secrets sign the Standard Webhooks headers: "whsec_" and the base64 of 24 to 64
	// bytes. To rotate a secret, name the new and the old one: each delivery has a
	// signature of each. Empty = [DeriveSecret] of the API secret.
	Secrets     []string
	Concurrency int // requests at a time; 0 = Config.Concurrency
	// RetryFor is how long an event is tried before it becomes a dead letter; 0 = as long
	// as Config.Schedule lasts. The schedule is cut at that time, or its last step is
	// repeated.
	RetryFor time.Duration
}

// Config configures a [Dispatcher]. Zero fields have defaults.
type Config struct {
	Store     log.Outbox
	Endpoints []Endpoint
	Keys      map[string]string // API key → secret
	Key       string            // the API key that signs for endpoints without one
	Ordering  Ordering          // Relaxed
	Logger    *slog.Logger      // slog.Default()

	RelaxAfter  int           // failed attempts, for Relaxed
	Concurrency int           // requests at a time to one endpoint
	Timeout     time.Duration // of one attempt
	// Schedule is the time from each failed attempt to the next, by default
	// [DefaultSchedule]. An event has one attempt more than the schedule has entries.
	Schedule []time.Duration
	// ProbeMin and ProbeMax bound the time between probes of an endpoint that is down; it
	// doubles from the one to the other. It grows to five times ProbeMax while the
	// endpoint answers but refuses.
	ProbeMin, ProbeMax time.Duration
	// MaxPending bounds the pending deliveries of an endpoint: beyond it the oldest
	// become dead letters. Negative = no bound.
	MaxPending int64

	// Barrier, if set, returns when the replica has all events up to seq; no event is
	// sent before that. It may be called concurrently.
	Barrier func(ctx context.Context, seq int64) error
	// Allow, if set, fails while another machine may serve the rooms and send the outbox:
	// then nothing is sent. It is called before every request, and must be cheap.
	Allow func() error
	// Transport sends the requests; [NewTransport] by default.
	Transport http.RoundTripper
	// UserAgent is the User-Agent of the requests.
	UserAgent string
}

func (c Config) withDefaults() Config {
	def(&c.Ordering, Relaxed)
	def(&c.RelaxAfter, DefaultRelaxAfter)
	def(&c.Concurrency, DefaultConcurrency)
	def(&c.Timeout, DefaultTimeout)
	def(&c.ProbeMin, DefaultProbeMin)
	def(&c.ProbeMax, max(DefaultProbeMax, c.ProbeMin))
	def(&c.MaxPending, DefaultMaxPending)
	def(&c.UserAgent, "Parlor")
	def(&c.Logger, slog.Default())
	if len(c.Schedule) == 0 {
		c.Schedule = DefaultSchedule()
	}
	if c.MaxPending < 0 {
		c.MaxPending = math.MaxInt64
	}
	return c
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// target is an endpoint with everything needed to send to it.
type target struct {
	url         *url.URL
	name        string
	key, secret string   // of LiveKit's signature
	signing     [][]byte // of Standard Webhooks, the current one first
	concurrency int
	schedule    schedule
	record      log.Endpoint
}

// targets checks the endpoints of c, whose defaults are set.
func (c *Config) targets() ([]target, error) {
	var out []target
	for _, e := range c.Endpoints {
		t, err := c.target(e)
		if err != nil {
			return nil, fmt.Errorf("webhook endpoint %q: %w", redact(e.URL), err)
		}
		if slices.ContainsFunc(out, func(o target) bool { return o.record.URL == e.URL }) {
			return nil, fmt.Errorf("webhook endpoint %q is named twice", redact(e.URL))
		}
		out = append(out, t)
	}
	return out, nil
}

func (c *Config) target(e Endpoint) (target, error) {
	def(&e.Key, c.Key)
	def(&e.Ordering, c.Ordering)
	def(&e.Concurrency, c.Concurrency)
	u, err := url.Parse(e.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return target{}, errors.New("needs an http or https URL")
	}
	secret := c.Keys[e.Key]
	if secret == "" {
		return target{}, fmt.Errorf("no secret is configured for its API key %q", e.Key)
	}
	if e.Concurrency < 0 {
		return target{}, errors.New("concurrency must not be negative")
	}
	if e.RetryFor < 0 {
		return target{}, errors.New("the time to try for must not be negative")
	}
	t := target{
		url: u, name: e.Name, key: e.Key, secret: secret, concurrency: e.Concurrency, schedule: c.Schedule,
		record: log.Endpoint{URL: e.URL, KeyID: e.Key, Include: e.Include, Exclude: e.Exclude},
	}
	if e.RetryFor > 0 {
		t.schedule = t.schedule.lasting(e.RetryFor)
	}
	switch e.Ordering {
	case Relaxed:
		t.record.RelaxAfter = c.RelaxAfter
	case Strict:
	default:
		return target{}, fmt.Errorf("ordering %q is neither %q nor %q", e.Ordering, Relaxed, Strict)
	}
	secrets := e.Secrets
	if len(secrets) == 0 {
		secrets = []string{DeriveSecret(secret)}
	}
	for _, s := range secrets {
		b, err := parseSecret(s)
		if err != nil {
			return target{}, err
		}
		t.signing = append(t.signing, b)
	}
	return t, nil
}

// redact is the URL without its secrets: password, query and fragment.
func redact(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "(not a URL)"
	}
	u.RawQuery, u.Fragment = "", ""
	return strings.ToValidUTF8(u.Redacted(), "?")
}
