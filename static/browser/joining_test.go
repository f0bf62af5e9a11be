package browser_test

import (
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/stretchr/testify/require"
)

// From the click to the call it takes one WebSocket and one peer connection, and no request
// besides but the one that exchanges an invitation. How long it takes is logged.
func (f *fixture) testJoining(t *testing.T) {
	s := startServer(t, f.server.binary, "--dev", "--invitations")
	token := s.token("ann", time.Hour, auth.VideoGrant{RoomJoin: true, Room: "quick"})
	secret := s.ask("POST", "/rooms/quick/invitations", map[string]any{})["secret"].(string)
	for _, c := range []struct {
		name, address string
		requests      []string
	}{
		{"by a token", s.page("token", token), []string{}},
		{"by an invitation", s.page() + "#invite=" + secret, []string{"/v1/admissions"}},
	} {
		p := f.browser.open(t, c.name, c.address)
		p.until("camera and microphone", `document.querySelector('#preview-video').videoWidth > 0 && !document.querySelector('#lobby-meter').classList.contains('idle')`)
		p.do(`window.made = { sockets: 0, connections: 0, requests: [] };
			for (const [name, of] of [['WebSocket', 'sockets'], ['RTCPeerConnection', 'connections']]) {
				window[name] = class extends window[name] { constructor(...with_) { super(...with_); if (window.made.took === undefined) window.made[of]++; } };
			}
			const real = window.fetch;
			window.fetch = (at, ...rest) => { const { pathname } = new URL(at, location.href); if (!pathname.endsWith('/lobby') && window.made.took === undefined) window.made.requests.push(pathname); return real(at, ...rest); };
			document.querySelector('#name').value ||= 'Bob';
			new MutationObserver(() => { if (document.body.dataset.screen === 'call') window.made.took ??= performance.now() - window.made.from; }).observe(document.body, { attributes: true });
			document.querySelector('#join').addEventListener('click', () => { window.made.from = performance.now(); }, { capture: true })`)
		p.click("#join")
		p.until("the call", `window.made.took !== undefined && parlor.room.state === 'connected'`)
		t.Logf("%s: %.0f ms from the click to the call", c.name, get[float64](p, `window.made.took`))
		require.Equal(t, []int{1, 1}, get[[]int](p, `[window.made.sockets, window.made.connections]`), c.name)
		require.Equal(t, c.requests, get[[]string](p, `window.made.requests`), c.name)
		p.click("#leave")
	}
}
