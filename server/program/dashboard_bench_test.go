package program

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkDashboard measures what each screen of the dashboard asks for, one request after
// the other, with 10,000 open rooms, 1,000,000 ended ones, as many sessions, and 300,000
// events; and what of a core the server uses at 5,000 events a minute, and what more while a
// screen is watched. The stretches with and without a watcher take turns, so that what else
// the machine does is in both; a screen's figure is the median of its rounds.
//
//	go test -run XXX -bench BenchmarkDashboard/. -benchtime 20x ./server/program
//	go test -run XXX -bench BenchmarkDashboard/watched -benchtime 1x ./server/program
func BenchmarkDashboard(b *testing.B) {
	dir := machine(b)
	path := filepath.Join(dir, "parlor.db")
	fill(b, path, 10_000)
	fillHistory(b, path)
	p := spawn(b, dir, `{"history": "forever", "events": {"max_age": "forever", "max_count": 0}, "limit": {"requests_per_address": 0, "requests_per_key": 0}}`)
	require.NotEmpty(b, p.url, p.log)
	c := newBenchClient(p.url)
	for _, screen := range []struct{ name, path string }{
		{"overview", "/overview"}, {"rooms", "/rooms?limit=50&order=descending"}, {"rooms-by-prefix", "/rooms?limit=50&name_prefix=room-7&order=descending"},
		{"rooms-by-tag", "/rooms?limit=50&tag=a%3Db"}, {"people", "/participants?limit=50"}, {"people-by-text", "/participants?limit=50&text=x"},
		{"ended", "/rooms?state=ended&limit=50&order=descending"}, {"ended-by-prefix", "/rooms?state=ended&limit=50&name_prefix=past-77&order=descending"},
		{"ended-by-date", "/rooms?state=ended&limit=50&created_after=2020-01-05T00:00:00Z"}, {"stay", "/history/RM_e500000/sessions"},
		{"days", "/history/hours?by=day&limit=500&from=2019-06-01T00:00:00Z"}, {"events", "/events?limit=50&after=299900"},
		{"events-of-a-room", "/events?limit=1000&room=past-5"}, {"events-of-a-rare-type", "/events?limit=100&type=agent_job_ended"},
		{"audit", "/audit?limit=50"}, {"audit-of-a-room", "/audit?limit=50&room=past-5"}, {"webhooks", "/webhooks"}, {"starts", "/starts"}, {"refused", "/refusals"},
	} {
		b.Run(screen.name, func(b *testing.B) {
			for b.Loop() {
				_, err := c.do(benchCall{"GET", "/v1" + screen.path, "", 200})
				require.NoError(b, err)
			}
		})
	}
	b.Run("watched", func(b *testing.B) {
		for b.Loop() {
			measureWatching(b, c)
		}
	})
}

// watchedScreen is a screen of the dashboard that changes while events come.
type watchedScreen struct {
	name  string
	types string // of the events that it wants; "" = all
	list  string // what it asks for every two seconds while they come; "" = nothing
}

func measureWatching(b *testing.B, c *benchClient) {
	b.Helper()
	const rounds = 4
	screens := []watchedScreen{
		{"now", "", ""},
		{"rooms", "room_started,room_finished,participant_joined,participant_left", "/v1/rooms?limit=50&order=descending"},
		{"people", "participant_joined,participant_left,room_finished", "/v1/participants?limit=50"},
	}
	share(b, c) // caches fill, and the load comes to its pace
	before := share(b, c)
	unwatched, more := []float64{before}, map[string][]float64{}
	for range rounds {
		for _, screen := range screens {
			stop := watch(b, c, screen)
			watched := share(b, c)
			stop()
			after := share(b, c)
			more[screen.name] = append(more[screen.name], watched-(before+after)/2)
			unwatched = append(unwatched, after)
			before = after
		}
	}
	b.ReportMetric(middle(unwatched), "%-unwatched")
	for name, all := range more {
		b.Logf("more of a core while %s is watched, in %%: %.2f", name, all)
		b.ReportMetric(middle(all), "%-more-for-"+name)
	}
}

func middle(all []float64) float64 {
	all = slices.Sorted(slices.Values(all))
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2
}

