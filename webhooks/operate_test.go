package webhooks_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/log"
	"parlor/webhooks"
)

func TestFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := &receiver{t: t}
		w.start(webhooks.Config{Transport: r, Endpoints: []webhooks.Endpoint{
			{URL: "http://all.test/"},
			{URL: "http://only.test/", Include: []string{log.RoomFinished}},
			{URL: "http://but.test/", Exclude: []string{log.TrackPublished, log.TrackUnpublished}},
			{URL: "http://more.test/", Include: []string{"*"}},
		}})
		w.room("a", append(story, "room_metadata_changed")...)
		time.Sleep(time.Second)
		n := map[string]int{}
		for _, g := range r.took() {
			n[g.url]++
		}
		require.Equal(t, map[string]int{
			"http://all.test/": 6, "http://only.test/": 1, "http://but.test/": 4, "http://more.test/": 7,
		}, n)
	})
}

// transport is a function that sends requests.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestEndpointsSignWithTheirOwnKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		fresh := "whsec_" + base64.StdEncoding.EncodeToString([]byte("a fresh secret of thirty-two byte"))
		old := "whsec_" + base64.StdEncoding.EncodeToString([]byte("an old secret of twenty-four"))
		var mu sync.Mutex
		seen := map[string]http.Header{}
		w.start(webhooks.Config{
			Transport: transport(func(req *http.Request) (*http.Response, error) {
				header := req.Header.Clone()
				if req.URL.Host == "own.test" {
					verify(t, req, "other", "another secret of thirty-two characters", fresh)
					require.NoError(t, checkStandard(header, bodyOf(t, req), old), "the old secret signs too")
				} else {
					verify(t, req, apiKey, apiSecret, webhooks.DeriveSecret(apiSecret))
				}
				mu.Lock()
				defer mu.Unlock()
				seen[req.URL.Host] = header
				return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
			}),
			Endpoints: []webhooks.Endpoint{
				{URL: "http://own.test/", Key: "other", Secrets: []string{fresh, old}},
				{URL: "http://common.test/"},
			},
		})
		w.room("a")
		time.Sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		require.Len(t, seen, 2)
		require.Len(t, strings.Fields(seen["own.test"].Get("Webhook-Signature")), 2)
		require.Equal(t, "Parlor", seen["own.test"].Get("User-Agent"))
	})
}

func bodyOf(t *testing.T, req *http.Request) []byte {
	r, err := req.GetBody()
	require.NoError(t, err)
	b := make([]byte, req.ContentLength)
	_, err = r.Read(b)
	require.NoError(t, err)
	return b
}

// TestTokensAreFresh: a request that is sent an hour later must not have the token of the
// first attempt, which has expired. verify checks the token.
func TestTokensAreFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		back := time.Now().Add(time.Hour)
		r := &receiver{t: t, behave: func(received) answer {
			if time.Now().Before(back) {
				return answer{status: 503}
			}
			return ok
		}}
		w.start(webhooks.Config{Transport: r})
		w.room("a")
		time.Sleep(2 * time.Hour)
		require.Len(t, r.took(), 1)
		require.Greater(t, len(r.requests()), 30)
	})
}

func TestPauseAndResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		r := &receiver{t: t}
		d := w.start(webhooks.Config{Transport: r})
		require.NoError(t, d.Pause(ctx, 1, "maintenance"))
		w.room("a", story...)
		time.Sleep(24 * time.Hour)
		require.Empty(t, r.requests())
		all, err := d.Endpoints(ctx)
		require.NoError(t, err)
		require.Equal(t, log.EndpointPaused, all[0].State)
		require.Equal(t, "maintenance", all[0].Reason)
		require.EqualValues(t, 6, all[0].Pending)

		// It stays paused over a restart.
		d.Close()
		d = w.start(webhooks.Config{Transport: r})
		time.Sleep(time.Hour)
		require.Empty(t, r.requests())
		require.NoError(t, d.Resume(ctx, 1))
		time.Sleep(time.Second)
		w.requireAll(r.took())

		require.ErrorIs(t, d.Pause(ctx, 77, ""), log.ErrNoEndpoint)
		require.ErrorIs(t, d.Resume(ctx, 77), log.ErrNoEndpoint)
	})
}

func TestEndpointsTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		var fail atomic.Bool
		fail.Store(true)
		r := &receiver{t: t, behave: func(received) answer {
			if fail.Load() {
				return answer{status: 502, body: strings.NewReader("bad\ngateway")}
			}
			return ok
		}}
		d := w.start(webhooks.Config{Transport: r, Endpoints: []webhooks.Endpoint{
			{URL: "http://u:secret@receiver.test/hook?token=secret", Ordering: webhooks.Strict},
		}})
		began := rooms.NowMs(time.Now())
		w.room("a", story...)
		time.Sleep(time.Hour)
		all, err := d.Endpoints(ctx)
		require.NoError(t, err)
		e := all[0]
		require.True(t, e.Down)
		require.Equal(t, "http://u:xxxxx@receiver.test/hook", e.URL)
		require.Equal(t, webhooks.Strict, e.Ordering)
		require.Equal(t, began, e.FailingSinceMs)
		require.Equal(t, began, e.OldestPendingMs)
		require.EqualValues(t, 6, e.Pending)
		require.Equal(t, 502, e.LastStatus)
		require.Equal(t, "502 Bad Gateway: bad gateway", e.LastError)
		require.Equal(t, "502 Bad Gateway: bad gateway", e.ProbeError)
		require.Greater(t, e.NextProbeMs, rooms.NowMs(time.Now()))
		list, err := d.Deliveries(ctx, e.ID, log.DeliveryPending, 0, 0)
		require.NoError(t, err)
		require.Len(t, list, 6)
		require.Equal(t, log.RoomFinished, list[0].Type, "newest first")
		require.Equal(t, 2, list[5].Attempts, "probes are not counted")
		list, err = d.Deliveries(ctx, e.ID, log.DeliveryPending, 4, 2)
		require.NoError(t, err)
		require.Equal(t, []int64{3, 2}, []int64{list[0].Seq, list[1].Seq})

		fail.Store(false)
		time.Sleep(2 * time.Minute)
		all, err = d.Endpoints(ctx)
		require.NoError(t, err)
		require.False(t, all[0].Down)
		require.Zero(t, all[0].FailingSinceMs)
		require.InDelta(t, 6.0/8, all[0].SuccessRate, 0.001)
		b, err := json.Marshal(all)
		require.NoError(t, err)
		require.NotContains(t, string(b), "probe_error")
	})
}

func TestReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		r := &receiver{t: t}
		d := w.start(webhooks.Config{Transport: r})
		w.room("a", story...)
		w.room("b", story...)
		time.Sleep(time.Second)
		replay := func(p log.Replay) []int64 {
			earlier := len(r.took())
			n, err := d.Replay(ctx, 1, p)
			require.NoError(t, err)
			time.Sleep(time.Second)
			var seqs []int64
			for _, g := range r.took()[earlier:] {
				seqs = append(seqs, g.event.Seq)
			}
			require.Len(t, seqs, n)
			return seqs
		}
		require.Equal(t, []int64{3}, replay(log.Replay{EventID: w.log()[2].ID, AnyState: true}))
		require.Equal(t, []int64{2, 3, 4}, replay(log.Replay{FromSeq: 2, ToSeq: 4, State: log.DeliveryDelivered}))
		require.Empty(t, replay(log.Replay{}), "there are no dead letters")
		w.requireAll(r.took())
		_, err := d.Replay(ctx, 77, log.Replay{})
		require.ErrorIs(t, err, log.ErrNoEndpoint)
		_, err = d.Replay(ctx, 1, log.Replay{EventID: "EV_unknown"})
		require.Equal(t, rooms.NotFound, rooms.ErrorCode(err))
	})
}

func TestSendTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		r := &receiver{t: t}
		d := w.start(webhooks.Config{Transport: r, Endpoints: []webhooks.Endpoint{
			{URL: "http://a.test/", Include: []string{log.RoomFinished}}, {URL: "http://b.test/"},
		}})
		e, err := d.SendTest(ctx, 1)
		require.NoError(t, err)
		time.Sleep(time.Second)
		took := r.took()
		require.Len(t, took, 1)
		require.Equal(t, "http://a.test/", took[0].url)
		require.Equal(t, log.WebhookTest, took[0].event.Type)
		require.Equal(t, e.ID, took[0].event.ID)
		require.Equal(t, e.Seq, took[0].event.Seq)
		_, err = d.SendTest(ctx, 77)
		require.ErrorIs(t, err, log.ErrNoEndpoint)
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := &receiver{t: t, behave: func(g received) answer {
			if g.event.RoomName == "bad" {
				return answer{status: 400}
			}
			return ok
		}}
		d := w.start(webhooks.Config{Transport: r, Schedule: []time.Duration{time.Hour}})
		reg := prometheus.NewPedanticRegistry()
		require.NoError(t, reg.Register(d.Collector()))
		w.room("good", story...)
		w.room("bad", story...)
		time.Sleep(time.Minute)
		families, err := reg.Gather()
		require.NoError(t, err)
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				got[name(f, m)] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
		require.Equal(t, map[string]float64{
			"parlor_webhook_attempts_total{2xx}":      6,
			"parlor_webhook_attempts_total{4xx}":      1,
			"parlor_webhook_attempt_seconds{}":        7,
			"parlor_webhook_pending{}":                6,
			"parlor_webhook_oldest_pending_seconds{}": 60,
			"parlor_webhook_dead{}":                   0,
			"parlor_webhook_delivered_total{}":        6,
			"parlor_webhook_endpoint_state{on}":       1,
		}, got)
	})
}

