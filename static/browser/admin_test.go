package browser_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
)

// hostile is what strangers write wherever they can, to have the dashboard run it.
var hostile = []string{
	`<img src=x onerror="window.hacked=1">`,
	`"><script>window.hacked=1</script>`,
	`<svg/onload=window.hacked=1>`,
	`javascript:window.hacked=1//`,
	`' onmouseover='window.hacked=1' x='`,
	`{{constructor.constructor('window.hacked=1')()}}`,
	`</textarea><iframe srcdoc="<script>parent.hacked=1</script>">`,
	"\u202e<b>gnp.exe</b>\u2066",
}

// adminServer is a server with a webhook whose receiver answers with something hostile.
func adminServer(t *testing.T) *server {
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", hostile[0])
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, strings.Join(hostile, "\n"))
	}))
	t.Cleanup(receiver.Close)
	file := filepath.Join(t.TempDir(), "parlor.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil,
		"development: true\ninvitations: true\nwebhook:\n  api_key: devkey\n  endpoints: [{url: '%s/hook?key=very-secret', name: %q}]\n", receiver.URL, hostile[1]), 0o600))
	return startServer(t, buildServer(t), "--config", file)
}

// ask makes a call of REST as its operator, and returns what is answered.
func (s *server) ask(method, path string, body any) map[string]any {
	s.t.Helper()
	var text []byte
	if body != nil {
		var err error
		text, err = json.Marshal(body)
		require.NoError(s.t, err)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://localhost:"+s.port+"/v1"+path, bytes.NewReader(text))
	require.NoError(s.t, err)
	req.SetBasicAuth(devKey, devSecret)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(s.t, err)
	defer resp.Body.Close()
	answer := map[string]any{}
	require.Less(s.t, resp.StatusCode, 300, "%s %s", method, path)
	if resp.StatusCode != http.StatusNoContent {
		require.NoError(s.t, json.NewDecoder(resp.Body).Decode(&answer))
	}
	return answer
}

// dispatch has an agent of that name wanted in a room.
func (s *server) dispatch(room, agent string) {
	s.t.Helper()
	text, err := protojson.Marshal(&livekit.CreateAgentDispatchRequest{Room: room, AgentName: agent, Metadata: agent})
	require.NoError(s.t, err)
	req, err := http.NewRequestWithContext(s.t.Context(), "POST", "http://localhost:"+s.port+"/twirp/livekit.AgentDispatchService/CreateDispatch", bytes.NewReader(text))
	require.NoError(s.t, err)
	token, err := auth.NewAccessToken(devKey, devSecret).SetVideoGrant(&auth.VideoGrant{RoomAdmin: true, Room: room}).ToJWT()
	require.NoError(s.t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(s.t, err)
	defer resp.Body.Close()
	require.Equal(s.t, http.StatusOK, resp.StatusCode)
}

// screen goes to a screen of the dashboard and waits until it is drawn.
func (p *page) screen(name, of string) {
	p.t.Helper()
	p.do(fmt.Sprintf(`document.querySelector('#main').dataset.screen = ''; location.hash = '#/%s' + (%q && '/' + encodeURIComponent(%q)); dispatchEvent(new Event('hashchange'))`, name, of, of))
	p.until("the screen "+name, fmt.Sprintf(`document.querySelector('#main').dataset.screen === %q && !document.querySelector('#main > .problem') && document.querySelector('h1')`, name))
}

// accessible has axe look at what is shown.
func (p *page) accessible(what string) {
	p.t.Helper()
	// What fades in has other colours for a moment.
	p.do(`for (const animation of document.getAnimations()) if (animation.effect.getComputedTiming().endTime !== Infinity) animation.finish()`)
	found := get[[]string](p, `(await axe.run(document, { resultTypes: ['violations'] })).violations.flatMap((v) => v.nodes.map((n) => v.id + ': ' + n.html.slice(0, 200) + ' ' + n.failureSummary))`)
	for _, one := range found {
		p.t.Errorf("%s: %s", what, one)
	}
}

// testDashboard signs in, goes through all screens, acts on a room, and has strangers try
// what they can.
func (f *fixture) testDashboard(t *testing.T) {
	s := adminServer(t)
	base := "http://localhost:" + s.port

	// What strangers can write: names of rooms, metadata, tags, identities, names, attributes,
	// user agents, bans, and what a receiver of webhooks answers.
	for i, text := range hostile {
		s.ask("POST", "/rooms", map[string]any{"name": text, "metadata": text, "tags": map[string]string{text: text}, "empty_timeout": "never"})
		s.dispatch(text, text)
		if i < 3 {
			s.ask("POST", "/rooms", map[string]any{"name": "past " + text, "metadata": text})
			s.ask("DELETE", "/rooms/"+url.PathEscape("past "+text), nil)
		}
		req, err := http.NewRequestWithContext(t.Context(), "GET", base+"/rtc?access_token="+url.QueryEscape(text), nil)
		require.NoError(t, err)
		req.Header.Set("User-Agent", regexp.MustCompile(`[^ -~]`).ReplaceAllString(text, "?"))
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	room := hostile[0]
	s.ask("PUT", "/rooms/"+url.PathEscape(room)+"/bans/"+url.PathEscape(hostile[2]), map[string]any{"reason": hostile[1]})
	s.ask("POST", "/rooms/"+url.PathEscape(hostile[3])+"/invitations", map[string]any{"name": hostile[1], "uses": 2})
	token := s.ask("POST", "/tokens", map[string]any{
		"room": room, "identity": hostile[1], "name": hostile[0], "metadata": hostile[2], "attributes": map[string]string{hostile[3]: hostile[0]},
	})["token"].(string)
	guest := f.browser.open(t, "guest", base+"/?autojoin=1#token="+token)
	guest.until("the call", `parlor.screen === 'call' && parlor.room.state === 'connected'`)
	guest.click("#mic")
	guest.until("the microphone", `parlor.room.localParticipant.isMicrophoneEnabled`)
	sid := s.ask("GET", "/rooms?state=ended&name_prefix=past", nil)["rooms"].([]any)[0].(map[string]any)["sid"].(string)

	// A wrong secret says so; the right one leads in.
	p := f.browser.visit(t, "operator", base+"/admin")
	p.until("the sign-in", `document.querySelector('#sign-in')`)
	p.loadAxe()
	p.accessible("sign-in")
	p.write("[name=key]", devKey)
	p.write("[name=secret]", "wrong\r")
	p.until("a refusal", `!document.querySelector('.problem').hidden`)
	p.write("[name=secret]", devSecret+"\r")
	p.until("Now", `document.querySelector('#main').dataset.screen === 'now' && document.body.dataset.live === 'open'`)
	require.Empty(t, get[string](p, `document.cookie`), "no script sees the cookie")
	p.until("an overview of the stream", `document.querySelectorAll('#lamps li').length === 4 && document.querySelectorAll('#newest li').length > 5`)

	screens := [][2]string{
		{"now", ""}, {"rooms", ""}, {"people", ""}, {"room", room}, {"room", "nobody's"}, {"invitations", ""}, {"agents", ""}, {"history", ""}, {"stay", sid},
		{"webhooks", ""}, {"events", ""}, {"refused", ""}, {"server", ""}, {"audit", ""},
	}
	for _, look := range []struct {
		scheme        string
		width, height int64
	}{{"light", 1440, 900}, {"dark", 390, 844}} {
		_, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: look.scheme}},
		})
		require.NoError(t, err)
		require.NoError(t, chromedp.Do(p.ctx, chromedp.EmulateViewport(look.width, look.height)))
		for _, screen := range screens {
			p.screen(screen[0], screen[1])
			what := fmt.Sprintf("%s, %s, %d", screen[0], look.scheme, look.width)
			if screen[1] == "nobody's" {
				what = "no " + what
			}
			switch screen[0] {
			case "webhooks":
				p.until("what the receiver answered", `document.querySelector('#endpoints').textContent.includes('418')`)
				p.do(`[...document.querySelectorAll('#endpoints button')].find((node) => node.textContent === 'Deliveries').click()`)
				p.until("deliveries", `document.querySelector('table')`)
			case "server":
				p.until("the check list", `document.querySelector('#checks table')`)
				p.until("this start", `/runs/.test(document.querySelector('#starts').textContent)`)
				p.until("the log", `[...document.querySelectorAll('#lines li')].some((line) => line.textContent.includes('signed in to the dashboard'))`)
				require.NotContains(t, get[string](p, `document.body.textContent`), "very-secret")
			case "people":
				search := func(text string) {
					p.do(fmt.Sprintf(`{ const form = document.querySelector('main form'); form.elements.namedItem('text').value = %q; form.requestSubmit(); }`, text))
				}
				search("10.99.")
				p.until("nobody of that address", `document.querySelector('#people .empty')`)
				search("")
				p.until("the guest's address", `/127\.0\.0\.1|::1/.test(document.querySelector('#people').innerText)`)
			case "refused":
				p.until("the strangers", `document.querySelectorAll('#refusals tbody tr').length >= 9`)
			case "history":
				p.until("figures of today", `document.querySelectorAll('#days canvas').length === 10 && /Joins\s*In all [1-9]/.test(document.querySelector('#days').innerText)`)
			case "room":
				if screen[1] == room {
					p.until("the guest", `document.querySelector('#people .track')`)
					p.do(`[...document.querySelectorAll('#people button')].find((node) => node.textContent === 'Charts').click()`)
					p.until("how the guest fared before somebody looked", `document.querySelector('.fares')?.dataset.samples > 0 && document.querySelectorAll('.fares canvas').length === 4 && /Up \d.*bit\/s/.test(document.querySelector('.fares').innerText)`)
				}
			}
			p.do(`for (const details of document.querySelectorAll('main details')) details.open = true`)
			p.do(`document.querySelector('.fares')?.scrollIntoView({ block: 'center', behavior: 'instant' })`)
			if directory := os.Getenv("PARLOR_TEST_SCREENSHOTS"); directory != "" {
				picture, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(filepath.Join(directory, strings.ReplaceAll(what, ", ", "-")+".png"), picture, 0o600))
			}
			p.accessible(what)
			if wide := get[int64](p, `document.documentElement.scrollWidth`); wide > look.width {
				t.Errorf("%s scrolls sideways: it is %d wide", what, wide)
			}
			require.Equal(t, "h1", get[string](p, `[...document.querySelectorAll('h1')].length === 1 && 'h1'`), what)
			require.False(t, get[bool](p, `Boolean(window.hacked) || [...document.querySelectorAll('script, iframe, img, svg')].some((node) => !/^http:\/\/localhost:\d+\/static\//.test(node.src)) || document.querySelector('[onerror], [onload], [onmouseover]') !== null || [...document.querySelectorAll('a')].some((node) => node.protocol === 'javascript:')`), "%s: a stranger's text became markup", what)
		}
	}

	// Acting on a room.
	p.screen("room", room)
	require.Contains(t, get[string](p, `document.querySelector('#people').textContent`), hostile[1], "names stand as they were written")
	p.until("the client and its address", `/js .*(127\.0\.0\.1|::1)/.test(document.querySelector('#people').innerText.replaceAll('\n', ' '))`)
	press := func(label string) {
		t.Helper()
		p.until(label, fmt.Sprintf(`[...document.querySelectorAll('main button')].some((node) => node.textContent === %q && !node.disabled)`, label))
		p.do(fmt.Sprintf(`[...document.querySelectorAll('main button')].find((node) => node.textContent === %q).click()`, label))
	}
	p.do(`{ const real = window.fetch; window.fetch = (at, ...rest) => {
		if (!String(at).endsWith('/samples')) return real(at, ...rest);
		window.fetch = real; // once, as when somebody leaves just then
		return real('/v1/rooms/none/participants/nobody/samples', ...rest).finally(() => { window.gone = true; });
	}; }`)
	press("Charts")
	p.until("the answer for somebody that has left", `window.gone === true && [...document.querySelectorAll('main button')].some((node) => node.textContent === 'Hide charts' && !node.disabled)`)
	require.Equal(t, "", get[string](p, `[...document.querySelectorAll('.toast.bad')].map((node) => node.textContent).join()`))
	p.until("how the guest fares", `document.querySelectorAll('.fares canvas').length === 4`)
	press("Hide charts")
	p.until("no charts", `!document.querySelector('.fares')`)
	press("Lock")
	p.until("the room locked", `document.querySelector('header .tag.warning')?.textContent === 'locked'`)
	state := `[...document.querySelectorAll('header .tag')].map((node) => node.textContent)`
	press("Keep the chat")
	p.until("the chat kept", state+`.includes('chat kept')`)
	press("Let guests wait")
	p.until("guests wait", state+`.includes('guests wait')`)
	press("Make host")
	p.until("the host", `document.querySelector('#people').innerText.includes('Host no more')`)
	guest.until("to be told", `document.querySelector('.toast[data-code="host"]')`)
	press("Host no more")
	p.until("no host", `!document.querySelector('#people').innerText.includes('Host no more')`)
	press("Let guests in at once")
	p.until("nobody waits", "!"+state+`.includes('guests wait')`)
	press("Mute")
	guest.until("the microphone muted", `!parlor.room.localParticipant.isMicrophoneEnabled`)
	press("Message")
	p.until("the dialog", `document.querySelector('dialog[open]')`)
	p.accessible("dialog")
	p.write("dialog textarea", "five minutes left")
	p.click("dialog .primary")
	p.until("the message gone", `!document.querySelector('dialog')`)
	press("Invite")
	p.until("the dialog", `document.querySelector('dialog[open] [name=role]')`)
	require.False(t, get[bool](p, `(() => { const uses = document.querySelector('dialog [name=uses]'); uses.value = '0'; const valid = uses.validity.valid; uses.value = ''; return valid; })()`), "none is not without limit")
	p.write("dialog [name=uses]", "3")
	p.click("dialog .primary")
	p.until("the link as a QR code", `document.querySelector('dialog .qr path')?.getAttribute('d').length > 1000 && document.querySelector('dialog textarea').value.includes('#invite=')`)
	p.accessible("QR code")
	p.click("dialog .primary")
	p.until("the link gone", `!document.querySelector('dialog')`)
	guest.until("the message", `[...document.querySelectorAll('.toast')].some((node) => node.textContent.includes('five minutes left'))`)
	press("Remove")
	p.until("the dialog", `document.querySelector('dialog[open]')`)
	p.click("dialog [name=revoke]")
	p.click("dialog .bad")
	guest.until("the end of the call", `parlor.screen === 'ended'`)
	p.until("nobody there", `document.querySelector('#people .empty')`)
	p.until("its tokens refused", `document.querySelector('main').innerText.includes('From before')`)
	p.do(`[...document.querySelectorAll('main button')].filter((node) => node.textContent === 'Lift').at(-1).click()`) // after those of bans
	p.until("its tokens good again", `document.querySelector('main').innerText.includes('No tokens are refused.')`)
	press("Close")
	p.until("the dialog", `document.querySelector('dialog[open]')`)
	p.click("dialog .bad")
	p.until("the room gone", `document.querySelector('main .empty')?.textContent.includes('No open room')`)

	// The invitations of all rooms, and the end of one.
	p.screen("invitations", "")
	rows := `[...document.querySelectorAll('#invitations tbody tr')].map((row) => row.innerText.replaceAll(/\s+/g, ' '))`
	require.Len(t, get[[]string](p, rows), 2)
	require.Contains(t, strings.Join(get[[]string](p, rows), "\n"), "usable 0 of 3")
	press("Revoke")
	p.until("the dialog", `document.querySelector('dialog[open]')`)
	p.click("dialog .bad")
	p.until("the invitation revoked", rows+`.filter((row) => row.includes('revoked')).length === 1`)
	press("Invite")
	p.until("the dialog", `document.querySelector('dialog[open] [name=room]')`)
	p.write("dialog [name=room]", "lobby")
	p.click("dialog .primary")
	p.until("the link", `document.querySelector('dialog textarea')?.value.includes('#invite=')`)
	p.click("dialog .primary")
	p.until("the invitation in the list", rows+`.some((row) => row.startsWith('lobby guest'))`)

	// What rooms want of agents, and the end of that.
	p.screen("agents", "")
	wanted := `document.querySelectorAll('#dispatches tbody tr').length`
	before := get[int](p, wanted)
	require.Greater(t, before, 5)
	press("Delete")
	p.until("the dialog", `document.querySelector('dialog[open]')`)
	p.click("dialog .bad")
	p.until("the dispatch deleted", fmt.Sprintf(`%s === %d`, wanted, before-1))

	// By keys alone: the link that skips the sections, and a section.
	p.screen("audit", "")
	p.do(`document.querySelector('.skip').focus()`)
	require.True(t, get[bool](p, `document.querySelector('.skip').getBoundingClientRect().left >= 0`))
	p.press("\r")
	require.Equal(t, "main #/audit", get[string](p, `document.activeElement.id + ' ' + location.hash`))
	p.click("#menu")
	p.do(`document.querySelector('#nav a[data-screen="events"]').focus()`)
	p.press("\r")
	p.until("the events", `document.querySelector('#main').dataset.screen === 'events'`)

	// It looks for nothing while nobody sees it.
	p.do(`Object.defineProperty(document, 'hidden', { configurable: true, value: true }); document.dispatchEvent(new Event('visibilitychange')); window.before = performance.getEntriesByType('resource').length`)
	p.do(`delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))`)
	p.until("the stream again", `document.body.dataset.live === 'open'`)

	// The role look has nothing to press. Its link works once.
	link := s.ask("POST", "/admin/links", map[string]any{"role": "look"})["path"].(string)
	looker := f.browser.visit(t, "looker", base+link)
	looker.until("Now", `document.querySelector('#main').dataset.screen === 'now'`)
	require.Empty(t, get[string](looker, `location.hash`), "the link is not kept")
	looker.screen("rooms", "")
	looker.until("the rooms", `document.querySelector('#rooms tbody tr')`)
	require.Zero(t, get[int](looker, `document.querySelectorAll('#rooms button').length`))
	looker.screen("invitations", "")
	require.Equal(t, "Refresh", get[string](looker, `[...document.querySelectorAll('main .screen button, main header button, #invitations button')].map((node) => node.textContent).join()`))
	second := f.browser.visit(t, "second", base+link)
	second.until("a refusal", `document.querySelector('.problem') && !document.querySelector('.problem').hidden`)

	// Where there are no invitations, the screen says how to turn them on, and a room's are tokens.
	link = f.server.ask("POST", "/admin/links", nil)["path"].(string)
	f.server.ask("POST", "/rooms", map[string]any{"name": "without invitations"})
	other := f.browser.visit(t, "other", "http://localhost:"+f.server.port+link)
	other.until("Now", `document.querySelector('#main').dataset.screen === 'now'`)
	other.screen("invitations", "")
	require.Contains(t, get[string](other, `document.querySelector('main .empty').innerText`), "invitations: true")
	other.screen("room", "without invitations")
	other.do(`[...document.querySelectorAll('main button')].find((node) => node.textContent === 'Invite').click()`)
	other.until("the dialog", `document.querySelector('dialog[open] [name=identity]')`)
	other.click("dialog .primary")
	other.until("the link as a QR code", `document.querySelector('dialog .qr path') && document.querySelector('dialog textarea').value.includes('#token=')`)

	p.click("#menu")
	p.click("#sign-out")
	p.until("the sign-in", `document.querySelector('#sign-in')`)
	require.Equal(t, 401, get[int](p, `(await fetch('/v1/rooms', { headers: { 'Parlor-Admin': '1' } })).status`))
}
