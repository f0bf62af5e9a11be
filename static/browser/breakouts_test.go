package browser_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/livekit/protocol/auth"
	"github.com/stretchr/testify/require"
)

// looks has axe look at what is shown on a phone and on a desk, in both colour schemes, and
// keeps pictures where PARLOR_TEST_SCREENSHOTS says so.
func (p *page) looks(what string) {
	p.t.Helper()
	for _, look := range []struct {
		scheme        string
		width, height int64
	}{{"light", 1440, 900}, {"dark", 1440, 900}, {"dark", 390, 844}, {"light", 390, 844}} {
		_, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: look.scheme}},
		})
		require.NoError(p.t, err)
		require.NoError(p.t, chromedp.Do(p.ctx, chromedp.EmulateViewport(look.width, look.height)))
		name := fmt.Sprintf("%s-%s-%d", what, look.scheme, look.width)
		if directory := os.Getenv("PARLOR_TEST_SCREENSHOTS"); directory != "" {
			picture, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
			require.NoError(p.t, err)
			require.NoError(p.t, os.WriteFile(filepath.Join(directory, name+".png"), picture, 0o600))
		}
		p.accessible(name)
		if wide := get[int64](p, `document.documentElement.scrollWidth`); wide > look.width {
			p.t.Errorf("%s scrolls sideways: it is %d wide", name, wide)
		}
	}
	require.NoError(p.t, chromedp.Do(p.ctx, chromedp.EmulateViewport(960, 600)))
}

