package browser_test

import (
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/livekit/protocol/auth"
	"github.com/stretchr/testify/require"
)

// What the lobby says of those who are in the room; "" if nothing.
const inside = `(document.querySelector('#inside').checkVisibility() ? document.querySelector('#inside-text').textContent : '')`

// crowd are people without pages of their own, who sit in one tab.
type crowd struct {
	*page
	server *server
}

func (f *fixture) crowd(t *testing.T, s *server) crowd {
	t.Helper()
	c := crowd{f.browser.open(t, "crowd", s.page("room", "crowd", "audio", "0", "video", "0")), s}
	c.do(`window.crowd = {}`)
	return c
}

// comes has one of that identity join, under the name Guest and the identity.
func (c crowd) comes(identity string, grant auth.VideoGrant) {
	c.t.Helper()
	grant.RoomJoin = true
	c.do(fmt.Sprintf(`const room = new LivekitClient.Room(); await room.connect('ws://localhost:%s', %q); window.crowd[%q] = room`,
		c.server.port, c.server.token(identity, time.Hour, grant), identity))
}

func (c crowd) goes(identity string) {
	c.t.Helper()
	c.do(fmt.Sprintf(`await window.crowd[%q].disconnect()`, identity))
}

// The lobby names the people in the room: to the bearer of a token or an invitation, and on a
// server of development to anybody. The text follows joins and the language, is read out, and
// runs nothing of what strangers have written.
func (f *fixture) testInside(t *testing.T) {
	s := startServer(t, f.server.binary, "--dev", "--invitations")
	g := &fixture{s, f.browser}
	ann := g.join(t, modes[0], "inside", hostile[0], "audio", "0", "video", "0")
	c := g.crowd(t, s)
	c.comes("spy", auth.VideoGrant{Room: "inside", Hidden: true})

	grant := auth.VideoGrant{RoomJoin: true, Room: "inside"}
	late := f.browser.open(t, "Late", s.page("token", s.token("late", time.Hour, grant)))
	late.do(`window.said = []; new MutationObserver(() => window.said.push(document.querySelector('#inside-text').textContent)).observe(document.querySelector('#inside-text'), { childList: true, characterData: true, subtree: true })`)
	late.until("who is there", inside+` === '<img src=x onerror="window.hacked=1"> is in the call.'`)
	require.True(t, get[bool](late, `document.querySelector('#inside').closest('[role=status]') !== null && !window.hacked && document.querySelector('#lobby img:not(.brand img)') === null`))
	c.comes("bob", auth.VideoGrant{Room: "inside"})
	late.until("who has come meanwhile", inside+`.endsWith(' and Guest bob are in the call.')`) // it asks again and again
	for _, identity := range []string{"cem", "dan", "eva"} {
		c.comes(identity, auth.VideoGrant{Room: "inside"})
	}
	late.do(`document.dispatchEvent(new Event('visibilitychange'))`)
	late.until("the first of many", inside+`.endsWith(', Guest bob, Guest cem, and 2 others are in the call.')`)
	require.Equal(t, get[int](late, `new Set(window.said).size`), get[int](late, `window.said.length`), "nothing is read out twice")
	late.do(`const select = document.querySelector('#lobby [data-language]'); select.value = 'de'; select.dispatchEvent(new Event('change'))`)
	late.until("the same in German", inside+`.endsWith(', Guest bob, Guest cem und 2 weitere Personen sind im Gespräch.')`)
	late.do(`const select = document.querySelector('#lobby [data-language]'); select.value = 'en'; select.dispatchEvent(new Event('change'))`)
	late.until("the same in English", inside+`.endsWith('are in the call.')`)
	late.loadAxe()
	late.looks("who is in the room")
	require.NoError(t, chromedp.Do(late.ctx, chromedp.EmulateViewport(740, 360)))
	late.until("the way in to be in sight on a small phone", `document.querySelector('#join').getBoundingClientRect().bottom <= innerHeight`)
	late.click("#join")
	late.until("the call", `parlor.screen === 'call'`)
	asked := `performance.getEntriesByType('resource').filter((entry) => entry.name.endsWith('/lobby')).length`
	require.Positive(t, get[int](late, asked))
	late.do(`performance.clearResourceTimings()`)
	late.click("#leave")
	late.until("the end", `parlor.screen === 'ended'`)
	require.Zero(t, get[int](late, asked), "nobody looks from within")
	late.click("#to-lobby")
	late.until("who is there, in the lobby again", inside+`.includes(' are in the call.')`)

	// Where names are typed, the room that is typed counts.
	typing := f.browser.open(t, "Typing", s.page("room", "empty"))
	typing.until("nobody to be there", inside+` === 'Nobody is in the call yet.'`)
	typing.do(`const field = document.querySelector('#room'); field.value = 'inside'; field.dispatchEvent(new Event('input', { bubbles: true }))`)
	require.Equal(t, "", get[string](typing, inside), "what is told is of no other room")
	typing.until("who is there", inside+`.includes('Guest bob')`)

	// An invitation tells it as long as nobody has to wait; then nothing is told, but to hosts.
	secret := func(role string) string {
		return s.ask("POST", "/rooms/inside/invitations", map[string]any{"role": role})["secret"].(string)
	}
	guests, hosts := secret("guest"), secret("host")
	s.rest(http.MethodPatch, "/v1/rooms/inside", `{"waiting_room":true}`)
	known := `performance.getEntriesByType('resource').some((entry) => entry.name.endsWith('/lobby') && entry.responseStatus === 200)`
	host := f.browser.open(t, "Host", s.page()+"#invite="+hosts)
	host.until("who is there", inside+`.includes('Guest bob')`)
	waits := f.browser.open(t, "Waits", s.page()+"#invite="+guests)
	waits.until("an answer", known)
	waits.until("nothing", inside+` === ''`)
	require.NotContains(t, get[string](waits, `document.body.textContent`), "Guest bob")
	s.rest(http.MethodPatch, "/v1/rooms/inside", `{"waiting_room":false}`)
	guest := f.browser.open(t, "Guest", s.page()+"#invite="+guests)
	guest.until("who is there", inside+`.includes('Guest bob')`)
	s.rest(http.MethodPatch, "/v1/rooms/inside", `{"locked":true}`)
	locked := f.browser.open(t, "Locked", s.page("token", s.token("locked", time.Hour, grant)))
	locked.until("an answer", known)
	require.Equal(t, "", get[string](locked, inside))
	require.True(t, get[bool](ann, `parlor.screen === 'call'`))

	// A server that is gone tells nothing, and what it told does not stay.
	s.stop(os.Interrupt)
	guest.do(`document.dispatchEvent(new Event('visibilitychange'))`)
	guest.until("nothing", inside+` === ''`)
	s.start()
}

