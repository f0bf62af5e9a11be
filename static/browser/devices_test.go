package browser_test

import (
	"fmt"
	"testing"

	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"
)

// Devices are chosen in the lobby and in the call, by the arrow beside a button and in the
// settings, where the level of the microphone is shown. A tile fills the screen, and floats
// above all windows. A person in the list is written to alone.
func (f *fixture) testDevices(t *testing.T) {
	bob := f.join(t, modes[0], "devices", "Bob", "audio", "0")
	ann := f.browser.open(t, "Ann", f.server.page("room", "devices", "name", "Ann", "resolution", "180", "simulcast", "0", "video", "0"))
	ann.until("the microphone open", `Number(document.querySelector('#lobby-meter').getAttribute('aria-valuenow')) > 5`)
	ann.click("#lobby-mic")
	ann.until("the microphone off", `document.querySelector('#lobby-meter').classList.contains('idle')`)
	ann.click("#lobby-mic")
	ann.until("the microphone on", `!document.querySelector('#lobby-meter').classList.contains('idle')`)
	ann.click("#join")
	ann.until("the call", `parlor.screen === 'call' && parlor.room.localParticipant.isMicrophoneEnabled`)

	ann.click("#settings-open")
	ann.until("the level of the microphone", `document.querySelector('#settings').open && Number(document.querySelector('#settings-meter').getAttribute('aria-valuenow')) > 5`)
	microphones := func(place string) string {
		return fmt.Sprintf(`[...document.querySelectorAll('%s select[data-device="audioinput"] option')].map((node) => node.value)`, place)
	}
	ann.until("the microphones", microphones("#settings")+`.length > 1`)
	inUse := `parlor.room.localParticipant.getTrackPublication('microphone').track.mediaStreamTrack.getSettings().deviceId`
	choose := func(place string) string {
		t.Helper()
		other := get[string](ann, fmt.Sprintf(`%s.find((id) => id !== %s && id !== 'default')`, microphones(place), inUse))
		ann.do(fmt.Sprintf(`const select = document.querySelector('%s select[data-device="audioinput"]'); select.value = %q; select.dispatchEvent(new Event('change'))`, place, other))
		ann.until("the other microphone", fmt.Sprintf(`%s === %q && document.querySelector('%s select[data-device="audioinput"]').value === %q`, inUse, other, place, other))
		return other
	}
	choose("#settings")
	ann.until("the level of that", `Number(document.querySelector('#settings-meter').getAttribute('aria-valuenow')) > 5`)
	bob.hears("Ann")
	ann.click(`[data-close="settings"]`)
	require.False(t, get[bool](ann, `document.querySelector('#settings').open`))
	ann.click(`[popovertarget="mic-menu"]`)
	ann.until("the menu", `document.querySelector('#mic-menu').matches(':popover-open') && `+microphones("#mic-menu")+`.length > 1`)
	last := choose("#mic-menu")
	require.Equal(t, last, get[string](ann, `JSON.parse(localStorage.getItem('parlor')).audioinput`), "it is the one of the next time")
	bob.hears("Ann")
	bob.click("#mic")
	ann.hears("Bob")
	id, _ := ann.choosesOther("#mic-menu", "audiooutput")
	ann.until("the sound from the other loudspeaker", fmt.Sprintf(`[...document.querySelectorAll('#audio audio')].every((audio) => audio.sinkId === %q)`, id))
	ann.hears("Bob")
	require.Equal(t, id, get[string](ann, `JSON.parse(localStorage.getItem('parlor')).audiooutput`), "it is the one of the next time")
	ann.do(`document.querySelector('#mic-menu').hidePopover()`)

	ann.click("#cam")
	bob.sees("Ann")
	camera := `parlor.room.localParticipant.getTrackPublication('camera').track.mediaStreamTrack`
	first := get[string](ann, camera+`.label`)
	ann.click(`[popovertarget="cam-menu"]`)
	id, label := ann.choosesOther("#cam-menu", "videoinput")
	require.NotEqual(t, first, label)
	ann.until("the other camera", fmt.Sprintf(`%s.getSettings().deviceId === %q`, camera, id))
	require.Equal(t, label, get[string](ann, camera+`.label`), "it is the one that the list names")
	bob.sees("Ann")
	require.Equal(t, id, get[string](ann, `JSON.parse(localStorage.getItem('parlor')).videoinput`), "it is the one of the next time")
	ann.do(`document.querySelector('#cam-menu').hidePopover()`)

	ann.sees("Bob")
	// Without a mouse a double tap makes a tile large, and a large one has the buttons.
	ann.do(tile("Bob") + `.dispatchEvent(new MouseEvent('dblclick', { bubbles: true }))`)
	ann.until("the button", tile("Bob")+`.classList.contains('large') && `+tile("Bob")+`.querySelector('.tile-full').checkVisibility()`)
	press := func() { // a browser lets only a person fill the screen
		ann.do(tile("Bob") + `.querySelector('.tile-full').focus()`)
		ann.press("\r")
	}
	press()
	ann.until("the whole screen", `document.fullscreenElement === `+tile("Bob"))
	press()
	ann.until("the call again", `!document.fullscreenElement`)
	ann.sees("Bob")

	float := fmt.Sprintf(`.tile[data-identity=%q] .tile-float`, get[string](bob, `parlor.room.localParticipant.identity`))
	ann.do(tile("Bob") + `.querySelector('video').addEventListener('enterpictureinpicture', (event) => { window.floating = event.pictureInPictureWindow; })`)
	floats := `document.pictureInPictureElement === ` + tile("Bob") + `.querySelector('video')`
	ann.click(float)
	ann.until("Bob above all windows", floats+` && window.floating.width > 0 && window.floating.height > 0`)
	ann.sees("Bob")
	ann.click(float)
	ann.until("Bob back in the call", `!document.pictureInPictureElement`)
	ann.sees("Bob")

	identity := get[string](bob, `parlor.room.localParticipant.identity`)
	ann.click("#people-toggle")
	ann.acts("more", identity)
	ann.acts("write", identity)
	ann.until("the chat, with Bob alone", fmt.Sprintf(`document.querySelector('#chat').checkVisibility() && document.querySelector('#chat-to').value === %q && document.activeElement.id === 'chat-text'`, identity))
	ann.write("#chat-text", "for you\r")
	bob.click("#chat-toggle")
	bob.until("the message", `document.querySelector('#chat-log .chat-text')?.textContent === 'for you' && document.querySelector('.chat-private')`)
}

// choosesOther chooses, by a key, the last device of a list, or the first if it was the last.
func (p *page) choosesOther(place, kind string) (id, label string) {
	p.t.Helper()
	list := fmt.Sprintf(`document.querySelector('%s select[data-device="%s"]')`, place, kind)
	p.until("a choice", list+`.checkVisibility() && `+list+`.options.length > 1`)
	last := get[int](p, list+`.options.length`) - 1
	key, next := kb.End, last
	if get[int](p, list+`.selectedIndex`) == last {
		key, next = kb.Home, 0
	}
	option := fmt.Sprintf(`%s.options[%d]`, list, next)
	id, label = get[string](p, option+`.value`), get[string](p, option+`.textContent`)
	p.do(list + `.focus()`)
	p.press(key)
	p.until("the choice", fmt.Sprintf(`%s.value === %q`, list, id))
	return id, label
}
