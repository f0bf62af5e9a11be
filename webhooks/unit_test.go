package webhooks

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestScheduleLastsThreeDays(t *testing.T) {
	s := schedule(DefaultSchedule())
	require.InDelta(t, 75.5, s.total().Hours(), 0.5)
	attempts := 1
	for {
		wait, again := s.next(attempts)
		if !again {
			break
		}
		require.InDelta(t, float64(s[attempts-1]), float64(wait), 0.2*float64(s[attempts-1])+1)
		attempts++
	}
	require.Equal(t, 10, attempts)
}

func TestScheduleLastsAsLongAsAsked(t *testing.T) {
	s := schedule(DefaultSchedule())
	for _, d := range []time.Duration{time.Second, 5 * time.Second, time.Hour, s.total(), 10 * 24 * time.Hour} {
		require.Equal(t, d, s.lasting(d).total())
	}
	require.Equal(t, schedule{5 * time.Second, 55 * time.Second}, s.lasting(time.Minute), "cut")
	require.Equal(t, s, s.lasting(s.total()))
	long := s.lasting(s.total() + 36*time.Hour)
	require.Equal(t, schedule{24 * time.Hour, 24 * time.Hour, 12 * time.Hour}, long[len(s)-1:], "repeated")
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"":                               0,
		"0":                              0,
		" 120 ":                          2 * time.Minute,
		"3600":                           time.Hour,
		"99999999999999999":              time.Hour,
		"999999999999999999999999999999": 0,
		"-5":                             0,
		"soon":                           0,
		"1.5":                            0,
		"Thu, 01 Jan 2026 00:00:30 GMT":  30 * time.Second,
		"Thu, 01 Jan 2037 00:00:30 GMT":  time.Hour,
		"Thu, 01 Jan 1970 00:00:30 GMT":  0,
	} {
		require.Equal(t, want, retryAfter(http.Header{"Retry-After": {v}}, now), v)
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"1", "-1", "Thu, 01 Jan 2026 00:00:30 GMT", "9223372036854775807", "9223372036854775808"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, v string) {
		d := retryAfter(http.Header{"Retry-After": {v}}, time.Unix(0, 0))
		if d < 0 || d > maxRetryAfter {
			t.Fatalf("%q gives %v", v, d)
		}
	})
}

func FuzzClip(f *testing.F) {
	f.Add("ok", 5)
	f.Add("\xff\x00é日本語", 4)
	f.Fuzz(func(t *testing.T, s string, n int) {
		n = 1 + int(uint(n)%600)
		got := clip(s, n)
		if !utf8.ValidString(got) || len(got) > n+len("…") || strings.ContainsAny(got, "\x00\n\r") {
			t.Fatalf("clip(%q, %d) = %q", s, n, got)
		}
	})
}

func TestSecrets(t *testing.T) {
	s := DeriveSecret("secret")
	require.Equal(t, s, DeriveSecret("secret"))
	require.NotEqual(t, s, DeriveSecret("Secret"))
	b, err := parseSecret(s)
	require.NoError(t, err)
	require.Len(t, b, 32)
	for _, bad := range []string{"", "whsec_", "whsec_!!", "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 23)),
		"whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 65))} {
		_, err := parseSecret(bad)
		require.Error(t, err, bad)
	}
	// The example in the specification of Standard Webhooks.
	key, err := parseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	require.NoError(t, err)
	require.Equal(t, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		signatures([][]byte{key}, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, []byte(`{"test": 2432232314}`)))
}

func TestBreaker(t *testing.T) {
	now := time.Unix(1000, 0)
	b := breaker{min: time.Second, max: time.Minute}
	require.False(t, b.failure(now, false, unreachable))
	require.False(t, b.failure(now.Add(2*time.Second), false, unreachable), "not for long enough")
	require.True(t, b.failure(now.Add(3*time.Second), false, unreachable))
	require.False(t, b.failure(now.Add(3*time.Second), false, unreachable), "it is open")
	require.True(t, b.success(now.Add(6*time.Second)), "it was down for long")
	require.False(t, b.open)

	for i := range breakAfter {
		require.Equal(t, i == breakAfter-1, b.failure(now, false, refused))
	}
	require.False(t, b.success(now.Add(time.Second)), "it was down for a moment")

	b.doubt(now, now)
	for range 20 {
		require.False(t, b.failure(now, true, unreachable))
	}
	require.InDelta(t, 60, b.until.Sub(now).Seconds(), 13)
	require.Equal(t, b.until, b.early)
	for range 20 {
		b.failure(now, true, refused)
	}
	require.InDelta(t, 60, b.until.Sub(now).Seconds(), 13)
	require.InDelta(t, 300, b.early.Sub(now).Seconds(), 13)
	b.hold(now, time.Hour)
	require.Equal(t, now.Add(time.Hour), b.until)
	require.Equal(t, now.Add(time.Hour), b.early)
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Key: "k", Keys: map[string]string{"k": "secret"}, Endpoints: []Endpoint{{URL: "https://u:p@a.test/x?token=t"}}}
	targets := func(f func(*Config)) error {
		c := good
		c.Endpoints = append([]Endpoint(nil), good.Endpoints...)
		f(&c)
		c = c.withDefaults()
		_, err := c.targets()
		return err
	}
	require.NoError(t, targets(func(*Config) {}))
	for name, f := range map[string]func(*Config){
		"no key":        func(c *Config) { c.Key = "" },
		"unknown key":   func(c *Config) { c.Endpoints[0].Key = "x" },
		"not http":      func(c *Config) { c.Endpoints[0].URL = "ftp://a.test" },
		"no host":       func(c *Config) { c.Endpoints[0].URL = "http:///x" },
		"not a url":     func(c *Config) { c.Endpoints[0].URL = "http://a b" },
		"twice":         func(c *Config) { c.Endpoints = append(c.Endpoints, c.Endpoints[0]) },
		"ordering":      func(c *Config) { c.Ordering = "loose" },
		"secret":        func(c *Config) { c.Endpoints[0].Secrets = []string{"whsec_x"} },
		"retry for<0":   func(c *Config) { c.Endpoints[0].RetryFor = -1 },
		"concurrency<0": func(c *Config) { c.Endpoints[0].Concurrency = -1 },
	} {
		err := targets(f)
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "token", "what may be secret is not shown")
		require.NotContains(t, err.Error(), ":p@")
	}
}
