package browser_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"parlor/static"
)

// scenarioPatience bounds one scenario of testdata/client. The waits inside it have
// shorter bounds, and report what they waited for.
const scenarioPatience = 4 * time.Minute

// TestClient drives livekit-client itself, without the page, as an app may use it. The
// scenarios are JavaScript in testdata/client. All participants of a scenario are in the
// same tab.
func TestClient(t *testing.T) {
	if testing.Short() {
		t.Skip("drives a browser")
	}
	findChromium(t)
	f := &fixture{startServer(t, buildServer(t), "--dev", "--tcp-port", freePort(t)), startBrowser(t, fakeDevices(t)...)}
	harness := serveHarness(t)
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel() // they mostly wait
			for _, list := range []string{"calls", "media", "data"} {
				t.Run(list, func(t *testing.T) { f.runScenarios(t, harness, list, m) })
			}
		})
	}
}

// serveHarness serves the scenarios, with the page's version of livekit-client.
func serveHarness(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir("testdata/client")))
	page, err := static.NewHandler(static.Files())
	require.NoError(t, err)
	for name, file := range map[string]string{"livekit-client.e2ee.worker.js": "livekit-client-2.23.0.e2ee.worker.js", "livekit-client.js": "livekit-client-2.23.0.umd.js"} {
		mux.HandleFunc("/vendor/"+name, func(w http.ResponseWriter, r *http.Request) {
			r.URL.Path = static.Prefix + "vendor/" + file
			page.ServeHTTP(w, r)
		})
	}
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

// runScenarios runs every scenario of a list as a separate test.
func (f *fixture) runScenarios(t *testing.T, harness, list string, m mode) {
	query := url.Values{"url": {"ws://127.0.0.1:" + f.server.port}, "single": {m.single}, "list": {list}}
	p := f.browser.open(t, list, harness+"/?"+query.Encode())
	for _, name := range get[[]string](p, `parlor.names`) {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(p.ctx, scenarioPatience)
			defer cancel()
			failure, err := chromedp.Run(ctx, chromedp.Evaluate[string](fmt.Sprintf(`parlor.run(%q)`, name), chromedp.EvalAwaitPromise))
			require.NoError(t, err)
			require.Empty(t, failure)
		})
	}
}
