package browser_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// operator opens the dashboard with a link of that role.
func (f *fixture) operator(t *testing.T, s *server, role string) *page {
	t.Helper()
	link := s.ask("POST", "/admin/links", map[string]any{"role": role})["path"].(string)
	p := f.browser.visit(t, role, "http://localhost:"+s.port+link)
	p.until("Now", `document.querySelector('#main').dataset.screen === 'now' && document.body.dataset.live === 'open'`)
	return p
}

// presses clicks a button of the dashboard by its accessible name.
func (p *page) presses(name string) {
	p.t.Helper()
	find := fmt.Sprintf(`[...document.querySelectorAll('main button')].find((node) => (node.getAttribute('aria-label') ?? node.textContent) === %s && !node.disabled)`, quoted(name))
	p.until("the button "+name, find)
	p.do(`document.querySelectorAll('#toasts .toast').forEach((node) => node.remove()); ` + find + `.click()`)
}

// answers fills in the dialog that a button has opened, and confirms it.
func (p *page) answers(fields map[string]any) {
	p.t.Helper()
	p.until("the dialog", `document.querySelector('dialog[open]')`)
	for name, value := range fields {
		if on, is := value.(bool); is {
			p.do(fmt.Sprintf(`document.querySelector('dialog [name=%s]').checked = %v`, name, on))
		} else {
			p.do(fmt.Sprintf(`document.querySelector('dialog [name=%s]').value = %s`, name, quoted(value.(string))))
		}
	}
	p.click("dialog [type=submit]")
}

// troubles are the errors that the dashboard has shown.
func (p *page) troubles() []string {
	return get[[]string](p, `[...document.querySelectorAll('#toasts .toast.bad')].map((node) => node.textContent)`)
}

// keepsFiles has the page keep the files that it hands out.
func (p *page) keepsFiles() {
	p.do(`window.files = {}; const real = URL.createObjectURL.bind(URL); let blob;
		URL.createObjectURL = (given) => { blob = given; return real(given); };
		HTMLAnchorElement.prototype.click = function () { const name = this.download; blob.text().then((text) => { window.files[name] = { text, type: blob.type }; }); }`)
}

// file presses an export and returns the file's text.
func (p *page) file(button, name, kind string) string {
	p.t.Helper()
	p.presses(button)
	p.until("the file "+name, fmt.Sprintf(`window.files[%q]`, name))
	require.Equal(p.t, kind, get[string](p, fmt.Sprintf(`window.files[%q].type`, name)))
	return get[string](p, fmt.Sprintf(`window.files[%q].text`, name))
}

// rows are the texts of the rows of the table with that caption.
func rows(caption string) string {
	return fmt.Sprintf(`[...[...document.querySelectorAll('main table')].find((table) => table.caption?.textContent === %q)?.tBodies[0].rows ?? []].map((row) => row.innerText.replaceAll(/\s+/g, ' ').trim())`, caption)
}

// deed is an entry of the audit.
type deed struct{ Call, Participant, Role, Session string }

// deeds are what the dashboard has done to a room, by the audit, the oldest first.
func (s *server) deeds(room string) (all []deed) {
	s.t.Helper()
	for _, one := range s.ask("GET", "/audit?of=dashboard&limit=500&room="+url.QueryEscape(room), nil)["deeds"].([]any) {
		d := one.(map[string]any)
		text := func(name string) string { value, _ := d[name].(string); return value }
		all = append(all, deed{text("call"), text("participant"), text("role"), text("session")})
	}
	slices.Reverse(all)
	return all
}

