package browser_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
)

// mode is one of livekit-client's two ways of connecting.
type mode struct {
	name   string
	single string
}

var modes = []mode{{"one peer connection", "1"}, {"two peer connections", "0"}}

// fixture is shared by the tests, because building the server and starting a browser take
// longer than most of them.
type fixture struct {
	server  *server
	browser *browser
}

func TestPage(t *testing.T) {
	if testing.Short() {
		t.Skip("drives a browser")
	}
	findChromium(t)
	// Of the three cameras the second has a picture that no encoder takes.
	cameras := chromedp.Flag("use-fake-device-for-media-stream", "device-count=3")
	f := &fixture{startServer(t, buildServer(t)), startBrowser(t, append(fakeDevices(t), cameras)...)}

	t.Run("reference", f.testReference)
	t.Run("dashboard", f.testDashboard)
	t.Run("deeds", f.testDeeds)
	t.Run("deeds on the server", f.testServerDeeds)
	t.Run("dead letters", f.testDeadLetters)
	t.Run("replica", f.testReplica)
	t.Run("lobby", f.testLobby)
	t.Run("who is in the room already", f.testInside)
	t.Run("recorded", f.testRecorded)
	t.Run("joining", f.testJoining)
	t.Run("layout", f.testLayout)
	t.Run("refused", f.testRefused)
	t.Run("invitation only", f.testInvitationOnly)
	t.Run("invitation", f.testInvitation)
	t.Run("watching only", f.testWatchOnly)
	t.Run("joined without a click", f.testJoinedWithoutAClick)
	t.Run("lost events", f.testLostEvents)
	t.Run("nothing is covered", f.testNothingIsCovered)
	t.Run("held", f.testHeld)
	t.Run("patience", f.testPatience)
	t.Run("names and headings", f.testNamesAndHeadings)
	t.Run("somebody runs the room", f.testModeration)
	t.Run("somebody is made host", f.testMakeHost)
	t.Run("hosting", f.testHosting)
	t.Run("devices", f.testDevices)
	t.Run("kept chat", f.testKeptChat)
	t.Run("breakout rooms", f.testBreakouts)
	t.Run("more people than fit", f.testPagesOfPeople)
	t.Run("ten people", f.testTen)
	t.Run("encrypted end to end", f.testEncrypted)
	t.Run("without devices", f.testWithoutDevices)
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Run("call", func(t *testing.T) { f.testCall(t, m) })
			t.Run("moved", func(t *testing.T) { f.testMoved(t, m) })
			t.Run("ended by others", func(t *testing.T) { f.testEnded(t, m) })
			t.Run("server killed", func(t *testing.T) { f.testServerKilled(t, m) })
		})
	}
}

// A person without camera and microphone is told so, and can watch.
func (f *fixture) testWithoutDevices(t *testing.T) {
	bare := startBrowser(t, chromedp.Flag("use-fake-ui-for-media-stream", true))
	p := bare.open(t, "Ann", f.server.page("room", "bare", "name", "Ann"))
	p.until("a word about the missing devices", `document.querySelector('[data-code~="camera-missing"][data-code~="microphone-missing"]')`)
	p.click("#join")
	p.until("the call all the same", `parlor.screen === 'call'`)
	p.click("#cam")
	p.until("a word about the missing camera", `document.querySelector('.toast[data-code="camera-missing"]')`)
}

// elsewhere is the fixture with another browser, as on another machine. Chromium's one fake
// camera gives no more pictures if two pages release and open it at the same moment, as
// both do when their server comes back.
func (f *fixture) elsewhere(t *testing.T) *fixture {
	t.Helper()
	return &fixture{f.server, startBrowser(t, fakeDevices(t)...)}
}

// join opens the page and joins, with camera and microphone unless the query says
// otherwise. The picture is small, so that two cores can encode for several people.
func (f *fixture) join(t *testing.T, m mode, room, name string, query ...string) *page {
	t.Helper()
	p := f.browser.open(t, name, f.server.page(append([]string{
		"room", room, "name", name, "single", m.single, "resolution", "180", "simulcast", "0",
	}, query...)...))
	p.until("the lobby", fmt.Sprintf(`document.querySelector('#name').value === %q`, name))
	p.click("#join")
	p.until("the call", `parlor.screen === 'call' && parlor.room.state === 'connected'`)
	return p
}

