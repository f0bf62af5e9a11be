package browser_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/livekit/protocol/auth"
	"github.com/stretchr/testify/require"
)

// A host stops a camera, mutes all without keeping them so, and bans. Everybody can pin a
// person, and has keys for most of it.
func (f *fixture) testHosting(t *testing.T) {
	token := f.server.token("hana", time.Hour, auth.VideoGrant{RoomJoin: true, Room: "hosting", RoomAdmin: true})
	host := f.browser.open(t, "Hana", f.server.page("token", token, "autojoin", "1"))
	host.until("the call", `parlor.screen === 'call'`)
	ann, bob := f.join(t, modes[0], "hosting", "Ann"), f.join(t, modes[1], "hosting", "Bob", "video", "0")
	who := func(p *page) string { return get[string](p, `parlor.room.localParticipant.identity`) }
	muted := `document.querySelector('.toast[data-code="muted-by-moderator"]')`
	microphone := func(on bool) string {
		return fmt.Sprintf(`parlor.room.localParticipant.isMicrophoneEnabled === %v`, on)
	}
	for _, p := range []*page{ann, bob} {
		p.until("the microphone", microphone(true))
	}

	host.click("#people-toggle")
	host.acts("more", who(ann))
	host.acts("stop-camera", who(ann))
	ann.until("the camera to be stopped, and a word", `!parlor.room.localParticipant.isCameraEnabled && `+microphone(true)+` && `+muted)
	host.acts("mute-all", "")
	for _, p := range []*page{ann, bob} {
		p.until("to be muted", microphone(false)+` && `+muted)
	}
	bob.click("#mic")
	bob.until("the microphone again, as nothing is held", microphone(true))

	// Pinned is large, for oneself alone; Escape ends it, when no panel is open.
	ann.do(tile("Bob") + `.querySelector('.tile-pin').click()`)
	ann.until("Bob to be large", tile("Bob")+`.classList.contains('large') && `+tile("Bob")+`.querySelector('.tile-pin').getAttribute('aria-pressed') === 'true'`)
	require.False(t, get[bool](host, `document.querySelector('.tile.large') !== null`))
	shown := func(id string) string { return fmt.Sprintf(`document.querySelector(%q).checkVisibility()`, id) }
	ann.do(`document.activeElement.blur()`)
	ann.press("c")
	ann.until("the chat", shown("#chat"))
	ann.do(`document.activeElement.blur()`) // the field of the chat takes the keys
	ann.press("p")
	ann.until("the people", shown("#people")+` && !`+shown("#chat"))
	escape := `dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape', bubbles: true, cancelable: true }))`
	ann.do(escape)
	ann.until("no panel", `!`+shown("#people")+` && `+tile("Bob")+`.classList.contains('large')`)
	ann.do(escape)
	ann.until("nobody to be large", `!document.querySelector('.tile.large')`)

	ann.do(`document.activeElement.blur()`)
	ann.press("m")
	ann.until("the microphone, by a key", microphone(true))
	ann.press("m")
	ann.until("the microphone off, by a key", microphone(false))
	key := func(kind string) string {
		return fmt.Sprintf(`document.body.dispatchEvent(new KeyboardEvent('%s', { key: ' ', code: 'Space', bubbles: true, cancelable: true }))`, kind)
	}
	ann.do(key("keydown"))
	ann.until("to speak while the bar is down", microphone(true))
	ann.do(key("keyup"))
	ann.until("to be silent again", microphone(false))
	ann.press("v")
	ann.until("the camera, by a key", `parlor.room.localParticipant.isCameraEnabled`)
	ann.press("s")
	ann.until("to show the screen, by a key", `parlor.room.localParticipant.isScreenShareEnabled && document.querySelector('#sharing').checkVisibility()`)
	host.sees("Ann's screen")
	ann.press("s")
	ann.until("to show it no more, by a key", `!parlor.room.localParticipant.isScreenShareEnabled`)
	host.until("the screen to go", `!`+tile("Ann's screen"))
	ann.press("h")
	host.until("the hand", `document.querySelector('.toast[data-code="hand"]')`)
	ann.press("?")
	ann.until("the list of keys", `document.querySelector('#settings').open && document.querySelector('#settings .keys').checkVisibility()`)
	ann.do(`document.querySelector('#shortcuts-on').click(); document.querySelector('#settings').close(); document.activeElement.blur()`)
	ann.press("c")
	require.False(t, get[bool](ann, shown("#chat")), "who wants no keys has none")

	identity := who(ann)
	host.acts("ban", identity)
	require.True(t, get[bool](ann, `parlor.screen === 'call'`), "one click bans nobody")
	host.acts("ban", identity)
	ann.until("to be sent away", `parlor.screen === 'ended'`)
	back := f.browser.open(t, "back", f.server.page("token", f.server.token(identity, time.Hour, auth.VideoGrant{RoomJoin: true, Room: "hosting"}), "autojoin", "1"))
	back.until("to be kept out", `parlor.problem && parlor.screen === 'lobby' && !document.querySelector('#lobby-problem').hidden`)

	// How it looks, with some people who are seen and some who are not.
	c := f.crowd(t, f.server)
	for _, one := range []string{"cem", "dan", "eva"} {
		c.comes(one, auth.VideoGrant{Room: "hosting"})
	}
	bob.do(`document.querySelector('#cam').click()`)
	host.sees("Bob")
	host.click(`[data-close="people"]`)
	host.until("five", `document.querySelectorAll('.tile').length >= 4`)
	host.loadAxe()
	host.looks("five people")
	host.click("#people-toggle")
	host.looks("five people, and their list")
	require.NoError(t, chromedp.Do(host.ctx, chromedp.EmulateViewport(960, 600)))
}
