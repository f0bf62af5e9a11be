package browser_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/livekit/protocol/auth"
	"github.com/stretchr/testify/require"
)

// An address from another person makes a visitor join a room, but does not make it send
// camera or microphone.
func (f *fixture) testJoinedWithoutAClick(t *testing.T) {
	token := f.server.token("reader", time.Hour, auth.VideoGrant{RoomJoin: true, Room: "lure"})
	for name, query := range map[string][]string{
		"Reader": {"token", token, "autojoin", "1", "audio", "1", "video", "1"},
		"Other":  {"room", "lure", "name", "Other", "autojoin", "1", "audio", "1", "video", "1"},
	} {
		p := f.browser.open(t, name, f.server.page(query...))
		// The join button is enabled again when all that the page sends has been published.
		p.until("the call", `parlor.screen === 'call' && parlor.room.state === 'connected' && !document.querySelector('#join').disabled`)
		require.True(t, get[bool](p, `parlor.room.localParticipant.trackPublications.size === 0
			&& document.querySelector('#mic').getAttribute('aria-pressed') === 'false'`), "nothing is sent")
		p.click("#mic")
		p.until("the microphone, by a click", `parlor.room.localParticipant.isMicrophoneEnabled`)
	}
}

// The lists are drawn from the room's state, so they are right even if an event was lost,
// as happens to one that comes before its handler.
func (f *fixture) testLostEvents(t *testing.T) {
	ann := f.join(t, modes[0], "lost", "Ann", "audio", "0", "video", "0")
	ann.do(`for (const event of ['participantConnected', 'participantDisconnected', 'participantNameChanged', 'connectionQualityChanged', 'participantActive']) parlor.room.removeAllListeners(event)`)
	ann.click("#people-toggle")
	bob := f.join(t, modes[0], "lost", "Bob", "audio", "0", "video", "0")
	ann.until("Bob in the room", `parlor.room.remoteParticipants.size === 1`)
	ann.until("Bob in every list", `document.querySelector('#count').textContent === '2' && document.querySelectorAll('.tile').length === 2
		&& [...document.querySelectorAll('.people-name')].some((node) => node.textContent === 'Bob') && document.querySelector('#alone').hidden`)
	bob.click("#leave")
	ann.until("Bob in no list", `document.querySelector('#count').textContent === '1' && document.querySelectorAll('.tile').length === 1
		&& document.querySelectorAll('.people-name').length === 1 && !document.querySelector('#alone').hidden`)
}

// Toasts cover no tile, panel or button, at any window size. A panel that opens removes
// the toasts that announced its content.
func (f *fixture) testNothingIsCovered(t *testing.T) {
	ann := f.join(t, modes[0], "covered", "Ann", "audio", "0", "video", "0")
	f.join(t, modes[0], "covered", "Bob", "audio", "0", "video", "0")
	const covering = `(() => {
		const box = (node) => node.getBoundingClientRect();
		const crosses = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
		const seen = [...document.querySelectorAll('.tile, .panel, .control, .topbar h1, .topbar > button')].filter((node) => node.checkVisibility());
		const toasts = [...document.querySelectorAll('.toast')];
		return toasts.flatMap((toast) => seen.filter((node) => crosses(box(toast), box(node))).map((node) => node.id || node.className))
			.concat(toasts.filter((toast) => box(toast).right > innerWidth || box(toast).left < 0).map(() => 'outside'));
	})()`
	for _, size := range [][2]int64{{390, 844}, {740, 360}, {960, 600}, {1440, 900}} {
		require.NoError(t, chromedp.Do(ann.ctx, chromedp.EmulateViewport(size[0], size[1])))
		for _, panel := range []string{"", "people", "chat"} {
			if panel != "" {
				ann.click("#" + panel + "-toggle")
			}
			ann.do(`const { toast } = await import('/static/js/notices.js');
				document.querySelector('#toasts').replaceChildren();
				toast('Somebody joined', { code: 'people' });
				toast('The browser does not let this page use your camera. Allow it with the icon beside the address, then turn it on again.', { bad: true });
				for (const node of document.querySelectorAll('.toast')) /* copies, which no timer removes */ node.replaceWith(node.cloneNode(true));
				`)
			require.Equal(t, 2, get[int](ann, `[...document.querySelectorAll('.toast')].filter((node) => node.checkVisibility()).length`))
			// The stage makes room in the next frame.
			ann.until(fmt.Sprintf("nothing to be covered at %v with %q open", size, panel), covering+`.length === 0`)
			if panel != "" {
				ann.click(`[data-close="` + panel + `"]`)
			}
		}
	}
	ann.do(`const { toast } = await import('/static/js/notices.js');
		document.querySelector('#toasts').replaceChildren();
		toast('Bob: hello', { code: 'chat' }); toast('Bob joined', { code: 'people' })`)
	ann.click("#chat-toggle")
	require.Equal(t, []string{"people"}, get[[]string](ann, `[...document.querySelectorAll('.toast')].map((node) => node.dataset.code)`))
	ann.click("#people-toggle")
	require.Empty(t, get[[]string](ann, `[...document.querySelectorAll('.toast')].map((node) => node.dataset.code)`))
}