// tile is a selector for a person's tile, by the name on it.
func tile(name string) string {
	return fmt.Sprintf(`[...document.querySelectorAll('.tile')].find((tile) => tile.querySelector('.tile-name').textContent === %q)`, name)
}

// sees waits until frames of the person arrive, are decoded, and change on the screen.
func (p *page) sees(name string) {
	p.t.Helper()
	p.until("the picture of "+name, tile(name)+`?.classList.contains('has-picture')`)
	p.until("decoded frames of "+name, framesDecoded(name)+` > 0`)
	before := get[int](p, framesDecoded(name))
	p.until("more decoded frames of "+name, fmt.Sprintf(`%s > %d`, framesDecoded(name), before+5))
	first := get[string](p, sample(name))
	p.until("a moving picture of "+name, fmt.Sprintf(`%s !== %q`, sample(name), first))
}

// framesDecoded is the receiver's statistic for the track in the tile.
func framesDecoded(name string) string {
	return fmt.Sprintf(`await (async () => {
		const shown = (%s)?.querySelector('video').srcObject?.getVideoTracks()[0];
		for (const participant of parlor.room.remoteParticipants.values()) {
			for (const { videoTrack } of participant.videoTrackPublications.values()) {
				if (!videoTrack || videoTrack.mediaStreamTrack !== shown) continue;
				for (const report of (await videoTrack.receiver.getStats()).values()) {
					if (report.type === 'inbound-rtp') return report.framesDecoded ?? 0;
				}
			}
		}
		return 0;
	})()`, tile(name))
}

// sample is a small copy of the present picture of the tile's video.
func sample(name string) string {
	return fmt.Sprintf(`await (async () => {
		const canvas = document.createElement('canvas');
		canvas.width = 32; canvas.height = 18;
		canvas.getContext('2d').drawImage((%s).querySelector('video'), 0, 0, 32, 18);
		return canvas.toDataURL();
	})()`, tile(name))
}

// hears waits until audio of the person arrives, is not silent, and plays.
func (p *page) hears(name string) {
	p.t.Helper()
	energy := fmt.Sprintf(`await (async () => {
		for (const participant of parlor.room.remoteParticipants.values()) {
			if (participant.name !== %q) continue;
			const track = participant.getTrackPublication('microphone')?.audioTrack;
			for (const report of (await track?.receiver.getStats())?.values() ?? []) {
				if (report.type === 'inbound-rtp') return report.totalAudioEnergy ?? 0;
			}
		}
		return 0;
	})()`, name)
	p.until("the sound of "+name, energy+` > 0`)
	before := get[float64](p, energy)
	p.until("more sound of "+name, fmt.Sprintf(`%s > %g`, energy, before*1.05))
	p.until("the sound to play", `[...document.querySelectorAll('#audio audio')].some((audio) => !audio.paused && audio.currentTime > 0)`)
}

