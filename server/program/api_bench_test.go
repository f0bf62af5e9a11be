package program

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/guid"
	"parlor/rooms/sqlite"
)

const benchConnections = 64

// BenchmarkAPI measures REST over HTTP against the whole server in another process, from
// 64 connections, with a thousand open rooms in its database and with a million. The cost
// of a call must not depend on the number of rooms. million: what a call costs must not
// depend on that.
//
//	go test -run XXX -bench BenchmarkAPI -benchtime 20000x .
//
// PARLOR_BENCH_ROOMS sets the number of rooms in place of a million. Each line shows
// calls per second, the median and the 99th percentile of the latency, and the server's
// memory afterwards.
func BenchmarkAPI(b *testing.B) {
	most := 1_000_000
	if v := os.Getenv("PARLOR_BENCH_ROOMS"); v != "" {
		var err error
		most, err = strconv.Atoi(v)
		require.NoError(b, err)
	}
	for _, n := range []int{1000, most} {
		b.Run(fmt.Sprintf("rooms=%d", n), func(b *testing.B) {
			dir := machine(b)
			fill(b, filepath.Join(dir, "parlor.db"), n)
			began := time.Now()
			p := spawn(b, dir, `{"limit": {"requests_per_address": 0, "requests_per_key": 0}}`)
			require.NotEmpty(b, p.url, p.log)
			b.Logf("%d rooms: serving after %v with %.0f MB", n, time.Since(began).Round(time.Millisecond), resident(b, p.url))
			c := newBenchClient(p.url)
			b.Run("list", func(b *testing.B) {
				c.measure(b, func(int64) benchCall { return benchCall{"GET", "/v1/rooms", "", 200} })
			})
			b.Run("list-deep", func(b *testing.B) {
				cursor := c.cursor(b, n/2)
				c.measure(b, func(int64) benchCall { return benchCall{"GET", "/v1/rooms?cursor=" + cursor, "", 200} })
			})
			b.Run("list-filtered", func(b *testing.B) {
				c.measure(b, func(int64) benchCall { return benchCall{"GET", "/v1/rooms?limit=10&tag=nobody%3Dhas", "", 200} })
			})
			b.Run("get", func(b *testing.B) {
				c.measure(b, func(i int64) benchCall { return benchCall{"GET", "/v1/rooms/" + benchRoom(int(i)%n), "", 200} })
			})
			var created, closed atomic.Int64
			create := func(int64) benchCall {
				return benchCall{"POST", "/v1/rooms", fmt.Sprintf(`{"name":"new-%d","empty_timeout":"never"}`, created.Add(1)), 201}
			}
			b.Run("create", func(b *testing.B) { c.measure(b, create) })
			b.Run("close", func(b *testing.B) {
				b.StopTimer()
				if missing := int64(b.N) - (created.Load() - closed.Load()); missing > 0 {
					c.all(b, missing, create)
				}
				b.StartTimer()
				c.measure(b, func(int64) benchCall {
					return benchCall{"DELETE", fmt.Sprintf("/v1/rooms/new-%d", closed.Add(1)), "", 204}
				})
			})
		})
	}
}

func benchRoom(i int) string { return fmt.Sprintf("room-%08x", uint32(i)*2654435761) }

// fill makes n open rooms in a database that is not open.
func fill(b *testing.B, path string, n int) {
	b.Helper()
	began := time.Now()
	s, err := sqlite.Open(context.Background(), sqlite.Config{Path: path})
	require.NoError(b, err)
	var writers sync.WaitGroup
	for w := range 256 { // rooms per transaction
		writers.Go(func() {
			done := make(chan error, 1)
			for i := w; i < n; i += 256 {
				now := rooms.NowMs(time.Now())
				r := rooms.Record{
					SID: guid.New("RM_"), Name: benchRoom(i), CreatedMs: now, Metadata: `{"plan":"free"}`,
					EmptyTimeout: rooms.Never, DepartureTimeout: rooms.Never, TurnPassword: guid.New(""),
				}
				r.SetEmpty(now)
				s.Submit(&rooms.Change{Kind: rooms.ChangeCreate, Room: r}, func(_ rooms.Outcome, err error) { done <- err })
				if err := <-done; err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	require.NoError(b, s.Close(context.Background()))
	b.Logf("made %d rooms in %v", n, time.Since(began).Round(time.Millisecond))
}

// benchCall is one request and its expected status.
type benchCall struct {
	method, path, body string
	status             int
}

// benchClient calls from a fixed number of connections.
type benchClient struct {
	url    string
	client *http.Client
}

func newBenchClient(url string) *benchClient {
	return &benchClient{url, &http.Client{Transport: &http.Transport{MaxConnsPerHost: benchConnections, MaxIdleConnsPerHost: benchConnections}}}
}

func (c *benchClient) do(q benchCall) ([]byte, error) {
	req, err := http.NewRequest(q.method, c.url+q.path, strings.NewReader(q.body))
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth("devkey", "secret")
	if q.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != q.status {
		err = fmt.Errorf("%s %s: %d %s", q.method, q.path, resp.StatusCode, body)
	}
	return body, err
}

// all makes n calls from all connections, and returns their durations.
func (c *benchClient) all(b *testing.B, n int64, make func(int64) benchCall) []time.Duration {
	var next atomic.Int64
	var mu sync.Mutex // guards took
	var took []time.Duration
	var connections sync.WaitGroup
	for range benchConnections {
		connections.Go(func() {
			var mine []time.Duration
			for i := next.Add(1); i <= n; i = next.Add(1) {
				began := time.Now()
				if _, err := c.do(make(i)); err != nil {
					b.Error(err)
					return
				}
				mine = append(mine, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
		})
	}
	connections.Wait()
	return took
}

func (c *benchClient) measure(b *testing.B, make func(int64) benchCall) {
	b.ResetTimer()
	took := c.all(b, int64(b.N), make)
	b.StopTimer()
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	ms := func(share int) float64 { return float64(took[len(took)*share/100].Microseconds()) / 1000 }
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	b.ReportMetric(ms(50), "p50-ms")
	b.ReportMetric(ms(99), "p99-ms")
	b.ReportMetric(resident(b, c.url), "server-MB")
	b.ReportMetric(0, "ns/op") // with 64 concurrent calls it means nothing
}

// cursor is the cursor after about n rooms of the list.
func (c *benchClient) cursor(b *testing.B, n int) (cursor string) {
	b.Helper()
	path := "/v1/rooms?limit=500"
	for seen := 0; seen < min(n, 100_000); seen += 500 {
		body, err := c.do(benchCall{"GET", path, "", 200})
		require.NoError(b, err)
		var page struct {
			NextCursor string `json:"next_cursor"`
		}
		require.NoError(b, json.Unmarshal(body, &page))
		if page.NextCursor == "" {
			break
		}
		cursor = url.QueryEscape(page.NextCursor)
		path = "/v1/rooms?limit=500&cursor=" + cursor
	}
	return cursor
}

var residentLine = regexp.MustCompile(`(?m)^process_resident_memory_bytes (\S+)$`)

// resident is the server's memory in MB.
func resident(b *testing.B, url string) float64 {
	b.Helper()
	resp, err := http.Get(url + "/metrics")
	require.NoError(b, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(b, err)
	m := residentLine.FindSubmatch(body)
	require.NotNil(b, m)
	bytes, err := strconv.ParseFloat(string(m[1]), 64)
	require.NoError(b, err)
	return bytes / 1e6
}