// The buttons of the dashboard act on people and rooms: the people in the call feel it, and the
// audit has each deed once. The role look has none of the buttons,
// and the same requests from its session are refused.
func (f *fixture) testDeeds(t *testing.T) {
	s := startServer(t, f.server.binary)
	g := &fixture{s, f.browser}
	ann, bob := g.join(t, modes[0], "acts", "Ann"), g.join(t, modes[1], "acts", "Bob", "video", "0")
	cem := g.join(t, modes[0], "acts", "=Cem()", "video", "0", "audio", "0")
	identities := map[*page]string{}
	for _, one := range []*page{ann, bob, cem} {
		identities[one] = get[string](one, `parlor.room.localParticipant.identity`)
	}
	who := func(p *page) string { return identities[p] }
	toast := func(code string) string { return fmt.Sprintf(`document.querySelector('.toast[data-code="%s"]')`, code) }
	named := func(name string, p *page) string { return fmt.Sprintf("%s (%s)", name, who(p)) }
	state := `[...document.querySelectorAll('header .tag')].map((node) => node.textContent)`
	card := func(p *page) string {
		return fmt.Sprintf(`[...document.querySelectorAll('#people .person')].find((node) => node.querySelector('h3').textContent.includes(%q))`, who(p))
	}
	want := []deed{}
	p := f.operator(t, s, "all")
	session := get[string](p, `(await (await fetch('/v1/admin/session', { headers: { 'Parlor-Admin': '1' } })).json()).id`)
	did := func(call, participant string) {
		t.Helper()
		require.Empty(t, p.troubles(), call)
		want = append(want, deed{call, participant, "all", session})
	}
	p.keepsFiles()
	p.screen("room", "acts")
	ann.until("camera and microphone", `parlor.room.localParticipant.isCameraEnabled && parlor.room.localParticipant.isMicrophoneEnabled`)
	bob.until("the microphone", `parlor.room.localParticipant.isMicrophoneEnabled`)

	p.presses("Stop: camera of " + who(ann))
	ann.until("the camera to be stopped", `!parlor.room.localParticipant.isCameraEnabled && parlor.room.localParticipant.isMicrophoneEnabled && `+toast("muted-by-moderator"))
	did("updateTrack", who(ann))
	p.presses("Mute all")
	for _, one := range []*page{ann, bob} {
		one.until("the microphone to be muted", `!parlor.room.localParticipant.isMicrophoneEnabled`)
	}
	p.until("how many were muted", `[...document.querySelectorAll('#toasts .toast')].some((node) => node.textContent === '2 tracks were muted.')`)
	did("muteRoom", "")
	p.presses("Hold muted")
	p.until("the hold", state+`.includes('held muted')`)
	ann.until("a word of the hold", toast("held"))
	did("muteRoom", "")
	p.presses("Release")
	p.until("no hold", `!`+state+`.includes('held muted')`)
	ann.until("a word of the release", toast("released"))
	did("releaseRoom", "")

	p.presses("Rename: " + named("Bob", bob))
	p.answers(map[string]any{"name": "Robert"})
	cem.until("the other name", tile("Robert"))
	p.until("the other name", card(bob)+`?.querySelector('h3').textContent.startsWith('Robert (')`)
	did("updateParticipant", who(bob))
	p.presses("Permissions: " + named("Robert", bob))
	p.answers(map[string]any{"can_publish": false})
	bob.until("to watch only", `document.querySelector('#mic').disabled`)
	p.until("what he may not", card(bob)+`?.textContent.includes('May notpublish')`)
	did("updateParticipant", who(bob))
	p.presses("Permissions: " + named("Robert", bob))
	require.False(t, get[bool](p, `document.querySelector('dialog [name=can_publish]').checked`), "the window tells what holds")
	p.answers(map[string]any{"can_publish": true})
	bob.until("to speak again", `!document.querySelector('#mic').disabled`)
	did("updateParticipant", who(bob))
	p.presses("Move: " + named("Robert", bob))
	p.answers(map[string]any{"room": "side"})
	bob.until("to be in the other room", `document.querySelector('#room-name').textContent === 'side'`)
	p.until("that he is gone", `!`+card(bob))
	did("moveParticipant", who(bob))

	// Who is asked and says no has done nothing.
	p.presses("Ban: " + named("Ann", ann))
	p.until("the dialog", `document.querySelector('dialog[open]')`)
	p.do(`[...document.querySelectorAll('dialog button')].find((node) => node.textContent === 'Cancel').click()`)
	p.presses("Ban: " + named("Ann", ann))
	p.answers(map[string]any{"reason": "spam"})
	ann.until("to be sent away", `parlor.screen === 'ended'`)
	p.until("the ban", rows("Bans")+`[0]?.includes('spam')`)
	admitted := fmt.Sprintf(`(await fetch('rtc/validate', { headers: { Authorization: 'Bearer ' + (await (await fetch('dev/token', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ room: 'acts', identity: %q, name: '' }) })).json()).token } })).status`, who(ann))
	require.Equal(t, 401, get[int](ann, admitted), "she does not come back")
	did("ban", who(ann))
	p.presses("Lift: " + who(ann))
	p.until("no ban", `document.querySelector('main').innerText.includes('Nobody is banned.')`)
	require.Equal(t, 200, get[int](ann, admitted), "she may come back")
	did("unban", who(ann))

	// The observer sees and is not seen, but in the dashboard. Its tab is there before the
	// server's answer is: a blocker of popups lets only the click itself open one.
	p.do(`const real = window.fetch; window.fetch = async (at, ...rest) => {
			if (!String(at).endsWith('/tokens')) return real(at, ...rest);
			window.fetch = real;
			await new Promise((go) => { window.go = go; });
			return real(at, ...rest);
		}`)
	opened := p.tabs("observer")
	p.presses("Observe")
	p.answers(nil)
	observer := opened()
	p.until("the request", `window.go`)
	require.Equal(t, "about:blank null", get[string](observer, `location.href + ' ' + window.opener`))
	p.do(`window.go()`)
	did("createToken", "observer-"+session)
	observer.until("the page to start", `window.parlor !== undefined`)
	require.Nil(t, get[any](observer, `window.opener`), "it cannot reach the dashboard")
	observer.click("#join")
	observer.until("the call, with those who are there", `parlor.screen === 'call' && document.querySelector('#mic').disabled && `+tile("=Cem()"))
	p.front()
	p.until("the observer in the dashboard", `[...document.querySelectorAll('#people h3')].some((node) => node.textContent.includes('observer-'))`)
	require.Zero(t, get[int](cem, `parlor.room.remoteParticipants.size`), "the others do not see it")
	require.Equal(t, "1", get[string](cem, `document.querySelector('#count').textContent`))
	observer.front()
	observer.click("#leave")
	p.front()

	// What the server refuses closes the tab again, and what the browser blocks asks for nothing.
	problem := `document.querySelector('#toasts .toast.bad')?.textContent`
	p.do(`const real = window.fetch; window.fetch = (at, options, ...rest) => {
			if (!String(at).endsWith('/tokens')) return real(at, options, ...rest);
			window.fetch = real;
			return real(at, { ...options, body: options.body.replace('observer-', 'o'.repeat(1000)) }, ...rest);
		};
		const open = window.open.bind(window); window.open = (...with_) => window.tab = open(...with_)`)
	p.presses("Observe")
	p.answers(nil)
	p.until("a word that it was refused, and no tab", problem+`?.includes('identity') && window.tab.closed`)
	p.do(`window.open = () => null`)
	p.presses("Observe")
	p.answers(nil)
	p.until("a word that pop-ups are blocked", problem+`?.includes('pop-ups')`)
	p.do(`document.querySelectorAll('#toasts .toast').forEach((node) => node.remove())`)

	p.presses("Lock")
	p.until("the lock", state+`.includes('locked')`)
	did("updateRoom", "")
	p.presses("Unlock")
	p.until("no lock", `!`+state+`.includes('locked')`)
	did("updateRoom", "")
	require.Equal(t, want, s.deeds("acts"))

	// What the audit's screen shows and hands out is the same.
	p.screen("audit", "")
	p.do(`const form = document.querySelector('main form'); form.elements.room.value = 'acts'; form.elements.of.value = 'dashboard'; form.requestSubmit()`)
	p.until("the deeds", fmt.Sprintf(`%s.length === %d`, rows("Audit"), len(want)))
	shown := get[[]string](p, rows("Audit"))
	for i, one := range want {
		row := shown[len(shown)-1-i]
		require.Contains(t, row, one.Call)
		require.Contains(t, row, "dashboard, all", row)
		require.Contains(t, row, one.Participant)
		require.Contains(t, row, session)
	}
	require.Equal(t, len(want)+1, strings.Count(p.file("CSV: audit", "audit.csv", "text/csv"), "\r\n"))
	require.Contains(t, p.file("JSON: audit", "audit.json", "application/json"), `"call": "moveParticipant"`)

	// The role look sees it all, has no such button, and its requests are refused.
	looker := f.operator(t, s, "look")
	looker.screen("room", "acts")
	looker.until("who is there", `document.querySelector('#people .person')`)
	require.Equal(t, []string{"Charts"}, get[[]string](looker, `[...document.querySelectorAll('main button')].filter((node) => node.checkVisibility()).map((node) => node.textContent)`))
	moderator := f.operator(t, s, "moderate")
	moderator.screen("room", "acts")
	moderator.until("who is there", `document.querySelector('#people .person')`)
	require.Equal(t, "Lock,Mute all,Hold muted,Let guests wait,Keep the chat,Message,Close", get[string](moderator, `[...document.querySelectorAll('#room-actions button')].map((node) => node.textContent).join()`))
	tries := func(p *page, method, path, body string) int {
		t.Helper()
		return get[int](p, fmt.Sprintf(`(await fetch('/v1' + %q, { method: %q, headers: { 'Parlor-Admin': '1', 'Content-Type': 'application/json' }, body: %s })).status`, path, method, quoted(body)))
	}
	on := "/rooms/acts/participants/" + url.PathEscape(who(cem))
	for _, c := range [][3]string{
		{"PATCH", on + "/tracks/TR_x", `{"muted":true}`}, {"POST", "/rooms/acts/mute", `{"hold":true}`}, {"DELETE", "/rooms/acts/mute", `{}`},
		{"PATCH", on, `{"name":"x"}`}, {"PATCH", on, `{"permissions":{"can_publish":false}}`}, {"POST", on + "/move", `{"room":"side"}`},
		{"DELETE", on, `{}`}, {"PUT", on + "/host", `{}`}, {"PUT", "/rooms/acts/bans/x", `{}`}, {"DELETE", "/rooms/acts/bans/x", `{}`},
		{"PATCH", "/rooms/acts", `{"locked":true}`}, {"DELETE", "/rooms/acts", `{}`}, {"POST", "/rooms/acts/data", `{"text":"x"}`},
		{"POST", "/tokens", `{"room":"acts","identity":"observer-x","hidden":true}`}, {"POST", "/rooms", `{"name":"x"}`}, {"POST", "/backups", `{}`},
	} {
		require.Equal(t, 403, tries(looker, c[0], c[1], c[2]), "%s %s", c[0], c[1])
	}
	require.Equal(t, 403, tries(moderator, "POST", "/tokens", `{"room":"acts","identity":"observer-x","hidden":true}`))
	require.Equal(t, want, s.deeds("acts"), "nothing was done")
	require.True(t, get[bool](cem, `parlor.screen === 'call' && parlor.room.localParticipant.name === '=Cem()'`))

	// The end of the room, and what is left of it: who was there and when, also as files.
	p.screen("room", "acts")
	p.presses("Close")
	p.answers(nil)
	cem.until("the end", `parlor.screen === 'ended'`)
	p.until("the past room", rows("Past rooms of this name")+`.length === 1`)
	p.until("the answer", `[...document.querySelectorAll('#toasts .toast')].some((node) => node.textContent === 'The room is closed.')`) // the event may be first
	did("closeRoom", "")
	require.Equal(t, want, s.deeds("acts"))
	p.screen("history", "")
	p.until("the room", rows("Ended rooms")+`.some((row) => row.startsWith('acts '))`)
	ended := p.file("CSV: rooms", "rooms.csv", "text/csv")
	require.Regexp(t, `^sid,name,created_at,ended_at,`, ended)
	require.Regexp(t, `\r\nRM_\w+,acts,20`, ended)
	require.Contains(t, p.file("JSON: rooms", "rooms.json", "application/json"), `"name": "acts"`)
	require.Regexp(t, `^from,peak_participants,.*\r\n20`, p.file("CSV: hours", "hours.csv", "text/csv"))
	require.Contains(t, p.file("JSON: hours", "hours.json", "application/json"), `"peak_participants": 3`)
	p.click("#ended a")
	p.until("the room's past", `document.querySelector('#main').dataset.screen === 'stay' && document.querySelector('.gantt')`)
	p.loadAxe()
	p.looks("gantt")

	// A lane for each identity, whose bars lie in it as long as the stay was.
	lanes := get[[][]float64](p, `[...document.querySelectorAll('.gantt .lane')].map((lane) => { const whole = lane.getBoundingClientRect();
		return [...lane.querySelectorAll('.stay')].flatMap((bar) => { const box = bar.getBoundingClientRect(); return [(box.left - whole.left) / whole.width, (box.right - whole.left) / whole.width]; }); })`)
	require.Len(t, lanes, 4)
	names := get[[]string](p, `[...document.querySelectorAll('.gantt .name')].map((node) => node.textContent)`)
	require.Equal(t, []string{"Ann", "Robert", "=Cem()"}, names[:3])
	for i, lane := range lanes {
		require.Len(t, lane, 2, "%s was there once", names[i])
		require.True(t, -0.01 <= lane[0] && lane[0] < lane[1] && lane[1] <= 1.02, "%s: %v", names[i], lane)
	}
	require.Less(t, lanes[0][0], lanes[2][0], "Ann came first")
	require.Less(t, lanes[1][1], lanes[0][1], "Robert was moved before Ann was banned")
	require.Less(t, lanes[0][1], lanes[2][1], "the last went when the room was closed")
	reasons := get[[]string](p, `[...document.querySelectorAll('.gantt .stay')].map((node) => node.title)`)
	require.Contains(t, reasons[0], "participant removed")
	require.Contains(t, reasons[2], "room deleted")

	sid := get[string](p, `location.hash.split('/').at(-1)`)
	sessions := p.file("CSV: sessions-"+sid, "sessions-"+sid+".csv", "text/csv")
	require.Equal(t, 5, strings.Count(sessions, "\r\n"), sessions)
	require.Contains(t, sessions, ",'=Cem(),", "no spreadsheet takes a name for a formula")
	require.Contains(t, p.file("JSON: sessions-"+sid, "sessions-"+sid+".json", "application/json"), `"name": "=Cem()"`)
	require.Empty(t, p.troubles())
}