func (f *fixture) testCall(t *testing.T, m mode) {
	room := "call-" + m.single
	ann := f.join(t, m, room, "Ann")
	bob := f.join(t, m, room, "Bob")

	t.Run("both see and hear each other", func(t *testing.T) {
		ann.sees("Bob")
		bob.sees("Ann")
		ann.hears("Bob")
		bob.hears("Ann")
		ann.until("two people", `document.querySelector('#count').textContent === '2'`)
		require.Equal(t, m.single == "0", get[bool](ann, `Boolean(parlor.room.engine.pcManager.subscriber)`), "the mode is the one asked for")
	})
	t.Run("every control has a name", ann.namesEverything)
	t.Run("who speaks is marked", func(t *testing.T) {
		bob.until("the mark at Ann", tile("Ann")+`.classList.contains('speaking')`)
		bob.until("a connection quality", tile("Ann")+`.querySelector('.quality').dataset.quality === 'excellent'`)
	})
	t.Run("mute and unmute", func(t *testing.T) { testMuting(ann, bob) })
	t.Run("chat both ways", func(t *testing.T) { testChat(t, ann, bob) })
	t.Run("screen share", func(t *testing.T) { testScreenShare(ann, bob) })
	t.Run("late joiner sees and hears what is there", func(t *testing.T) {
		cem := f.join(t, m, room, "Cem", "audio", "0", "video", "0")
		cem.sees("Ann")
		cem.sees("Bob")
		cem.hears("Ann")
		ann.until("three people", `document.querySelector('#count').textContent === '3'`)
		cem.click("#leave")
		ann.until("two people again", `document.querySelector('#count').textContent === '2'`)
	})
	t.Run("leave", func(t *testing.T) {
		bob.do(`(await import('/static/js/notices.js')).toast('something about the call')`)
		bob.click("#leave")
		bob.until("the end", `parlor.screen === 'ended' && document.querySelector('#ended').dataset.code === 'left'`)
		ann.until("nobody else", `document.querySelector('#count').textContent === '1' && !document.querySelector('#alone').hidden`)
		require.True(t, get[bool](bob, `parlor.room.localParticipant.trackPublications.size === 0`), "camera and microphone are let go")
		require.Zero(t, get[int](bob, `document.querySelectorAll('.tile, #audio audio, .toast').length`), "nothing is left of the call")
	})
	t.Run("come back", func(*testing.T) {
		bob.click("#rejoin")
		bob.until("the call again", `parlor.screen === 'call'`)
		bob.sees("Ann")
		ann.sees("Bob")
	})
	t.Run("nothing is asked of anybody else", func(t *testing.T) {
		foreign := get[[]string](ann, `performance.getEntriesByType('resource').map((entry) => entry.name).filter((name) => new URL(name).host !== location.host)`)
		require.Empty(t, foreign)
	})
}

func testMuting(ann, bob *page) {
	ann.press("m")
	bob.until("Ann's microphone to be off", `!`+tile("Ann")+`.querySelector('.muted-mark').hasAttribute('hidden')`)
	ann.click("#mic")
	bob.until("Ann's microphone to be on", tile("Ann")+`.querySelector('.muted-mark').hasAttribute('hidden')`)
	bob.hears("Ann")

	ann.click("#cam")
	bob.until("Ann's picture to go", `!`+tile("Ann")+`.classList.contains('has-picture')`)
	ann.press("v")
	bob.sees("Ann")
}

func testChat(t *testing.T, ann, bob *page) {
	const hostile = `<img src=x onerror="document.title='owned'"> & https://example.org/?a=1.`
	bob.click("#chat-toggle")
	bob.write("#chat-text", hostile+"\r")
	ann.until("a mark of the unread message", `document.querySelector('#unread').textContent === '1'`)
	ann.click("#chat-toggle")
	ann.until("the message", `document.querySelector('#chat-log li')`)
	require.Equal(t, hostile, get[string](ann, `document.querySelector('#chat-log .chat-text').textContent`))
	require.Equal(t, "Bob", get[string](ann, `document.querySelector('#chat-log b').textContent`))
	require.Equal(t, []string{"https://example.org/?a=1"}, get[[]string](ann, `[...document.querySelectorAll('#chat-log a, #chat-log img')].map((node) => node.href)`), "one link, and no markup of others")

	ann.write("#chat-text", "Hello Bob\r")
	bob.until("the answer", `[...document.querySelectorAll('#chat-log .chat-text')].at(-1)?.textContent === 'Hello Bob'`)

	// Apps that still send chat packets are supported too.
	ann.do(`await parlor.room.localParticipant.sendChatMessage('an old packet')`)
	bob.until("the packet", `[...document.querySelectorAll('#chat-log .chat-text')].at(-1)?.textContent === 'an old packet'`)
	for _, p := range []*page{ann, bob} {
		p.click(`[data-close="chat"]`)
	}
}

