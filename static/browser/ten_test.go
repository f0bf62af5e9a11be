package browser_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/livekit/protocol/auth"
	"github.com/stretchr/testify/require"
)

// namesOf is JavaScript for an array of names.
func namesOf(names []string) string {
	quotedNames := make([]string, len(names))
	for i, name := range names {
		quotedNames[i] = quoted(name)
	}
	return "[" + strings.Join(quotedNames, ",") + "]"
}

// seesAll waits until the tiles of those people lie in the stage, none over another, and the
// picture in each of them changes.
func (p *page) seesAll(names []string) {
	p.t.Helper()
	p.do(`window.tileOf = (name) => [...document.querySelectorAll('.tile')].find((tile) => tile.querySelector('.tile-name').textContent === name && tile.checkVisibility());
		window.pictureOf = (name) => {
			const drawing = new OffscreenCanvas(32, 18).getContext('2d');
			drawing.drawImage(tileOf(name).querySelector('video'), 0, 0, 32, 18);
			return String(drawing.getImageData(0, 0, 32, 18).data);
		}`)
	all := namesOf(names)
	p.until(fmt.Sprintf("the tiles of %v, side by side", names), `(() => {
		const stage = document.querySelector('#stage').getBoundingClientRect();
		const boxes = `+all+`.map((name) => tileOf(name)?.getBoundingClientRect());
		return boxes.every((box) => box && box.width > 80 && box.left >= stage.left - 1 && box.right <= stage.right + 1 && box.top >= stage.top - 1 && box.bottom <= stage.bottom + 1)
			&& boxes.every((a, i) => boxes.every((b, j) => i >= j || a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1));
	})()`)
	p.until(fmt.Sprintf("the pictures of %v", names), all+`.every((name) => tileOf(name)?.classList.contains('has-picture'))`)
	p.do(`window.before = Object.fromEntries(` + all + `.map((name) => [name, pictureOf(name)])); window.moved = new Set()`)
	p.until(fmt.Sprintf("moving pictures of %v", names), `(() => {
		for (const name of `+all+`) if (tileOf(name)?.classList.contains('has-picture') && pictureOf(name) !== before[name]) moved.add(name);
		return moved.size === `+all+`.length;
	})()`)
}

// guests is what a tab has in addition to the page's script to be several people at once, who
// send and receive no pictures: each is a room of livekit-client without a page.
const guests = `window.guests = new Map(); window.comes = async (name, token, speaks) => {
	const { Room, createLocalVideoTrack } = LivekitClient;
	const room = new Room({ adaptiveStream: false, dynacast: false });
	guests.set(name, room);
	await room.connect(location.origin.replace('http', 'ws'), token, { autoSubscribe: false });
	const camera = await createLocalVideoTrack({ resolution: { width: 320, height: 180, frameRate: 5 } });
	await room.localParticipant.publishTrack(camera, { simulcast: false });
	if (speaks) await room.localParticipant.setMicrophoneEnabled(true);
}`