// What is done to rooms in the list, to webhooks, the log of events and the server itself.
func (f *fixture) testServerDeeds(t *testing.T) {
	s := adminServer(t)
	for _, name := range []string{"tea", "tea time", "coffee"} {
		s.ask("POST", "/rooms", map[string]any{"name": name, "empty_timeout": "never", "metadata": "of " + name, "tags": map[string]string{"kind": name}})
	}
	s.ask("POST", "/rooms", map[string]any{"name": "course", "empty_timeout": "never", "metadata": `{"plan":"pro","seats":17}`})
	p := f.operator(t, s, "all")
	look := f.operator(t, s, "look")

	p.screen("rooms", "")
	names := `[...document.querySelectorAll('#rooms tbody th')].map((node) => node.textContent).join()`
	search := func(by, text, order, want string) {
		t.Helper()
		p.do(fmt.Sprintf(`const form = document.querySelector('main form'); form.elements.by.value = %q; form.elements.text.value = %q; form.elements.order.value = %q; form.requestSubmit()`, by, text, order))
		p.until("the rooms "+want, fmt.Sprintf(names+` === %q`, want))
	}
	search("name_prefix", "tea", "ascending", "tea,tea time")
	search("name_prefix", "tea", "descending", "tea time,tea")
	search("tag", "kind=coffee", "descending", "coffee")
	search("metadata_field", "plan=pro", "descending", "course")
	search("metadata_field", "plan=none", "descending", "")
	search("metadata_field", "seats=17", "ascending", "course")
	p.do(`const form = document.querySelector('main form'); form.elements.text.value = 'seats'; form.requestSubmit()`)
	p.until("a word that it needs a value", `document.querySelector('#toasts .toast.bad')?.textContent.includes('key=value')`)
	search("metadata", "of tea", "descending", "tea")
	for i := range 52 {
		s.ask("POST", "/rooms", map[string]any{"name": fmt.Sprintf("page %02d", i), "empty_timeout": "never"})
	}
	p.do(`const form = document.querySelector('main form'); form.elements.by.value = 'name_prefix'; form.elements.text.value = 'page '; form.elements.order.value = 'ascending'; form.requestSubmit()`)
	ends := func(first, last, page string) string {
		return fmt.Sprintf(`(() => { const names = [...document.querySelectorAll('#rooms tbody th')].map((node) => node.textContent); return names[0] === %q && names.at(-1) === %q && document.querySelector('.pager [role=status]').textContent === %q; })()`, first, last, page)
	}
	p.until("the first page", ends("page 00", "page 49", "Page 1"))
	p.presses("Next")
	p.until("the second page", ends("page 50", "page 51", "Page 2"))
	require.True(t, get[bool](p, `[...document.querySelectorAll('.pager button')].find((node) => node.textContent === 'Next').disabled`), "it is the last")
	s.ask("DELETE", "/rooms/page%2051", nil)
	p.presses("Refresh")
	p.until("the same page, as it is now", ends("page 50", "page 50", "Page 2"))
	p.presses("Previous")
	p.until("the first page again", ends("page 00", "page 49", "Page 1"))
	search("metadata", "of tea", "descending", "tea")
	p.presses("Lock: tea")
	p.until("the lock", rows("Open rooms")+`[0].includes('locked')`)
	p.presses("Close: tea")
	p.answers(nil)
	p.until("no such room", `document.querySelector('#rooms .empty')`)
	p.presses("Create a room")
	p.answers(map[string]any{"name": "made", "max": "5", "empty": "never", "metadata": "new"})
	p.until("the new room", `document.querySelector('#main').dataset.screen === 'room' && document.querySelector('h1').textContent === 'made'`)
	made := s.ask("GET", "/rooms/made", nil)
	require.Equal(t, []any{5.0, "never", "new"}, []any{made["max_participants"], made["empty_timeout"], made["metadata"]})

	p.screen("webhooks", "")
	hook := hostile[1]
	state := `document.querySelector('#endpoints .tag').textContent`
	p.presses("Pause: " + hook)
	p.answers(map[string]any{"reason": "it moves"})
	p.until("the pause", state+` === 'paused' && document.querySelector('#endpoints').textContent.includes('it moves')`)
	p.presses("Resume: " + hook)
	p.until("it on again", state+` !== 'paused'`)
	p.presses("Test: " + hook)
	p.until("a word of the event", `/^Event \d+ is on its way\.$/.test(document.querySelector('#toasts .toast')?.textContent)`)
	p.presses("Deliveries: " + hook)
	p.until("the deliveries", `document.querySelector('main table')`)
	delivery := get[string](p, `[...document.querySelectorAll('main button')].find((node) => node.textContent === 'Send again').getAttribute('aria-label')`)
	p.presses(delivery)
	p.until("a word that it is sent again", `/^It is (sent again|on its way already)\.$/.test(document.querySelector('#toasts .toast')?.textContent)`)
	p.presses(strings.Replace(delivery, "Send again", "Show", 1))
	p.until("the body", `JSON.parse(document.querySelector('dialog[open] textarea')?.value ?? '{}').event`)
	p.answers(nil)

	p.screen("events", "")
	types := `[...new Set([...document.querySelectorAll('#log .what')].map((node) => node.textContent))].join()`
	filter := func(kind, seq string) {
		p.do(fmt.Sprintf(`const form = document.querySelector('main form'); form.elements.type.value = %q; form.elements.seq.value = %q; form.requestSubmit()`, kind, seq))
	}
	filter("room_finished", "")
	p.until("those of the type", types+` === 'room_finished'`)
	filter("", "3")
	numbers := `[...document.querySelectorAll('#log summary')].map((node) => Number(node.textContent.slice(1)))`
	p.until("those from the number", numbers+`.at(-1) === 3 && `+types+`.includes('room_started')`)
	// The number of the newest event that the page has read, shown or not.
	p.do(`window.read = 0; const parse = JSON.parse; JSON.parse = (text) => { const value = parse(text); window.read = Math.max(window.read, value?.seq ?? 0); return value; }`)
	p.presses("Pause")
	newest := get[int](p, numbers+`[0]`)
	s.ask("POST", "/rooms", map[string]any{"name": "while paused"})
	p.until("it to have come", fmt.Sprintf(`window.read > %d`, newest))
	p.presses("Pause")
	s.ask("POST", "/rooms", map[string]any{"name": "later"})
	p.until("what comes later", numbers+fmt.Sprintf(`[0] > %d + 1 && !%s.includes(%d)`, newest, numbers, newest+1))

	p.screen("server", "")
	p.presses("Back up now")
	p.until("the copy", rows("Copies of the database")+`.length === 1`)
	p.until("who is signed in", rows("Signed in")+`.length === 2`)
	p.do(`[...document.querySelectorAll('#sessions button')].find((node) => node.textContent === 'End').click()`)
	look.until("the end of the session", `document.querySelector('#sign-in') && document.querySelector('.problem').textContent.includes('over')`)
	p.until("who is left", rows("Signed in")+`.length === 1`)
	p.do(`const level = document.querySelector('[name=level]'); level.value = 'warn'; level.dispatchEvent(new Event('change'))`)
	p.until("the warnings alone", `document.querySelectorAll('#lines li').length > 0 && [...document.querySelectorAll('#lines .tag')].every((node) => node.textContent !== 'info')`)
	looks := `performance.getEntriesByType('resource').filter((entry) => entry.name.endsWith('/status/check')).length`
	before := get[int](p, looks)
	p.presses("Look again")
	p.until("another look at the machine", fmt.Sprintf(`%s > %d && %s.length > 0`, looks, before, rows("Check list")))
	differs := get[int](p, rows("Configuration in force")+`.length`)
	require.Contains(t, strings.Join(get[[]string](p, rows("Configuration in force")), "\n"), "webhook.api_key")
	p.do(`[...document.querySelectorAll('main .check')].find((node) => node.textContent.includes('Only what differs')).firstElementChild.click()`)
	p.until("every key", fmt.Sprintf(`%s.length > %d`, rows("Configuration in force"), differs+20))
	p.presses("Make a link")
	p.answers(map[string]any{"role": "look"})
	p.until("the link", `document.querySelector('dialog[open] textarea')?.value.includes('#link=')`)
	link := get[string](p, `document.querySelector('dialog textarea').value`)
	p.answers(nil)
	guest := f.browser.visit(t, "guest", link)
	guest.until("to be signed in, to look", `document.querySelector('#main').dataset.screen === 'now' && document.querySelector('#who').textContent.endsWith('look')`)
	require.Empty(t, p.troubles())

	calls := []string{}
	for _, one := range s.ask("GET", "/audit?of=dashboard&limit=500", nil)["deeds"].([]any) {
		calls = append(calls, one.(map[string]any)["call"].(string))
	}
	slices.Reverse(calls)
	require.Equal(t, []string{"signIn", "signIn", "updateRoom", "closeRoom", "createRoom", "pauseWebhook", "resumeWebhook", "testWebhook", "replayDeliveries", "createBackup", "endAdminSession", "createAdminLink", "signIn"}, calls)
}