func testScreenShare(ann, bob *page) {
	ann.click("#share")
	ann.until("the reminder", `!document.querySelector('#sharing').hidden`)
	bob.sees("Ann's screen")
	bob.until("the screen to be the large one", tile("Ann's screen")+`.classList.contains('large')`)
	bob.sees("Ann") // and her camera beside it
	ann.click("#sharing-stop")
	bob.until("the screen to go", `!`+tile("Ann's screen"))
}

func (f *fixture) testEnded(t *testing.T, m mode) {
	room := "ended-" + m.single
	ended := func(p *page, code string) {
		t.Helper()
		p.until("the end: "+code, fmt.Sprintf(`parlor.screen === 'ended' && document.querySelector('#ended').dataset.code === %q`, code))
		require.NotEmpty(t, get[string](p, `document.querySelector('#ended-title').textContent`))
	}
	first := f.join(t, m, room, "Ann", "identity", "ann", "video", "0")
	second := f.join(t, m, room, "Ann", "identity", "ann", "video", "0")
	ended(first, "duplicate-identity")

	service, ctx := f.server.rooms(room, "")
	_, err := service.RemoveParticipant(ctx, &livekit.RoomParticipantIdentity{Room: room, Identity: "ann"})
	require.NoError(t, err)
	ended(second, "removed")

	second.click("#rejoin")
	second.until("the call again", `parlor.screen === 'call'`)
	_, err = service.DeleteRoom(ctx, &livekit.DeleteRoomRequest{Room: room})
	require.NoError(t, err)
	ended(second, "room-deleted")
}

// A person who is moved sees the name of the new room.
func (f *fixture) testMoved(t *testing.T, m mode) {
	from, to := "from-"+m.single, "to-"+m.single
	ann := f.join(t, m, from, "Ann")
	ann.until("the room's name", fmt.Sprintf(`document.querySelector('#room-name').textContent === %q`, from))
	service, ctx := f.server.rooms(from, to)
	_, err := service.MoveParticipant(ctx, &livekit.MoveParticipantRequest{
		Room: from, Identity: get[string](ann, `parlor.room.localParticipant.identity`), DestinationRoom: to,
	})
	require.NoError(t, err)
	ann.until("the new room's name", fmt.Sprintf(`document.querySelector('#room-name').textContent === %q`, to))
}

func (f *fixture) testServerKilled(t *testing.T, m mode) {
	room := "killed-" + m.single
	ann := f.join(t, m, room, "Ann")
	bob := f.elsewhere(t).join(t, m, room, "Bob")
	bob.sees("Ann")
	service, ctx := f.server.rooms(room, "")
	before, err := service.ListRooms(ctx, &livekit.ListRoomsRequest{Names: []string{room}})
	require.NoError(t, err)
	require.Len(t, before.Rooms, 1)

	late := f.browser.open(t, "Cem", f.server.page("room", room, "name", "Cem", "single", m.single, "audio", "0", "video", "0"))
	late.until("the lobby", `!document.querySelector('#join').disabled && document.querySelector('#name').value === 'Cem'`)

	f.server.stop(syscall.SIGKILL)
	late.click("#join")
	late.until("a word that the server is gone", `parlor.problem?.code === 'server-gone' && document.querySelector('#lobby-problem').checkVisibility()`)
	for _, p := range []*page{ann, bob} {
		p.until("the banner", `!document.querySelector('#banner').hidden && /Reconnecting/.test(document.querySelector('#banner').textContent)`)
	}
	f.server.start()
	for _, p := range []*page{ann, bob} {
		p.until("the call again", `document.querySelector('#banner').hidden && parlor.room.state === 'connected' && parlor.screen === 'call'`)
	}
	bob.sees("Ann")
	ann.sees("Bob")
	ann.hears("Bob")
	after, err := service.ListRooms(ctx, &livekit.ListRoomsRequest{Names: []string{room}})
	require.NoError(t, err)
	require.Len(t, after.Rooms, 1)
	require.Equal(t, before.Rooms[0].Sid, after.Rooms[0].Sid, "it is the same room")
}