// fillHistory adds ended rooms and all that is kept of them to a database that is not open.
func fillHistory(b *testing.B, path string) {
	b.Helper()
	db, err := sql.Open("sqlite", "file:"+path)
	require.NoError(b, err)
	defer func() { require.NoError(b, db.Close()) }()
	db.SetMaxOpenConns(1)
	const began = 1577836800000 // 2020
	_, err = db.ExecContext(b.Context(), fmt.Sprintf(`
		CREATE TEMP TABLE n (i INTEGER PRIMARY KEY);
		INSERT INTO n WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 1000000) SELECT i FROM s;
		INSERT INTO room (sid, name, created_ms, empty_timeout_ms, departure_timeout_ms, max_participants, joined_once, empty_since_ms, expires_ms,
			ended_ms, end_reason, num_participants, num_publishers, active_recording, version, seq, turn_password, config, metadata)
			SELECT 'RM_e' || i, 'past-' || (i %% 50000), %[1]d + i * 1000, 300000, 20000, 0, 1, 0, 0, %[1]d + i * 1000 + 60000, 'closed', 0, 0, 0, 9, 9, 'secret', '{}', '{"plan":"free"}' FROM n;
		INSERT INTO session (sid, room_sid, identity, joined_ms, active_ms, left_ms, reason, permitted_ms, edited_ms, info)
			SELECT 'PA_' || i, 'RM_e' || i, 'guest-' || i, %[1]d + i * 1000, %[1]d + i * 1000, %[1]d + i * 1000 + 50000, 1, 0, 0, x'' FROM n;
		INSERT INTO event (seq, id, type, room_sid, room_name, room_seq, created_ms, epoch, body)
			SELECT i, 'EV_' || i, 'participant_joined', 'RM_e' || i, 'past-' || (i %% 50000), 1, %[1]d + i, 1, CAST('{"event":"participant_joined"' || printf('%%800s', '') || '}' AS BLOB)
			FROM n WHERE i <= 300000;
		INSERT INTO hour (from_ms, opened, peak) SELECT %[1]d + (i - 5000) * 3600000, i, i FROM n WHERE i <= 9600;
		INSERT INTO deed (dashboard, number, at_ms, api_key, identity, session, role, address, call, path, room, participant)
			SELECT 0, i, %[1]d, 'devkey', '', '', '', '127.0.0.1', 'closeRoom', 'DELETE', 'past-' || (i %% 50000), '' FROM n WHERE i <= 100000;
		UPDATE meta SET ended_rooms = ended_rooms + 1000000, event_seq = 300000;
		DROP TABLE n;`, began))
	require.NoError(b, err)
}

// share is the share of a core that the server uses, in percent, while 5,000 events a minute
// are written.
func share(b *testing.B, c *benchClient) float64 {
	b.Helper()
	const lasts, pairs = 6 * time.Second, 250 // rooms that are opened and closed
	ticker := time.NewTicker(lasts / pairs)
	defer ticker.Stop()
	before, began := cpuOf(b, c.url), time.Now()
	for i := range pairs {
		<-ticker.C
		name := fmt.Sprintf("short-%d", i)
		_, err := c.do(benchCall{"POST", "/v1/rooms", fmt.Sprintf(`{"name":%q}`, name), 201})
		require.NoError(b, err)
		_, err = c.do(benchCall{"DELETE", "/v1/rooms/" + name, "", 204})
		require.NoError(b, err)
	}
	return 100 * (cpuOf(b, c.url) - before) / time.Since(began).Seconds()
}

// watch asks for what a screen of the dashboard asks for, until stop is called.
func watch(b *testing.B, c *benchClient, screen watchedScreen) (stop func()) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/v1/live?after=latest&type="+screen.types, nil)
	require.NoError(b, err)
	req.SetBasicAuth("devkey", "secret")
	resp, err := c.client.Do(req)
	require.NoError(b, err)
	require.Equal(b, http.StatusOK, resp.StatusCode)
	var watching sync.WaitGroup
	watching.Go(func() {
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body) // ends with ctx
	})
	if screen.list != "" {
		watching.Go(func() {
			ticker := time.NewTicker(2 * time.Second)
			defer ticker.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
				}
				if _, err := c.do(benchCall{"GET", screen.list, "", 200}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	return func() {
		cancel()
		watching.Wait()
	}
}

var cpuLine = regexp.MustCompile(`(?m)^process_cpu_seconds_total (\S+)$`)

// cpuOf is the processor time of the server in seconds.
func cpuOf(b *testing.B, url string) float64 {
	b.Helper()
	resp, err := http.Get(url + "/metrics")
	require.NoError(b, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(b, err)
	m := cpuLine.FindSubmatch(body)
	require.NotNil(b, m)
	seconds, err := strconv.ParseFloat(string(m[1]), 64)
	require.NoError(b, err)
	return seconds
}