func name(f *dto.MetricFamily, m *dto.Metric) string {
	label := ""
	for _, l := range m.Label {
		if l.GetName() == "outcome" || l.GetName() == "state" {
			label = l.GetValue()
		}
	}
	return fmt.Sprintf("%s{%s}", f.GetName(), label)
}

// TestAllAtOnce is for the race detector.
func TestAllAtOnce(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	r := &receiver{t: t, behave: func(g received) answer {
		if g.event.Seq%10 == 0 && g.at.UnixMicro()%2 == 0 {
			return answer{status: 500}
		}
		return ok
	}}
	schedule := make([]time.Duration, 50)
	for i := range schedule {
		schedule[i] = time.Millisecond
	}
	d := w.start(webhooks.Config{Transport: r, Ordering: webhooks.Strict, Schedule: schedule, ProbeMin: time.Millisecond, ProbeMax: 2 * time.Millisecond})
	done := make(chan struct{})
	var others sync.WaitGroup
	for _, f := range []func() error{
		func() error { _, err := d.Endpoints(ctx); return err },
		func() error { _, err := d.Deliveries(ctx, 1, log.DeliveryDelivered, 0, 3); return err },
		func() error {
			if err := d.Pause(ctx, 1, "now and then"); err != nil {
				return err
			}
			return d.Resume(ctx, 1)
		},
		func() error {
			ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			_ = d.Drain(ctx)
			return nil
		},
	} {
		others.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(time.Millisecond):
					require.NoError(t, f())
				}
			}
		})
	}
	var writers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() {
			for j := range 10 {
				a := w.room(fmt.Sprint("room", i, "-", j))
				for _, typ := range story {
					a.tell(typ)
				}
			}
		})
	}
	writers.Wait()
	require.Eventually(t, func() bool { return w.stats().Pending == 0 }, time.Minute, 5*time.Millisecond)
	close(done)
	others.Wait()
	require.NoError(t, d.Drain(ctx))
	d.Close()
	w.requireAll(r.took())
	require.Zero(t, w.stats().Dead)
}

// TestAnEndpointThatIsLeftOutForOneStart: its deliveries are given up, which is logged.
// Once the endpoint is configured again, all can be replayed, with the events since.
func TestAnEndpointThatIsLeftOutForOneStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var up atomic.Bool
		r := &receiver{t: t, behave: func(received) answer {
			if up.Load() {
				return ok
			}
			return answer{status: http.StatusServiceUnavailable}
		}}
		named := webhooks.Config{Transport: r, Endpoints: []webhooks.Endpoint{{URL: "http://user:pw@a.test/?token=1"}}}
		up.Store(true)
		d := w.start(named)
		a := w.room("a")
		time.Sleep(time.Second)
		require.Len(t, r.took(), 1)
		up.Store(false)
		a.tell(story[1:]...)
		w.room("b")
		d.Close()

		var text bytes.Buffer
		without := webhooks.Config{
			Transport: r, Logger: slog.New(slog.NewTextHandler(&text, nil)), Endpoints: []webhooks.Endpoint{{URL: "http://other.test/"}},
		}
		d = w.start(without)
		d.Close()
		require.Contains(t, text.String(), "level=WARN")
		require.Contains(t, text.String(), fmt.Sprint("count=", len(story)))
		require.Contains(t, text.String(), "a.test")
		require.NotContains(t, text.String(), "pw@")
		require.NotContains(t, text.String(), "token")
		w.room("c") // no delivery of it is recorded
		text.Reset()
		w.start(without).Close()
		require.NotContains(t, text.String(), "a.test", "there is nothing more to give up")

		up.Store(true)
		d = w.start(named)
		n, err := d.Replay(t.Context(), w.stats().Endpoint.ID, log.Replay{Missing: true})
		require.NoError(t, err)
		require.Equal(t, len(story)+1, n)
		time.Sleep(time.Second)
		seqs := map[int64]int{}
		for _, g := range r.took() {
			if strings.Contains(g.url, "a.test") {
				seqs[g.event.Seq]++
			}
		}
		require.Len(t, seqs, len(w.log()))
		for seq, times := range seqs {
			require.Equal(t, 1, times, "event %d", seq)
		}
	})
}
