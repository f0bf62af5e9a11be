package browser_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// receiver takes webhooks, or refuses them all until it works.
type receiver struct {
	*httptest.Server

	mu    sync.Mutex // guards what follows
	works bool
	taken []string // ids of events
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	var event struct {
		ID string `json:"id"`
	}
	body, err := io.ReadAll(req.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.works || err != nil || json.Unmarshal(body, &event) != nil {
		http.Error(w, "not yet", http.StatusInternalServerError)
		return
	}
	r.taken = append(r.taken, event.ID)
}

func (r *receiver) work() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.works = true
}

func (r *receiver) has() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.taken)
}

// What was given up for a receiver that failed is sent again from the dashboard, and arrives
// once it works.
func (f *fixture) testDeadLetters(t *testing.T) {
	r := newReceiver(t)
	file := filepath.Join(t.TempDir(), "parlor.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil,
		"development: true\nwebhook:\n  api_key: devkey\n  endpoints: [{url: '%s/hook', name: till, retry_for: 10ms}]\n", r.URL), 0o600))
	s := startServer(t, f.server.binary, "--config", file)
	for _, name := range []string{"one", "two"} {
		s.ask("POST", "/rooms", map[string]any{"name": name, "empty_timeout": "never"})
	}
	p := f.operator(t, s, "all")
	p.screen("webhooks", "")
	fact := func(name string) string {
		return fmt.Sprintf(`[...document.querySelectorAll('#endpoints dt')].find((node) => node.textContent === %q)?.nextElementSibling.textContent`, name)
	}
	p.until("the two that were given up", fact("Dead")+` === '2'`)
	require.Contains(t, get[string](p, fact("Last answer")), "500")
	p.presses("Deliveries: till")
	p.until("the dead, which are shown first", rows("Deliveries to till")+`.length === 2`)
	id := fmt.Sprint(s.ask("GET", "/webhooks", nil)["webhooks"].([]any)[0].(map[string]any)["id"])
	var dead []string
	for _, one := range s.ask("GET", "/webhooks/"+id+"/deliveries?state=dead", nil)["deliveries"].([]any) {
		dead = append(dead, one.(map[string]any)["event_id"].(string))
	}
	require.Len(t, dead, 2)
	require.Empty(t, r.has())

	// While it fails they are given up again, and nothing is lost by trying.
	p.presses("Replay the dead: till")
	p.until("a word of it", `document.querySelector('#toasts .toast')?.textContent === '2 are sent again.'`)
	p.until("them to be dead again", fact("Dead")+` === '2'`)
	r.work()
	p.presses("Replay the dead: till")
	p.until("a word of it", `document.querySelector('#toasts .toast')?.textContent === '2 are sent again.'`)
	p.until("none to be dead", fact("Dead")+` === '0' && `+fact("Delivered")+`.startsWith('2,')`)
	require.ElementsMatch(t, dead, r.has(), "each has arrived, and once")
	p.until("nothing to replay", `![...document.querySelectorAll('#endpoints button')].some((node) => node.textContent === 'Replay the dead')`)
	p.do(`const select = document.querySelector('main [name=state]'); select.value = 'delivered'; select.dispatchEvent(new Event('change'))`)
	p.until("the two among what was delivered", rows("Deliveries to till")+`.length === 2`)
	require.Empty(t, p.troubles())
}

// The dashboard lists what the replica has: its generations, and the times that can be restored.
func (f *fixture) testReplica(t *testing.T) {
	file := filepath.Join(t.TempDir(), "parlor.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "development: true\nreplica: 'file://%s'\n", filepath.ToSlash(filepath.Join(t.TempDir(), "replica"))), 0o600))
	s := startServer(t, f.server.binary, "--config", file)
	s.ask("POST", "/rooms", map[string]any{"name": "kept", "empty_timeout": "never"})
	s.stop(os.Interrupt) // all is on the replica now
	s.start()
	p := f.operator(t, s, "look")
	p.screen("server", "")
	require.Contains(t, get[string](p, `document.querySelector('main .facts').innerText`), "lease held")
	p.presses("List what it has")
	p.until("the generations", rows("What the replica has")+`.length > 0`)
	// The cells as the reader has them: the newest generation, from when to when, and its snapshots.
	type listed struct {
		Generation string   `json:"generation"`
		Times      []string `json:"times"`
		Snapshots  string   `json:"snapshots"`
		Files      string   `json:"files"`
		Size       string   `json:"size"`
	}
	shown := get[[]listed](p, `[...document.querySelectorAll('#generations tbody tr')].map((row) => ({ generation: row.cells[0].textContent,
		times: [...row.querySelectorAll('time')].map((node) => node.dateTime), snapshots: row.cells[2].textContent, files: row.cells[4].textContent, size: row.cells[5].textContent }))`)
	told := s.ask("GET", "/replica/generations", nil)["generations"].([]any)
	require.Len(t, shown, len(told))
	restorable := false
	for i, one := range told {
		g := one.(map[string]any)
		snapshots := g["snapshots"].([]any)
		want := []string{}
		if g["from"] != nil {
			restorable = true
			want = append(want, g["from"].(string), g["to"].(string))
		}
		if len(snapshots) > 0 {
			want = append(want, snapshots[len(snapshots)-1].(string))
		}
		require.Equal(t, want, shown[i].Times)
		require.Equal(t, fmt.Sprint(g["generation"]), shown[i].Generation)
		require.Equal(t, fmt.Sprint(len(snapshots)), shown[i].Snapshots)
		require.Equal(t, fmt.Sprint(g["files"]), shown[i].Files)
		require.Regexp(t, `^[\d.]+ [kMG]?B$`, shown[i].Size)
	}
	require.True(t, restorable, "there is a time to restore to")
	p.loadAxe()
	p.looks("replica")
	require.Empty(t, p.troubles())
}