// A host divides the room, assigns people at random and by hand, and sends them out. They see
// where they are and how long, come back by themselves, and ask for help; the host comes, tells
// all something and calls all back. A reload of the host's page and a restart of the server
// forget nothing.
func (f *fixture) testBreakouts(t *testing.T) {
	s := startServer(t, f.server.binary)
	g := &fixture{s, f.browser}
	grant := auth.VideoGrant{RoomJoin: true, Room: "class", RoomAdmin: true}
	address := s.page("token", s.token("hana", time.Hour, grant), "autojoin", "1")
	host := f.browser.open(t, "Hana", address)
	inCall := `parlor.screen === 'call' && parlor.room.state === 'connected'`
	host.until("the call", inCall)
	ann := g.join(t, modes[0], "class", "Ann", "video", "0", "audio", "0")
	bob := g.join(t, modes[1], "class", "Bob", "video", "0")
	who := func(p *page) string { return get[string](p, `parlor.room.localParticipant.identity`) }
	do := func(action string) string { return fmt.Sprintf(`#breakouts [data-do=%q]:not(:disabled)`, action) }
	press := func(action string) {
		t.Helper()
		host.until("the button "+action, fmt.Sprintf(`document.querySelector('#breakouts').open && document.querySelector(%q)`, do(action)))
		host.do(fmt.Sprintf(`document.querySelector(%q).click()`, do(action)))
	}
	openWindow := func() {
		t.Helper()
		host.do(`if (document.querySelector('#people').hidden) document.querySelector('#people-toggle').click()`)
		host.until("the button", `document.querySelector('#people [data-action="divide"]')`)
		host.do(`document.querySelector('#people [data-action="divide"]').click()`)
		host.until("the window", `document.querySelector('#breakouts').open`)
	}
	assigned := func(p *page) string {
		return get[string](host, fmt.Sprintf(`document.querySelector('#breakouts select[data-identity=%q]').selectedOptions[0].textContent`, who(p)))
	}
	title := `document.querySelector('#room-name').textContent`
	visible := func(id string) string { return fmt.Sprintf(`document.querySelector(%q).checkVisibility()`, id) }

	require.Zero(t, get[int](ann, `document.querySelectorAll('#people [data-action="divide"]').length`))
	openWindow()
	host.loadAxe()
	host.accessible("no breakout rooms")
	host.do(`document.querySelector('#breakouts form').requestSubmit()`)
	host.until("two rooms", `document.querySelectorAll('.breakouts-rooms li').length === 2`)
	press("random")
	host.until("everybody to be in a room", fmt.Sprintf(`['%s', '%s'].every((identity) => document.querySelector('#breakouts select[data-identity="' + identity + '"]').value)`, who(ann), who(bob)))
	require.ElementsMatch(t, []string{"Room 1", "Room 2"}, []string{assigned(ann), assigned(bob)}, "the rooms are as full as each other")
	require.Equal(t, "Main room", get[string](host, `document.querySelector('#breakouts select[data-identity="hana"]').selectedOptions[0].textContent`), "a host is not sent at random")
	put := func(p *page, room string) {
		t.Helper()
		host.do(fmt.Sprintf(`const select = document.querySelector('#breakouts select[data-identity=%q]'); select.value = [...select.options].find((one) => one.textContent === %q).value; select.dispatchEvent(new Event('change', { bubbles: true }))`, who(p), room))
	}
	put(ann, "Room 1")
	host.until("Ann in room 1", fmt.Sprintf(`document.querySelector('#breakouts select[data-identity=%q]').selectedOptions[0].textContent === 'Room 1'`, who(ann)))
	// What another host has changed meanwhile stays.
	host.do(`window.division = async (breakouts) => (await (await fetch('v1/rooms/class/breakouts', {
		method: breakouts ? 'PUT' : 'GET', headers: { Authorization: 'Bearer ' + parlor.room.engine.token, 'Content-Type': 'application/json' },
		body: breakouts && JSON.stringify({ breakouts: breakouts.map(({ room, title, assigned }) => ({ room, title, assigned })) }),
	})).json()).breakouts;
	const rooms = await division(); rooms[1].assigned.push('zoe'); await division(rooms)`)
	put(bob, "Room 2")
	host.until("what both have changed", fmt.Sprintf(`await division().then(([, { assigned }]) => ['zoe', '%s'].every((one) => assigned.includes(one)))`, who(bob)))
	host.do(`const first = document.querySelector('.breakouts-rooms input'); first.value = '<b>Tea</b>'; first.dispatchEvent(new Event('change', { bubbles: true }))`)
	host.until("another title", `document.querySelector('#breakouts select option:nth-child(2)')?.textContent === '<b>Tea</b>'`)
	host.looks("breakouts")
	require.Equal(t, "class", get[string](bob, title), "assigning moves nobody")

	host.do(`const limit = document.querySelector('#breakouts [name=limit]'); limit.value = '5'; limit.dispatchEvent(new Event('change', { bubbles: true }))`)
	press("send")
	ann.until("to be in her room, with the time", title+` === '<b>Tea</b>' && `+visible("#breakout")+` && /^[45]:\d\d left$/.test(document.querySelector('#breakout-left').textContent)`)
	bob.until("to be in his room", title+` === 'Room 2'`)
	ann.until("a word of it", `[...document.querySelectorAll('.toast[data-code="moved"]')].some((node) => node.textContent.includes('room <b>Tea</b>.'))`)
	ann.until("to invite nobody there", `!`+visible("#invite")+` && document.querySelectorAll('.tile').length === 1`)
	ann.loadAxe()
	ann.looks("in a breakout room")
	bob.until("the microphone", `parlor.room.localParticipant.isMicrophoneEnabled`)

	// The way back, and forth again, by oneself.
	ann.click("#breakout-go")
	ann.until("to be back", title+` === 'class' && document.querySelector('#breakout-go').textContent === 'Go to <b>Tea</b>'`)
	ann.click("#breakout-go")
	ann.until("to be in her room", title+` === '<b>Tea</b>'`)

	// The host's page is loaded again, and knows all.
	require.NoError(t, chromedp.Do(host.ctx, chromedp.Navigate(address)))
	host.until("the call", `window.parlor?.screen === 'call' && parlor.room.state === 'connected'`)
	openWindow()
	require.Equal(t, "Room 2", assigned(bob))
	host.until("who is where", `[...document.querySelectorAll('.breakouts-rooms li .small')].map((node) => node.firstChild.textContent).join().startsWith('1,')`)
	host.loadAxe()
	host.looks("breakouts open")
	host.do(`document.querySelector('[data-close="breakouts"]').click()`)

	ann.click("#breakout-help")
	host.until("to be asked for help", `document.querySelector('.toast[data-code="breakout-help"]')`)
	host.do(`document.querySelector('.toast[data-code="breakout-help"] .chip').click()`)
	host.until("to be with Ann", title+` === '<b>Tea</b>' && `+tile("Ann"))
	ann.until("help", tile("Guest hana")+` && document.querySelector('#breakout-help').getAttribute('aria-pressed') === 'false'`)
	openWindow()
	host.do(`const form = document.querySelector('#breakouts form[data-form=tell]'); form.elements.text.value = 'Hurry up'; form.requestSubmit()`)
	for _, p := range []*page{ann, bob} {
		p.until("the message", `[...document.querySelectorAll('.toast')].some((node) => node.textContent.includes('hana: Hurry up'))`)
	}
	host.do(`document.querySelector('[data-close="breakouts"]').click()`)

	s.stop(os.Interrupt)
	s.start()
	for _, p := range []*page{host, ann, bob} {
		p.until("to be back after the restart", `parlor.room.state === 'connected' && !parlor.call.reconnecting`)
	}
	require.Equal(t, "<b>Tea</b>", get[string](ann, title))
	ann.until("the time", `/^[45]:\d\d left$/.test(document.querySelector('#breakout-left').textContent)`)
	openWindow()
	press("back")
	for _, p := range []*page{host, ann, bob} {
		p.until("to be called back", title+` === 'class' && !`+visible("#breakout"))
	}
	require.True(t, get[bool](bob, `parlor.room.localParticipant.isMicrophoneEnabled`), "what one sends goes on")
	host.until("to be host still", `document.querySelectorAll('#people-room [data-action]').length > 0`)

	// The time is over.
	main := s.ask("GET", "/rooms/class/breakouts", nil)
	require.False(t, main["open"].(bool))
	s.ask("POST", "/rooms/class/breakouts/open", map[string]any{"seconds": 3})
	bob.until("to be sent out", title+` === 'Room 2'`)
	bob.until("a word that it ends soon", `document.querySelector('.toast[data-code="breakout-minute"]') || `+title+` === 'class'`)
	bob.until("to be called back", title+` === 'class'`)
	press("end")
	host.until("no rooms", `document.querySelector('#breakouts [data-form="make"]')`)
	require.Zero(t, get[int](host, `document.querySelectorAll("#breakouts b, #breakout b").length`), "titles are text")
}
