package api_test

import (
	"bufio"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
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