// Ten people are in a call. Where there is room one sees the nine others, each in a moving
// picture; on a small screen they are on pages, and who speaks is on the first. The host mutes
// all and removes one, which all see. Four have the page, the others send from one more tab,
// so that two cores can do it.
func (f *fixture) testTen(t *testing.T) {
	g := &fixture{f.server, startBrowser(t, append(fakeDevices(t), chromedp.Flag("use-fake-device-for-media-stream", "fps=5"))...)}
	pages := map[string]*page{}
	join := func(name string, width, height int64, query ...string) *page {
		t.Helper()
		p := g.browser.open(t, name, f.server.page(append([]string{"resolution", "180", "simulcast", "0", "audio", "0", "video", "1"}, query...)...))
		require.NoError(t, chromedp.Do(p.ctx, chromedp.EmulateViewport(width, height)))
		p.until("a picture of oneself", `document.querySelector('#preview-video').videoWidth > 0`)
		p.click("#join")
		p.until("the call", `parlor.screen === 'call' && parlor.room.localParticipant.isCameraEnabled`)
		pages[name] = p
		return p
	}
	host := join("Guest hana", 1440, 900, "token", f.server.token("hana", time.Hour, auth.VideoGrant{RoomJoin: true, Room: "ten", RoomAdmin: true}))
	ann := join("Ann", 1024, 768, "room", "ten", "name", "Ann")
	bob := join("Bob", 390, 420, "room", "ten", "name", "Bob")
	fay := join("Fay", 390, 420, "room", "ten", "name", "Fay")
	tab := g.browser.open(t, "guests", f.server.page("room", "ten", "audio", "0", "video", "0"))
	tab.do(guests)
	speakers, silent := []string{"Guest cem", "Guest dan"}, []string{"Guest eva", "Guest gil", "Guest ida", "Guest joe"}
	for _, name := range slices.Concat(speakers, silent) {
		token := f.server.token(strings.TrimPrefix(name, "Guest "), time.Hour, auth.VideoGrant{RoomJoin: true, Room: "ten"})
		tab.do(fmt.Sprintf(`await comes(%q, %q, %v)`, name, token, slices.Contains(speakers, name)))
	}
	without := func(names ...string) []string {
		all := slices.Concat([]string{"Guest hana", "Ann", "Bob", "Fay"}, speakers, silent)
		return slices.DeleteFunc(all, func(name string) bool { return slices.Contains(names, name) })
	}

	counts := func(n int) {
		t.Helper()
		for _, p := range pages {
			p.until(fmt.Sprint(n, " people"), fmt.Sprintf(`document.querySelector('#count').textContent === '%d' && document.querySelectorAll('.tile').length === %d`, n, n))
		}
		tab.until(fmt.Sprint(n, " people"), fmt.Sprintf(`[...guests.values()].every((room) => room.remoteParticipants.size === %d)`, n-1))
	}
	counts(10)
	for _, p := range pages { // a voice has pauses, and the marks with it
		p.do(`window.heard = new Set()`)
		p.until("the marks of those who speak", `(() => {
			for (const name of document.querySelectorAll('.tile.speaking .tile-name')) heard.add(name.textContent);
			return `+namesOf(speakers)+`.every((name) => heard.has(name));
		})()`)
	}
	host.seesAll(without("Guest hana"))
	ann.seesAll(without("Ann"))

	// On a small screen: pages that show everybody, the speakers on the first.
	visible := `[...document.querySelectorAll('.tile')].filter((tile) => tile.checkVisibility()).map((tile) => tile.querySelector('.tile-name').textContent)`
	first := func(name string) string {
		return fmt.Sprintf(`document.querySelector('#page-now').textContent.startsWith('1 /') && %s.includes(%q)`, visible, name)
	}
	for _, name := range speakers {
		bob.until("a speaker on the first page", first(name))
	}
	number := get[int](bob, `Number(document.querySelector('#page-now').textContent.split('/')[1])`)
	require.Greater(t, number, 1)
	seen, later := map[string]bool{}, ""
	for i := range number {
		if i > 0 {
			bob.press(kb.ArrowRight)
		}
		bob.until("the page", fmt.Sprintf(`document.querySelector('#page-now').textContent === '%d / %d'`, i+1, number))
		now := slices.DeleteFunc(get[[]string](bob, visible), func(name string) bool { return name == "Bob (you)" })
		bob.seesAll(now)
		for _, name := range now {
			seen[name] = true
			if i > 0 && slices.Contains(silent, name) {
				later = name
			}
		}
	}
	require.Len(t, seen, 9, "each of the others is on some page")
	require.NotEmpty(t, later)
	for range number - 1 {
		bob.press(kb.ArrowLeft)
	}
	tab.do(fmt.Sprintf(`await guests.get(%q).localParticipant.setMicrophoneEnabled(true)`, later))
	bob.until("who begins to speak on the first page", first(later))

	host.click("#people-toggle")
	host.acts("mute-all", "")
	tab.until("those who speak to be muted", fmt.Sprintf(`%s.every((name) => guests.get(name).localParticipant.getTrackPublication('microphone').isMuted)`, namesOf(append(speakers, later))))
	for _, p := range pages {
		p.until("the mark of each, and nobody to speak", `[...document.querySelectorAll('.tile')].every((tile) => !tile.querySelector('.muted-mark').hasAttribute('hidden')) && !document.querySelector('.tile.speaking')`)
	}

	identity := get[string](fay, `parlor.room.localParticipant.identity`)
	host.acts("more", identity)
	host.acts("remove", identity)
	host.acts("remove", identity)
	fay.until("to be removed", `parlor.screen === 'ended' && document.querySelector('#ended').dataset.code === 'removed'`)
	delete(pages, "Fay")
	counts(9)
	for _, p := range pages {
		require.False(t, get[bool](p, `Boolean(`+tile("Fay")+`) || [...document.querySelectorAll('.people-name')].some((node) => node.textContent === 'Fay')`))
	}
	host.click(`[data-close="people"]`)
	host.seesAll(without("Guest hana", "Fay"))
	ann.seesAll(without("Ann", "Fay"))
}