func (f *fixture) testLobby(t *testing.T) {
	p := f.browser.open(t, "Dana", f.server.page("room", "lobby"))
	p.until("a picture of oneself", `document.querySelector('#preview-video').videoWidth > 0`)
	p.until("a level of the microphone", `Number(document.querySelector('#lobby-meter').getAttribute('aria-valuenow')) > 5`)
	p.until("the lists of devices", `!document.querySelector('#lobby [data-device="videoinput"]').disabled`)

	p.namesEverything(t)
	for _, size := range [][2]int64{{390, 844}, {740, 360}, {1280, 720}} {
		require.NoError(t, chromedp.Do(p.ctx, chromedp.EmulateViewport(size[0], size[1])))
		p.until(fmt.Sprint("the way in to be in sight at ", size), `document.querySelector('#join').getBoundingClientRect().bottom <= innerHeight && document.documentElement.scrollWidth <= innerWidth`)
	}

	p.click("#lobby-cam")
	p.until("the camera to be off", `document.querySelector('#preview-video').hidden && parlor.screen === 'lobby'`)
	p.click("#lobby-cam")
	p.until("the camera to be on", `!document.querySelector('#preview-video').hidden`)

	p.write("#name", "Dana\r")
	p.until("the call", `parlor.screen === 'call'`)
	p.until("camera and microphone to be sent", `['camera', 'microphone'].every((source) => { const it = parlor.room.localParticipant.getTrackPublication(source); return it && !it.isMuted; })`)
	require.Equal(t, "lobby", get[string](p, `document.querySelector('#room-name').textContent`))

	// The typed values are there again after a reload.
	require.NoError(t, chromedp.Do(p.ctx, chromedp.Reload()))
	p.until("the name of last time", `window.parlor?.screen === 'lobby' && document.querySelector('#name').value === 'Dana'`)
}

// namesEverything fails if a control has no accessible name.
func (p *page) namesEverything(t *testing.T) {
	t.Helper()
	require.Empty(t, get[[]string](p, `[...document.querySelectorAll('button, input, select, textarea, [role=meter]')].filter((node) => node.checkVisibility()
		&& !(node.getAttribute('aria-label') || node.innerText?.trim() || [...(node.labels ?? [])].some((label) => label.textContent.trim()))).map((node) => node.outerHTML.slice(0, 80))`))
}

func (f *fixture) testRefused(t *testing.T) {
	grant := auth.VideoGrant{RoomJoin: true, Room: "refused"}
	for name, c := range map[string]struct{ token, code string }{
		"garbage":    {"abc", "token-bad"},
		"expired":    {f.server.token("x", -time.Hour, grant), "token-expired"},
		"not signed": {f.server.token("x", time.Hour, grant) + "x", "token-bad"},
		"no join":    {f.server.token("x", time.Hour, auth.VideoGrant{Room: "refused"}), "token-no-join"},
	} {
		p := f.browser.open(t, name, f.server.page("token", c.token, "autojoin", "1", "audio", "0", "video", "0"))
		p.until(name+" to be refused", fmt.Sprintf(`parlor.problem?.code === %q && document.querySelector('#lobby-problem').textContent === parlor.problem.text && document.querySelector('#join-status').textContent === ''`, c.code))
	}

	garbage := f.browser.open(t, "no token at all", f.server.page("token", "abc"))
	garbage.until("the form to go", `parlor.problem?.code === 'token-bad' && !document.querySelector('#join').checkVisibility()`)

	service, ctx := f.server.rooms("full", "")
	_, err := service.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: "full", MaxParticipants: 1})
	require.NoError(t, err)
	f.join(t, modes[0], "full", "First", "video", "0")
	p := f.browser.open(t, "Second", f.server.page("room", "full", "name", "Second", "autojoin", "1", "video", "0"))
	p.until("a word that the room is full", `parlor.problem?.code === 'room-full' && document.querySelector('#lobby-problem').textContent === parlor.problem.text`)
	require.True(t, get[bool](p, `parlor.screen === 'lobby' && !document.querySelector('#join').disabled`), "and another try is possible")

	_, err = service.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: "locked"})
	require.NoError(t, err)
	f.server.rest(http.MethodPatch, "/v1/rooms/locked", `{"locked":true}`)
	late := f.browser.open(t, "Late", f.server.page("room", "locked", "name", "Late", "autojoin", "1"))
	late.until("a word that the room is locked", `parlor.problem?.code === 'room-locked' && document.querySelector('#lobby-problem').textContent === parlor.problem.text`)
}