// Who is recorded sees it before joining and in the call, and is told by a text that is read
// out: also those who come while it goes on, and when it ends.
func (f *fixture) testRecorded(t *testing.T) {
	ann := f.join(t, modes[0], "recorded", "Ann", "audio", "0", "video", "0")
	mark := `document.querySelector('#recording')`
	told := func(text string) string {
		return fmt.Sprintf(`[...document.querySelectorAll('[role=status] .toast[data-code="recording"]')].some((node) => node.textContent.includes(%q))`, text)
	}
	require.False(t, get[bool](ann, mark+`.checkVisibility()`))
	c := f.crowd(t, f.server)
	c.comes("tape", auth.VideoGrant{Room: "recorded", Recorder: true, Hidden: true})
	ann.until("the mark, and a word", mark+`.checkVisibility() && `+mark+`.textContent === 'Recording' && `+told("is being recorded"))
	ann.loadAxe()
	ann.looks("recorded")
	require.NoError(t, chromedp.Do(ann.ctx, chromedp.EmulateViewport(390, 844)))
	require.True(t, get[bool](ann, mark+`.checkVisibility() && `+mark+`.getBoundingClientRect().width < 40 && document.querySelector('#room-name').scrollWidth <= document.querySelector('#room-name').clientWidth`), "a phone has place for the mark and for the room's name")

	late := f.browser.open(t, "Late", f.server.page("room", "recorded", "name", "Late", "audio", "0", "video", "0"))
	late.until("a word of it before joining", `document.querySelector('#inside-recorded').checkVisibility() && document.querySelector('#inside-recorded').closest('[role=status]')`)
	require.Contains(t, get[string](late, inside), "Ann is in the call.", "who records is nobody to meet")
	late.loadAxe()
	late.looks("recorded, in the lobby")
	late.click("#join")
	late.until("the mark, and a word", `parlor.screen === 'call' && `+mark+`.checkVisibility() && `+told("is being recorded"))

	c.goes("tape")
	for _, p := range []*page{ann, late} {
		p.until("the mark to go, and a word", `!`+mark+`.checkVisibility() && `+told("no longer being recorded"))
	}
}