// A person whose microphone is held off is told so, and told when the hold ends.
func (f *fixture) testHeld(t *testing.T) {
	ann := f.join(t, modes[0], "held", "Ann", "video", "0")
	ann.until("the microphone", `parlor.room.localParticipant.isMicrophoneEnabled`)
	f.server.rest(http.MethodPost, "/v1/rooms/held/mute", `{"hold":true}`)
	toast := func(code string) string { return fmt.Sprintf(`document.querySelector('.toast[data-code="%s"]')`, code) }
	ann.until("a word of the hold", toast("held")+` && !parlor.room.localParticipant.isMicrophoneEnabled && /kept off/.test(document.querySelector('#mic').getAttribute('aria-label'))`)
	ann.do(`document.querySelector('#toasts').replaceChildren()`)
	ann.click("#mic")
	ann.until("a word of the hold again", toast("held"))
	require.False(t, get[bool](ann, `parlor.room.localParticipant.isMicrophoneEnabled`))

	late := f.join(t, modes[1], "held", "Late", "video", "0")
	late.until("a word of the hold to somebody who comes later", toast("held")+` && [...parlor.room.localParticipant.trackPublications.values()].some((publication) => publication.isMuted)`)

	f.server.rest(http.MethodDelete, "/v1/rooms/held/mute", ``)
	for _, p := range []*page{ann, late} {
		p.until("a word of the release", toast("released"))
		p.click("#mic")
		p.until("the microphone again", `parlor.room.localParticipant.isMicrophoneEnabled`)
	}
}

// A page tries to reconnect for minutes: the server keeps its place for one, and admits
// it again after that.
func (f *fixture) testPatience(t *testing.T) {
	ann := f.join(t, modes[0], "patience", "Ann", "audio", "0", "video", "0")
	tries := get[[]float64](ann, `(() => {
		const tries = [];
		for (let elapsedMs = 0, retryCount = 0; ; retryCount++) {
			const wait = parlor.room.options.reconnectPolicy.nextRetryDelayInMs({ retryCount, elapsedMs });
			if (wait === null || retryCount > 10000) return tries;
			elapsedMs += wait;
			tries.push(elapsedMs);
		}
	})()`)
	require.Greater(t, tries[len(tries)-1], float64(5*60_000), "it does not give up")
	last := 0.0
	for _, at := range tries {
		require.LessOrEqual(t, at-last, 6000.0, "it does not leave the server unasked for long")
		last = at
	}
	require.Greater(t, tries[10], 10_000.0, "nor asks all the time")
}

// The rules of accessibility checkers: one first-level heading on each screen, list items
// only in lists, and names that contain the visible label.
func (f *fixture) testNamesAndHeadings(t *testing.T) {
	ann := f.join(t, modes[0], "names", "Ann", "video", "0")
	ann.loadAxe()
	check := func(screen string) {
		t.Helper()
		ann.accessible(screen)
		require.Equal(t, 1, get[int](ann, `[...document.querySelectorAll('h1')].filter((node) => node.checkVisibility()).length`), screen)
		require.Empty(t, get[[]string](ann, `[...document.querySelectorAll('li')].filter((node) => !node.parentElement.matches('ul, ol') || node.parentElement.hasAttribute('role')).map((node) => node.outerHTML)`), screen)
		require.Empty(t, get[[]string](ann, `[...document.querySelectorAll('button[aria-label]')].filter((node) => node.checkVisibility() && node.innerText.trim()
			&& !(new RegExp('\\b' + node.innerText.trim() + '\\b', 'i')).test(node.getAttribute('aria-label'))).map((node) => node.outerHTML)`), screen)
	}
	ann.click("#chat-toggle")
	ann.write("#chat-text", "Hello\r")
	ann.until("the message", `document.querySelector('#chat-log li')`)
	check("call")
	ann.click("#mic")
	check("call, muted")
	ann.click("#share")
	ann.until("the screen", `!document.querySelector('#sharing').hidden`)
	check("call, sharing")
	ann.testLanguages(t)
	for _, scheme := range []string{"light", "dark"} {
		_, err := chromedp.Call(ann.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		require.NoError(t, err)
		light := get[bool](ann, `getComputedStyle(document.querySelector('#chat')).backgroundColor.match(/\d+/g).slice(0, 3).every((part) => Number(part) > 200)`)
		require.Equal(t, scheme == "light", light, "the call follows the system's scheme")
		ann.accessible("call, " + scheme)
	}
	ann.click("#leave")
	ann.until("the end", `parlor.screen === 'ended'`)
	check("ended")
}