// Outside development a token is required, and the page says so before anyone fills in a
// form.
func (f *fixture) testInvitationOnly(t *testing.T) {
	closed := startServer(t, f.server.binary, "--keys", "key:"+strings.Repeat("s", 32), "--bind", "127.0.0.1")
	p := f.browser.open(t, "Fay", closed.page("room", "closed"))
	p.until("a word about invitations", `parlor.problem?.code === 'token-missing' && !document.querySelector('#lobby-problem').hidden`)
	require.True(t, get[bool](p, `document.querySelector('#join').hidden`))
}

func (f *fixture) testWatchOnly(t *testing.T) {
	ann := f.join(t, modes[0], "watch", "Ann")
	no := false
	token := f.server.token("eve", time.Hour, auth.VideoGrant{RoomJoin: true, Room: "watch", CanPublish: &no, CanPublishData: &no})
	eve := f.browser.open(t, "Eve", f.server.page("token", token, "autojoin", "1"))
	eve.until("the call", `parlor.screen === 'call'`)
	eve.sees("Ann")
	require.True(t, get[bool](eve, `['#mic', '#cam', '#share'].every((id) => document.querySelector(id).disabled) && document.querySelector('#invite').hidden`))
	ann.until("Eve to be counted", `document.querySelector('#count').textContent === '2'`)
	require.Equal(t, 1, get[int](ann, `document.querySelectorAll('.tile').length`), "who only watches takes no place")

	// The permission to speak may come later.
	service, ctx := f.server.rooms("watch", "")
	_, err := service.UpdateParticipant(ctx, &livekit.UpdateParticipantRequest{
		Room: "watch", Identity: "eve", Permission: &livekit.ParticipantPermission{CanSubscribe: true, CanPublish: true, CanPublishData: true},
	})
	require.NoError(t, err)
	eve.until("the buttons", `!document.querySelector('#cam').disabled`)
	eve.click("#cam")
	ann.sees("Guest eve")
}

// Every number of tiles fits every window without overlap. The arithmetic is tested in
// the browser.
func (f *fixture) testLayout(t *testing.T) {
	p := f.browser.open(t, "layout", f.server.page("room", "layout"))
	failures := get[json.RawMessage](p, `import('/static/js/layout.js').then(({ grid, spotlight }) => {
		const failures = [];
		const overlap = (a, b) => a.x < b.x + b.width - 0.01 && b.x < a.x + a.width - 0.01 && a.y < b.y + b.height - 0.01 && b.y < a.y + a.height - 0.01;
		for (const [width, height] of [[1280, 660], [360, 560], [800, 300], [1920, 1000], [320, 400], [600, 600]]) {
			for (let count = 1; count <= 50; count++) {
				for (const [name, boxes] of [['grid', grid(count, { width, height, gap: 6 })], ['spotlight', spotlight(count - 1, { width, height, gap: 6 })]]) {
					const outside = boxes.some((box) => box.x < -0.01 || box.y < -0.01 || box.x + box.width > width + 0.01 || box.y + box.height > height + 0.01 || !(box.width > 20 && box.height > 12));
					const crossing = boxes.some((box, i) => boxes.slice(i + 1).some((other) => overlap(box, other)));
					if (boxes.length !== count || outside || crossing) failures.push([name, count, width, height, boxes.length, outside, crossing]);
				}
			}
		}
		return failures.slice(0, 5);
	})`)
	require.JSONEq(t, `[]`, string(failures), "arrangement, people, width, height, tiles, outside, overlapping")
}
