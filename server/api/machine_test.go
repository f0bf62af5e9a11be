package api_test

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	dashboard "parlor/server/admin"
	"parlor/server/api"
)

// slowDisk makes copies that take as long as it says.
type slowDisk time.Duration

func (d slowDisk) BackUp(ctx context.Context) (api.Backup, error) {
	select {
	case <-time.After(time.Duration(d)):
		return api.Backup{File: "parlor.db.backup", Bytes: 1}, nil
	case <-ctx.Done():
		return api.Backup{}, ctx.Err()
	}
}

func (slowDisk) Backups() ([]api.Backup, error) { return nil, nil }

// A copy of a large database, and a reader of the log, are not cut off by the server's
// timeouts for requests.
func TestALongBackupIsNotCutOff(t *testing.T) {
	h := open(t)
	lines := &dashboard.Lines{}
	h.config.Dashboard = api.Dashboard{Lines: lines, Backups: slowDisk(time.Second)}
	h.Server.Close()
	h.Server = httptest.NewUnstartedServer(h.routes(h.config))
	h.Config.ReadTimeout, h.Config.WriteTimeout = 300*time.Millisecond, 300*time.Millisecond
	h.Start()

	req, err := http.NewRequestWithContext(t.Context(), "GET", h.URL+"/v1/log", nil)
	require.NoError(t, err)
	req.SetBasicAuth(key, secret)
	req.Header.Set("Accept", "text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)

	made, body := h.server("POST", "/v1/backups", "")
	require.Equal(t, 201, made.StatusCode, body)
	slog.New(lines.Handler(slog.NewTextHandler(t.Output(), nil))).Info("later")
	text := bufio.NewScanner(resp.Body)
	for text.Scan() && !strings.Contains(text.Text(), `"later"`) {
	}
	require.Contains(t, text.Text(), `"later"`, text.Err())
}

// However many ask what the replica has, it is listed once a minute, unless that failed.
func TestTheReplicaIsListedOnceAMinute(t *testing.T) {
	h := open(t)
	synctest.Test(t, func(t *testing.T) {
		var listed atomic.Int64
		c := h.config
		c.Dashboard = api.Dashboard{Generations: func(context.Context) ([]api.Generation, error) {
			time.Sleep(time.Second)
			if listed.Add(1) == 1 {
				return nil, errors.New("not now")
			}
			return []api.Generation{{Number: listed.Load()}}, nil
		}}
		routes := h.routes(c)
		ask := func() (int, string) {
			req := httptest.NewRequestWithContext(t.Context(), "GET", "/v1/replica/generations", nil)
			req.SetBasicAuth(key, secret)
			rec := httptest.NewRecorder()
			routes.ServeHTTP(rec, req)
			return rec.Code, rec.Body.String()
		}
		status, _ := ask()
		require.Equal(t, 502, status)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if status, body := ask(); status != 200 || !strings.Contains(body, `"generation":2`) {
					t.Error(status, body)
				}
			})
		}
		all.Wait()
		require.EqualValues(t, 2, listed.Load())
		time.Sleep(time.Minute)
		_, body := ask()
		require.Contains(t, body, `"generation":3`)
	})
}

// A proxy's caller cannot have the proxy's own network looked into.
func TestPrivatePortsAreTriedForTheirOwnMachineAlone(t *testing.T) {
	h := open(t)
	for from, want := range map[string]string{
		"10.0.0.9:0": "must come from another machine", "[fd00::9]:0": "must come from another machine",
		"127.0.0.1:4711": "must come from another machine", "169.254.1.1:4711": "must come from another machine",
		"10.0.0.9:4711": "must be from 1 to 65535", "192.0.2.1:0": "must be from 1 to 65535",
	} {
		req := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/reachability", strings.NewReader(`{"tcp":[0]}`))
		req.SetBasicAuth(key, secret)
		req.Header.Set("Content-Type", "application/json")
		req.RemoteAddr = from
		rec := httptest.NewRecorder()
		h.routes(h.config).ServeHTTP(rec, req)
		require.Equal(t, 400, rec.Code, from)
		require.Contains(t, rec.Body.String(), want, from)
	}
}
