package browser_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
)

// acts presses a button of the people panel: of the room, or, with an identity, of that
// person.
func (p *page) acts(action, identity string) {
	p.t.Helper()
	node := fmt.Sprintf(`#people [data-action=%q][data-identity=%q]`, action, identity)
	p.until("the button "+action, fmt.Sprintf(`document.querySelector(%q)`, node))
	if action == "more" {
		p.opens(node)
		return
	}
	p.click(node)
}

// opens clicks until the list below the button is as open as it was closed. A mouse event
// goes to a place, where another person's button is if the list has moved meanwhile, as when
// somebody joins.
func (p *page) opens(button string) {
	p.t.Helper()
	expanded := fmt.Sprintf(`document.querySelector(%q)?.getAttribute('aria-expanded')`, button)
	was := get[string](p, expanded)
	for range 5 {
		p.click(button)
		for range 20 {
			if now := get[string](p, expanded+` ?? ''`); now != "" && now != was {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	p.t.Fatalf("%s: a click on %s does nothing", p.name, button)
}

// Somebody whose token runs the room mutes, asks, lowers hands, locks, keeps muted,
// removes and ends the call from the list of people; nobody else has these buttons.
func (f *fixture) testModeration(t *testing.T) {
	grant := auth.VideoGrant{RoomJoin: true, Room: "run", RoomAdmin: true, RoomCreate: true, DestinationRoom: "small"}
	host := f.browser.open(t, "Hana", f.server.page("token", f.server.token("hana", time.Hour, grant), "autojoin", "1"))
	host.until("the call", `parlor.screen === 'call'`)
	host.do(`window.sounds = 0; window.AudioContext = class extends AudioContext { createOscillator() { window.sounds++; return super.createOscillator(); } }`)
	ann := f.join(t, modes[0], "run", "Ann", "video", "0")
	host.until("a sound", `window.sounds > 0`)
	identity := get[string](ann, `parlor.room.localParticipant.identity`)
	microphone := func(on bool) string {
		return fmt.Sprintf(`parlor.room.localParticipant.isMicrophoneEnabled === %v`, on)
	}
	toast := func(code string) string { return fmt.Sprintf(`document.querySelector('.toast[data-code="%s"]')`, code) }
	ann.until("Ann's microphone", microphone(true))

	ann.click("#people-toggle")
	require.Zero(t, get[int](ann, `document.querySelectorAll('#people [data-action]:not([data-action=more])').length`), "who does not run the room has no such buttons")
	ann.click(`[data-close="people"]`)

	host.click("#people-toggle")
	host.acts("more", identity)
	host.acts("mute", identity)
	ann.until("to be muted", microphone(false)+` && `+toast("muted-by-moderator"))
	host.acts("ask", identity)
	ann.until("to be asked", toast("asked-to-unmute"))
	require.True(t, get[bool](ann, microphone(false)), "being asked turns nothing on")
	ann.click(`.toast[data-code="asked-to-unmute"] .chip`)
	ann.until("the microphone", microphone(true))

	ann.click("#hand")
	host.until("the hand", toast("hand")+` && [...document.querySelectorAll('.people-list li')][0].dataset.identity === `+fmt.Sprintf("%q", identity))
	late := f.join(t, modes[1], "run", "Late", "audio", "0", "video", "0")
	late.until("the hand, to somebody who comes later", tile("Ann")+`?.querySelector('.hand-mark').checkVisibility()`)
	host.acts("lower-hand", identity)
	ann.until("the hand down", `document.querySelector('#hand').getAttribute('aria-pressed') === 'false'`)

	ann.click("#react")
	ann.click("#reactions-list button:nth-child(2)")
	host.until("the reaction", tile("Ann")+`.querySelector('.reaction').textContent === '👏'`)
	ann.do(`parlor.room.localParticipant.publishData(new TextEncoder().encode('<img src=x>'), { reliable: true, topic: 'parlor.reaction' });
		await parlor.room.localParticipant.publishData(new TextEncoder().encode('x'), { reliable: true, topic: 'seen' })`)
	host.until("no reaction but those of the page", tile("Ann")+`.querySelector('.reaction').textContent === '👏'`)

	testTogether(t, host, ann, late)

	other := get[string](late, `parlor.room.localParticipant.identity`)
	host.acts("more", other)
	host.acts("move", other)
	late.until("to be in the other room", `document.querySelector('#room-name').textContent === 'small'`)
	service, ctx := f.server.rooms("small", "run")
	_, err := service.MoveParticipant(ctx, &livekit.MoveParticipantRequest{Room: "small", Identity: other, DestinationRoom: "run"})
	require.NoError(t, err)
	late.until("to be back", `document.querySelector('#room-name').textContent === 'run'`)
	host.acts("more", identity)

	host.acts("hold", "")
	ann.until("to be kept muted", microphone(false)+` && `+toast("held"))
	host.acts("release", "")
	ann.until("to be let go", toast("released"))
	host.acts("only-watch", identity)
	ann.until("to watch only", `document.querySelector('#mic').disabled`)
	host.acts("let-speak", identity)
	ann.until("to speak again", `!document.querySelector('#mic').disabled`)

	host.acts("lock", "")
	host.until("the lock", `document.querySelector('#people [data-action="unlock"]')`)
	refused := f.browser.open(t, "Refused", f.server.page("room", "run", "name", "Refused", "autojoin", "1"))
	refused.until("a word of the lock", `parlor.problem?.code === 'room-locked'`)
	host.acts("unlock", "")
	host.until("the room open", `document.querySelector('#people [data-action="lock"]')`)

	host.acts("remove", identity)
	require.Contains(t, get[string](host, fmt.Sprintf(`document.querySelector('#people [data-action="remove"][data-identity=%q]').textContent`, identity)), "sure", "one click removes nobody")
	require.True(t, get[bool](ann, `parlor.screen === 'call'`))
	host.acts("remove", identity)
	ann.until("to be removed", `parlor.screen === 'ended'`)
	for range 2 {
		host.acts("close", "")
	}
	for _, p := range []*page{host, late} {
		p.until("the end for all", `parlor.screen === 'ended'`)
	}
}

// Somebody who runs the room makes another host, who has the buttons at once and can do the
// same. Who is host no more loses them at once, and the token of before is worth nothing.
func (f *fixture) testMakeHost(t *testing.T) {
	token := f.server.token("hana", time.Hour, auth.VideoGrant{RoomJoin: true, Room: "hosts", RoomAdmin: true})
	host := f.browser.open(t, "Hana", f.server.page("token", token, "autojoin", "1"))
	host.until("the call", `parlor.screen === 'call'`)
	ann := f.join(t, modes[0], "hosts", "Ann", "video", "0", "audio", "0")
	bob := f.join(t, modes[1], "hosts", "Bob", "video", "0")
	who := func(p *page) string { return get[string](p, `parlor.room.localParticipant.identity`) }
	buttons := `document.querySelectorAll('#people-room [data-action]').length`
	toast := `document.querySelector('.toast[data-code="host"]')`
	for _, p := range []*page{host, ann, bob} {
		p.click("#people-toggle")
	}
	require.Zero(t, get[int](ann, buttons))

	host.acts("more", who(ann))
	host.acts("make-host", who(ann))
	require.Contains(t, get[string](host, fmt.Sprintf(`document.querySelector('#people [data-action="make-host"][data-identity=%q]').textContent`, who(ann))), "sure", "one click makes nobody host")
	host.acts("make-host", who(ann))
	ann.until("to be told, and the buttons", toast+` && `+buttons+` > 0`)
	host.until("who is host", fmt.Sprintf(`document.querySelector('#people li[data-identity=%q] .people-host')`, who(ann)))
	host.loadAxe()
	host.accessible("who is host")
	ann.acts("more", who(bob))
	ann.acts("mute", who(bob))
	bob.until("to be muted", `!parlor.room.localParticipant.isMicrophoneEnabled`)

	ann.acts("more", "hana")
	ann.acts("unmake-host", "hana")
	host.until("to be told, and no buttons", toast+` && `+buttons+` === 0`)
	ann.until("that she is none", `document.querySelector('#people [data-action="make-host"][data-identity="hana"]')`)
	asked := fmt.Sprintf(`await fetch('v1/rooms/hosts/participants', { headers: { Authorization: 'Bearer %s' } }).then(({ status }) => status)`, token)
	host.do(`window.asked = ` + asked)
	require.Equal(t, 403, get[int](host, `window.asked`), "by the token that she came with")
	f.server.rest("PUT", "/v1/rooms/hosts/participants/hana/host", "")
	host.until("the buttons again", buttons+` > 0`)
}

// A room that keeps its chat shows it to those who come late, in order and over a restart of
// the server: what was public, and as text. Everybody is told that it is kept.
func (f *fixture) testKeptChat(t *testing.T) {
	s := startServer(t, f.server.binary)
	g := &fixture{s, f.browser}
	grant := auth.VideoGrant{RoomJoin: true, Room: "kept", RoomAdmin: true}
	host := f.browser.open(t, "Hana", s.page("token", s.token("hana", time.Hour, grant), "autojoin", "1"))
	host.until("the call", `parlor.screen === 'call'`)
	ann := g.join(t, modes[0], "kept", "Ann", "video", "0", "audio", "0")
	visible := func(id string) string { return fmt.Sprintf(`document.querySelector(%q).checkVisibility()`, id) }
	ann.click("#chat-toggle")
	ann.until("a word that nothing is kept", visible("#chat-empty")+` && !`+visible("#chat-kept"))
	ann.do(`await parlor.room.localParticipant.sendText('off the record', { topic: 'lk.chat' })`)
	host.click("#people-toggle")
	host.acts("keep-chat", "")
	ann.until("a word that it is kept", `document.querySelector('.toast[data-code="chat-kept"]') && !`+visible("#chat-empty")+` && `+visible("#chat-kept"))
	host.until("the button to end that", `document.querySelector('#people [data-action="keep-chat-end"]')`)

	const attack = `<img src=x onerror="window.struck = 1"> https://example.org/`
	long := strings.Repeat("It goes on and on. ", 150)
	for _, text := range []string{attack, long} {
		ann.do(fmt.Sprintf(`document.querySelector('#chat-text').value = %s; document.querySelector('#chat-form').requestSubmit()`, quoted(text)))
		host.until("the message", fmt.Sprintf(`[...document.querySelectorAll('#chat-log .chat-text')].at(-1)?.textContent === %s`, quoted(strings.TrimSpace(text))))
	}
	ann.do(fmt.Sprintf(`await parlor.room.localParticipant.sendText(%s, { topic: 'lk.chat', compress: false })`, quoted(strings.Repeat("0123456789", 1500)))) // in pieces
	ann.do(`await parlor.room.localParticipant.sendText('secret', { topic: 'lk.chat', destinationIdentities: ['hana'] })`)
	host.do(`await parlor.room.localParticipant.sendText('answer', { topic: 'lk.chat' })`)
	ann.until("the answer", `[...document.querySelectorAll('#chat-log .chat-text')].at(-1)?.textContent === 'answer'`)

	s.stop(os.Interrupt)
	s.start()
	for _, p := range []*page{host, ann} {
		p.until("to be back", `parlor.room.state === 'connected' && !parlor.call.reconnecting`)
	}
	messages := `[...document.querySelectorAll('#chat-log .chat-text')].map((node) => node.textContent)`
	want := []string{attack, strings.TrimSpace(long), strings.Repeat("0123456789", 1500), "answer"}
	late := g.join(t, modes[1], "kept", "Late", "video", "0", "audio", "0")
	late.until("what was kept", messages+`.length === 4`)
	require.Equal(t, want, get[[]string](late, messages))
	require.Equal(t, []string{"Ann", "Guest hana"}, get[[]string](late, `[...document.querySelectorAll('#chat-log b')].map((node) => node.textContent)`))
	require.Nil(t, get[any](late, `window.struck ?? null`))
	require.True(t, get[bool](late, `document.querySelector('#unread').hidden`), "it is no news")
	late.click("#chat-toggle")
	require.True(t, get[bool](late, visible("#chat-kept")))
	late.loadAxe()
	late.accessible("a kept chat")
	ann.do(`await parlor.room.localParticipant.sendText('live', { topic: 'lk.chat' })`)
	want = append(want, "live")
	late.until("what is said now, after it", messages+`.length === 5`)
	require.Equal(t, want, get[[]string](late, messages))
	require.Equal(t, 1, get[int](ann, messages+`.filter((text) => text === 'answer').length`), "who was there sees nothing twice")
	next := g.join(t, modes[0], "kept", "Next", "video", "0", "audio", "0")
	next.until("what was kept", messages+`.length === 5`)
	require.Equal(t, want, get[[]string](next, messages))

	// A host deletes a message, for those who see it and those who come later.
	host.click("#chat-toggle")
	host.until("to delete", `[...document.querySelectorAll('.chat-delete')].at(-1).checkVisibility()`)
	require.False(t, get[bool](late, `[...document.querySelectorAll('.chat-delete')].some((node) => node.checkVisibility())`), "only hosts delete")
	host.loadAxe()
	host.looks("chat that a host deletes of")
	host.do(`[...document.querySelectorAll('#chat-log li')].find((node) => node.textContent.includes('answer')).querySelector('.chat-delete').click()`)
	for _, p := range []*page{host, late} {
		p.until("it to be gone", messages+`.at(-2) === 'This message was deleted.'`)
	}
	// What its sender sends again under its id shows it to nobody, and another's id is another's.
	host.do(`window.deleted = await fetch('v1/rooms/kept/chat', { headers: { Authorization: 'Bearer ' + parlor.room.engine.token } }).then((answer) => answer.json()).then(({ deleted }) => deleted[0].id)`)
	again := fmt.Sprintf(`{ topic: 'lk.chat', streamId: %s, type: 'update', version: 1 }`, quoted(get[string](host, `window.deleted`)))
	stream := func(p *page, text, options string) {
		p.do(fmt.Sprintf(`const writer = await parlor.room.localParticipant.streamText(%s); await writer.write(%s); await writer.close()`, options, quoted(text)))
	}
	stream(host, "again", again)
	stream(ann, "hers", strings.Replace(again, "type: 'update', version: 1", "type: 'create'", 1))
	// A text stream edits what its sender wrote, for those who are there and those who come.
	stream(ann, "tpyo", `{ topic: 'lk.chat', streamId: 'mine' }`)
	late.until("it", messages+`.at(-1) === 'tpyo'`)
	stream(ann, "typo", `{ topic: 'lk.chat', streamId: 'mine', type: 'update', version: 1 }`)
	late.until("what it is now", messages+`.at(-1) === 'typo'`)
	want = append(want[:3:3], "live", "hers", "typo")
	require.Equal(t, append(want[:3:3], "This message was deleted.", "live", "hers", "typo"), get[[]string](late, messages))
	after := g.join(t, modes[0], "kept", "After", "video", "0", "audio", "0")
	after.until("what is left", messages+`.length === 6`)
	require.Equal(t, want, get[[]string](after, messages))
	host.click("#people-toggle")

	for range 2 {
		host.acts("keep-chat-end", "")
	}
	late.until("a word that it is kept no more", `!`+visible("#chat-kept"))
	last := g.join(t, modes[0], "kept", "Last", "video", "0", "audio", "0")
	last.click("#chat-toggle")
	require.Zero(t, get[int](last, messages+`.length`))
}

// Where more people are than the window has room for, the rest are on further pages,
// and those who show themselves come to the first one. What is not looked at is not sent.
func (f *fixture) testPagesOfPeople(t *testing.T) {
	ann := f.join(t, modes[0], "many", "Ann", "audio", "0", "video", "0")
	others := map[string]*page{}
	for _, name := range []string{"Bob", "Cem", "Dan"} {
		others[name] = f.join(t, modes[0], "many", name, "audio", "0", "video", "0")
	}
	require.NoError(t, chromedp.Do(ann.ctx, chromedp.EmulateViewport(360, 300)))
	shown := func(p *page) string {
		return get[string](p, `[...document.querySelectorAll('.tile')].filter((tile) => tile.checkVisibility()).map((tile) => tile.querySelector('.tile-name').textContent).sort().join()`)
	}
	ann.until("pages", `!document.querySelector('#pages').hidden`)
	first := shown(ann)
	require.Contains(t, first, "Ann (you)")
	require.Less(t, strings.Count(first, ",")+1, 4)
	hidden := ""
	for _, name := range []string{"Dan", "Cem", "Bob"} {
		if !strings.Contains(first, name) {
			hidden = name
			break
		}
	}
	require.NotEmpty(t, hidden)
	others[hidden].click("#cam")
	ann.until("a camera on the first page", tile(hidden)+`.checkVisibility() && document.querySelector('#page-now').textContent.startsWith('1 /')`)
	ann.sees(hidden)
	publication := fmt.Sprintf(`[...parlor.room.remoteParticipants.values()].find((p) => p.name === %q).getTrackPublication('camera')`, hidden)
	next := `document.querySelector('#page-now').textContent.startsWith('2 /') && !` + tile(hidden) + `.checkVisibility()`
	ann.press(kb.ArrowRight)
	ann.until("the next page", next)
	ann.until("the picture to be asked for no longer", publication+`.isEnabled === false`)
	ann.press(kb.ArrowLeft)
	ann.until("the first page again", `document.querySelector('#page-now').textContent.startsWith('1 /')`)
	ann.sees(hidden)
	ann.press(kb.ArrowLeft)
	require.Equal(t, "1", get[string](ann, `document.querySelector('#page-now').textContent.split(' ')[0]`), "there is none before the first")
	// Where one reads from right to left, the next page is on the left.
	ann.do(`document.documentElement.dir = 'rtl'`)
	ann.press(kb.ArrowLeft)
	ann.until("the next page, from right to left", next)
	ann.do(`document.documentElement.dir = 'ltr'`)
	ann.click("#page-before")
	ann.sees(hidden)
	ann.click("#page-after")
	ann.until("the next page", next)
	require.NotEqual(t, first, shown(ann))
	require.NotEmpty(t, shown(ann))

	require.NoError(t, chromedp.Do(ann.ctx, chromedp.EmulateViewport(1280, 720)))
	ann.until("one page with everybody", `document.querySelector('#pages').hidden && [...document.querySelectorAll('.tile')].every((tile) => tile.checkVisibility())`)
	ann.do(`document.querySelector('#hide-self').click()`)
	ann.until("one's own tile gone", `!`+tile("Ann (you)"))
	order := get[[]string](ann, `[...document.querySelectorAll('.topbar button, .control, .tile-pin')].map((node) => node.matches('.tile-pin') ? 'pin' : node.id)`)
	require.Less(t, slices.Index(order, "mic"), slices.Index(order, "pin"), "the microphone comes before the tiles in the order of the tab key")
}

// Two who have the passphrase of the link see and hear each other; who has another is told
// so and sees nothing. The passphrase stays behind the hash.
func (f *fixture) testEncrypted(t *testing.T) {
	with := func(name, passphrase string) *page {
		p := f.browser.open(t, name, f.server.page("room", "sealed", "name", name, "resolution", "180", "simulcast", "0")+"#e2ee="+passphrase)
		p.until("the lobby", fmt.Sprintf(`document.querySelector('#name').value === %q && !document.querySelector('#lobby-encrypted').hidden`, name))
		p.click("#join")
		p.until("the call", `parlor.screen === 'call' && !document.querySelector('#encrypted').hidden`)
		return p
	}
	ann, bob := with("Ann", "one+secret"), with("Bob", "one+secret")
	bob.sees("Ann")
	ann.hears("Bob")
	eve := with("Eve", "another")
	eve.until("a word that it cannot be read", `document.querySelector('.toast[data-code="encryption"]')`)
	require.Zero(t, get[int](eve, framesDecoded("Ann")))
	ann.do(`navigator.clipboard.writeText = async (text) => { parlor.copied = text; }`)
	ann.click("#invite")
	ann.until("the link", `parlor.copied`)
	require.Equal(t, "#e2ee=one+secret", get[string](ann, `new URL(parlor.copied).hash`))
	query := f.browser.open(t, "Query", f.server.page("room", "sealed", "name", "Query", "e2ee", "one secret"))
	query.until("the lobby, without a claim that the call is encrypted", `document.querySelector('#name').value === 'Query' && document.querySelector('#lobby-encrypted').hidden`)
}
