package browser_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// quoted is the text as JavaScript.
func quoted(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		panic(err) // a string is always JSON
	}
	return string(b)
}

// testTogether has three people in a call write privately, send files, caption, and show
// and hear each other as they like; and one of them writes to attack the others.
func testTogether(t *testing.T, host, ann, late *page) {
	attack := strings.Join(hostile, " ")
	identity := get[string](ann, `parlor.room.localParticipant.identity`)
	messages := `[...document.querySelectorAll('#chat-log .chat-text')].map((node) => node.textContent)`

	ann.loadAxe()
	host.loadAxe()
	pick := func(content string) {
		ann.do(fmt.Sprintf(`const input = document.querySelector('#chat-file'); const list = new DataTransfer();
			list.items.add(new File([%s], %s, { type: 'text/html' })); input.files = list.files; input.dispatchEvent(new Event('change'))`, content, quoted("../"+attack+".html")))
	}
	t.Run("private messages", func(t *testing.T) {
		ann.click("#chat-toggle")
		ann.until("the others to choose from", `document.querySelectorAll('#chat-to option').length === 3`)
		ann.do(`const to = document.querySelector('#chat-to'); to.value = 'hana'; to.dispatchEvent(new Event('change'))`)
		require.Equal(t, "Message Guest hana alone", get[string](ann, `document.querySelector('#chat-text').placeholder`))
		ann.do(fmt.Sprintf(`document.querySelector('#chat-text').value = %s; document.querySelector('#chat-form').requestSubmit()`, quoted(attack)))
		host.until("the private message", messages+`.length === 1`)
		require.Equal(t, attack, get[string](host, messages+`[0]`))
		require.Equal(t, "only to you", get[string](host, `document.querySelector('.chat-private').textContent`))
		pick(`new Uint8Array(600_000)`)
		host.until("the private file", `document.querySelector('.chat-file button')`)
		require.Equal(t, 1, get[int](host, `document.querySelectorAll('.chat-head').length`), "it is as private as the message before")
		ann.accessible("chat")
		ann.do(`const to = document.querySelector('#chat-to'); to.value = ''; to.dispatchEvent(new Event('change'))`)
		ann.write("#chat-text", "to all\r")
		late.until("the message to all", messages+`.includes('to all')`)
		require.Equal(t, []string{"to all"}, get[[]string](late, messages), "what was for one other is not here")
	})
	t.Run("files", func(t *testing.T) {
		pick(`'<script>window.hacked=1</script>'`)
		late.do(`URL.createObjectURL = (blob) => { window.saved = blob; return '#'; };
			HTMLAnchorElement.prototype.click = function () { window.savedAs = this.download; }`)
		late.until("the file", `document.querySelector('.chat-file button')`)
		late.do(`document.querySelector('.chat-file button').click()`)
		require.Equal(t, []string{"application/octet-stream", "<script>window.hacked=1</script>"}, get[[]string](late, `[window.saved.type, await window.saved.text()]`))
		name := get[string](late, `window.savedAs`)
		require.True(t, strings.HasSuffix(name, ".html"), name)
		require.NotRegexp(t, `[/\\:*?"<>|\x{202e}\x{2066}]`, name)
		minutes := filepath.Join(t.TempDir(), "minutes.txt")
		require.NoError(t, os.WriteFile(minutes, []byte("all agreed"), 0o600))
		ann.picks("#chat-attach", minutes)
		late.until("the file that was chosen", `[...document.querySelectorAll('.chat-file')].at(-1).querySelector('.file-name').textContent === 'minutes.txt' &&
			[...document.querySelectorAll('.chat-file')].at(-1).querySelector('button')`)
		late.do(`[...document.querySelectorAll('.chat-file button')].at(-1).click()`)
		require.Equal(t, []string{"minutes.txt", "all agreed"}, get[[]string](late, `[window.savedAs, await window.saved.text()]`))
		ann.until("a word of what was sent", messages+`.at(-1).includes('minutes.txt')`)
		pick(`new Uint8Array(26 * 1024 * 1024)`)
		ann.until("a word that it is too large", `document.querySelector('.toast[data-code="file-failed"]')`)
		ann.do(`const stream = await parlor.room.localParticipant.streamBytes({ topic: 'lk.chat', name: 'large', totalSize: 30_000_000 }); await stream.write(new Uint8Array(10)); await stream.close()`)
		late.until("a large one to be refused", `[...document.querySelectorAll('.chat-file')].some((node) => /at most/.test(node.textContent) && !node.querySelector('button'))`)
		ann.click(`[data-close="chat"]`)
	})
	t.Run("captions", func(t *testing.T) {
		ann.do(fmt.Sprintf(`await parlor.room.localParticipant.sendText(%s, { topic: 'lk.transcription', attributes: { 'lk.segment_id': 's', 'lk.transcribed_track_id': 'TR_other' } })`, quoted(attack)))
		late.until("the caption", `document.querySelector('#captions p')`)
		require.Contains(t, get[string](late, `document.querySelector('#captions p').textContent`), "<img src=x")
		require.Equal(t, identity, get[string](late, `document.querySelector('#captions p').dataset.identity`), "it is the sender's own word")
		late.do(`document.querySelector('[data-preference="captions"]').click()`)
		require.False(t, get[bool](late, `document.querySelector('#captions').checkVisibility()`))
	})
	t.Run("streams that attack", func(t *testing.T) {
		file := func(name, condition string) string {
			return fmt.Sprintf(`[...document.querySelectorAll('.chat-file')].some((node) => node.querySelector('.file-name').textContent === %q && %s)`, name, condition)
		}
		const saved, tooMany = `node.querySelector('button')`, `/Too many/.test(node.textContent)`
		send := func(p *page, name, content string) {
			p.do(fmt.Sprintf(`const stream = await parlor.room.localParticipant.streamBytes({ topic: 'lk.chat', name: %q });
				for (const part of %s) await stream.write(part);
				await stream.close()`, name, content))
		}
		// Files that never end count only against their sender, and only as long as something
		// comes.
		ann.do(`window.endless = [];
			for (const name of ['1', '2', '3', '4', '5', '6', '7', '8', '9']) {
				const stream = await parlor.room.localParticipant.streamBytes({ topic: 'lk.chat', name });
				await stream.write(new Uint8Array(10));
				window.endless.push(stream);
			}`)
		late.until("what one sends too many of to be refused", file("9", tooMany)+` && `+file("3", tooMany)+` && !`+file("2", tooMany))
		send(host, "another's", `[new Uint8Array(10)]`)
		late.until("another's file", file("another's", saved))
		ann.do(`for (const stream of window.endless) await stream.close()`)
		late.until("those that end at last", file("1", saved)+` && `+file("2", saved))
		late.do(`const real = window.setTimeout; window.realTimeout = real;
			window.setTimeout = (call, wait, ...rest) => real(call, wait === 30_000 ? 1 : wait, ...rest)`)
		host.do(`const stream = await parlor.room.localParticipant.streamBytes({ topic: 'lk.chat', name: 'silent' })`)
		late.until("a silent one to be given up", file("silent", `/not arrive whole/.test(node.textContent)`))
		late.do(`window.setTimeout = window.realTimeout`)

		// A part may come in a packet much larger than itself.
		late.do(`window.parts = []; window.Blob = class extends Blob { constructor(parts, options) { super(parts, options); window.parts.push(parts.length); } }`)
		send(ann, "tiny", `Array.from({ length: 500 }, (_, i) => new Uint8Array([i]))`)
		late.until("the file of tiny parts", file("tiny", saved))
		send(ann, "blocks", `[new Uint8Array(600_000).map((_, i) => i % 251)]`)
		late.until("the file of several blocks", file("blocks", saved))
		require.Equal(t, []int{1, 3}, get[[]int](late, `window.parts`), "what is kept of a file does not grow with the number of its parts")
		late.do(`[...document.querySelectorAll('.chat-file')].find((node) => node.textContent.includes('blocks')).querySelector('button').click()`)
		require.True(t, get[bool](late, `new Uint8Array(await window.saved.arrayBuffer()).every((byte, i) => byte === i % 251) && window.saved.size === 600_000`))

		// All of a stream is read, also when no more of it is wanted, so that nothing waits in
		// memory.
		ann.do(`const open = async (options) => { const stream = await parlor.room.localParticipant.streamText(options);
				for (let i = 0; i < 30; i++) await stream.write('x'.repeat(15_000));
			};
			await open({ topic: 'lk.transcription' }); await open({ topic: 'lk.chat' }); await open({ topic: 'lk.chat', totalSize: 1 });
			await open({ topic: 'lk.chat', totalSize: 10_000_000 })`)
		late.until("all of every stream to be read", `await (async () => {
			const open = [...parlor.room.incomingDataStreamManager.textStreamControllers.values()];
			return open.length === 4 && open.every(({ controller }) => controller.desiredSize >= 0);
		})()`)
		late.until("a word of each", messages+`.filter((text) => text === '(a message too long to show)').length === 3`)

		// A stream is its sender's: another under the same id adds nothing to it, and does not
		// end it or keep it out.
		begin := func(p *page, kind, options, part string) {
			p.do(fmt.Sprintf(`window.writer = await parlor.room.localParticipant.%s(%s); await window.writer.write(%s)`, kind, options, part))
		}
		goOn := func(p *page, part string) {
			p.do(fmt.Sprintf(`await window.writer.write(%s); await window.writer.close()`, part))
		}
		by := func(p *page) string {
			return fmt.Sprintf(`[...document.querySelectorAll('#chat-log li')].filter((node) => node.dataset.identity === %q).map((node) => node.querySelector('.chat-text').textContent)`, get[string](p, `parlor.room.localParticipant.identity`))
		}
		opened := func(kind, id string) string {
			return fmt.Sprintf(`[...parlor.room.incomingDataStreamManager.%sStreamControllers.keys()].some((key) => key.includes(%q))`, kind, id)
		}
		const words = `{ topic: 'lk.chat', streamId: 'hers' }`
		begin(ann, "streamText", words, `'Meet '`)
		late.until("the beginning", opened("text", "hers"))
		begin(host, "streamText", words, `'Pay '`)
		goOn(host, `'Eve'`)
		late.until("the host's own", by(host)+`.includes('Pay Eve')`)
		goOn(ann, `'at eight'`)
		late.until("hers, whole and alone", by(ann)+`.includes('Meet at eight')`)
		const papers = `{ topic: 'lk.chat', name: '%s', streamId: 'papers' }`
		begin(ann, "streamBytes", fmt.Sprintf(papers, "hers"), `new Uint8Array([1, 2])`)
		late.until("the beginning", opened("byte", "papers"))
		begin(host, "streamBytes", fmt.Sprintf(papers, "another"), `new Uint8Array([66])`)
		goOn(host, `new Uint8Array([66])`)
		late.until("the host's own", file("another", saved))
		goOn(ann, `new Uint8Array([3])`)
		late.until("hers", file("hers", saved))
		late.do(`[...document.querySelectorAll('.chat-file')].find((node) => node.querySelector('.file-name').textContent === 'hers').querySelector('button').click()`)
		require.Equal(t, []int{1, 2, 3}, get[[]int](late, `[...new Uint8Array(await window.saved.arrayBuffer())]`))

		// The time of a message is its sender's word.
		ann.do(`const { engine } = parlor.room, send = engine.sendDataPacket;
			engine.sendDataPacket = function (packet, ...rest) {
				if (packet.value.case === 'streamHeader') packet.value.value.timestamp = 9_000_000_000_000_000n;
				return send.call(this, packet, ...rest);
			};
			try {
				await parlor.room.localParticipant.sendText('from the end of time', { topic: 'lk.chat' });
				await (await parlor.room.localParticipant.streamBytes({ topic: 'lk.chat', name: 'end' })).close();
			} finally {
				engine.sendDataPacket = send;
			}`)
		late.until("the message and the file", messages+`.includes('from the end of time') && `+file("end", saved))
	})
	t.Run("loudness and numbers", func(t *testing.T) {
		late.click("#people-toggle")
		late.acts("more", identity)
		late.do(`const slider = document.querySelector('#people [data-action="volume"]'); slider.value = 30; slider.dispatchEvent(new Event('input', { bubbles: true }))`)
		require.InDelta(t, 0.3, get[float64](late, fmt.Sprintf(`parlor.room.remoteParticipants.get(%q).getVolume()`, identity)), 0.001)
		late.acts("details", identity)
		late.until("the numbers of the microphone", `/Microphone: .*kbit\/s.*lost.*jitter/.test(document.querySelector('.details')?.textContent)`)
		late.click(`[data-close="people"]`)
		require.Regexp(t, `^\d+:\d\d$`, get[string](late, `document.querySelector('#clock').textContent`))
		ann.do(`document.querySelector('[data-preference="noise"]').click()`)
		ann.until("the noise to pass", `parlor.room.localParticipant.getTrackPublication('microphone').track.mediaStreamTrack.getConstraints().noiseSuppression === false`)
	})
	t.Run("a picture behind oneself", func(t *testing.T) {
		used := `performance.getEntriesByType('resource').some((one) => one.name.includes('/background-3'))`
		require.False(t, get[bool](ann, used), "nothing is loaded before it is wanted")
		ann.do(`const canvas = document.createElement('canvas'); canvas.width = 64; canvas.height = 36; const drawing = canvas.getContext('2d');
			drawing.fillStyle = 'red'; drawing.fillRect(0, 0, 64, 36); localStorage.setItem('parlor.background', canvas.toDataURL()); document.dispatchEvent(new Event('background'))`)
		ann.click("#cam")
		ann.click(`[popovertarget="cam-menu"]`)
		choose := `const select = document.querySelector('#cam-menu [data-background]'); select.value = '%s'; select.dispatchEvent(new Event('change'))`
		ann.until("the camera", `parlor.room.localParticipant.isCameraEnabled`)
		ann.accessible("the camera's menu")
		ann.do(fmt.Sprintf(choose, "picture"))
		corner := `(() => { const video = ` + tile("Ann") + `.querySelector('video'); const drawing = new OffscreenCanvas(1, 1).getContext('2d');
			drawing.drawImage(video, video.videoWidth / 20, video.videoHeight / 2, 2, 2, 0, 0, 1, 1); return [...drawing.getImageData(0, 0, 1, 1).data]; })()`
		host.until("red where it is green", corner+`[0] > 150 && `+corner+`[1] < 100`)
		require.True(t, get[bool](ann, used))
		ann.do(fmt.Sprintf(choose, "none"))
		host.until("green again", corner+`[0] < 100 && `+corner+`[1] > 80`)

		// What was chosen last applies, however fast the choices come.
		ann.do(fmt.Sprintf(choose, "blur") + `; for (const kind of ['none', 'slight', 'none', 'picture']) { select.value = kind; select.dispatchEvent(new Event('change')); }`)
		host.until("red again", corner+`[0] > 150 && `+corner+`[1] < 100`)
		camera := `parlor.room.localParticipant.getTrackPublication('camera')`
		ann.do(`window.treated = ` + camera + `.track.getProcessor()`)
		choice := `JSON.parse(localStorage.getItem('parlor')).background`
		broken := `localStorage.setItem('parlor.background', 'data:image/png;base64,bm90IGEgcGljdHVyZQ==')`
		ann.do(broken + `; ` + fmt.Sprintf(choose, "picture"))
		ann.until("a word about the picture that is none", `document.querySelector('.toast[data-code="background-failed"]')`)
		require.True(t, get[bool](ann, camera+`.track.getProcessor() === treated && treated.source.length > 100 && localStorage.getItem('parlor.background') === treated.source`), "it keeps the choice before")
		require.True(t, get[bool](host, corner+`[0] > 150`), "and the room is not shown")

		// A camera whose background fails as it opens is not sent, and works the next time.
		ann.do(`await parlor.room.localParticipant.unpublishTrack(` + camera + `.track)`)
		ann.do(broken + `; const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
			navigator.mediaDevices.getUserMedia = async (wanted) => { const stream = await open(wanted); window.opened = stream.getTracks(); return stream; }`)
		ann.click("#cam")
		ann.until("the camera closed again", `window.opened?.every((track) => track.readyState === 'ended') && document.querySelector('#cam').getAttribute('aria-busy') === 'false'`)
		require.False(t, get[bool](ann, `Boolean(`+camera+`)`), "nothing is sent")
		require.Equal(t, "none", get[string](ann, choice))
		ann.click("#cam")
		host.until("the room, once it is wanted", corner+`[0] < 100 && `+corner+`[1] > 80`)

		// Frames that cannot be treated turn the camera off.
		ann.do(fmt.Sprintf(choose, "blur"))
		ann.until("the blur", camera+`.track.getProcessor()?.kind === 'blur'`)
		ann.do(`Twilio.VideoProcessors.GaussianBlurBackgroundProcessor.prototype.processFrame = async () => { throw new Error('broken'); }`)
		ann.until("the camera off, and a word about it", camera+`.isMuted && document.querySelector('.toast[data-code="background-lost"]')`)
		ann.do(fmt.Sprintf(choose, "none"))
		ann.until("no background", `!`+camera+`.track.getProcessor()`)
	})
	t.Run("a small window", func(*testing.T) {
		host.click("#float")
		small := `window.documentPictureInPicture.window?.document`
		host.until("the others in the small window", small+`?.querySelectorAll('#stage .tile').length === 3 && document.querySelector('#unfloat').checkVisibility()`)
		before := get[bool](host, `parlor.room.localParticipant.isMicrophoneEnabled`)
		host.do(small + `.querySelector('[data-for="mic"]').click()`)
		host.until("the microphone to change", fmt.Sprintf(`parlor.room.localParticipant.isMicrophoneEnabled === %v && %s.querySelector('[data-for="mic"]').getAttribute('aria-pressed') === '%v'`, !before, small, !before))
		host.do(`document.querySelector('#hear').hidden = false`)
		host.until("what is said in the page", small+`.querySelector('[data-for="hear"]').checkVisibility() && !`+small+`.querySelector('[data-for="recording"]').checkVisibility() && document.querySelector('#float').getAttribute('aria-pressed') === 'true'`)
		host.do(`document.querySelector('#hear').hidden = true`)
		host.accessible("the page without its stage")
		host.click("#unfloat")
		host.until("the stage back", `document.querySelectorAll('#call #stage .tile').length === 3 && !document.querySelector('#floating').checkVisibility()`)
		host.do(fmt.Sprintf(`await parlor.room.localParticipant.setMicrophoneEnabled(%v)`, before))
	})
	t.Run("large for all, and another name", func(t *testing.T) {
		host.acts("spotlight", identity)
		late.until("Ann to be large", tile("Ann")+`.classList.contains('large')`)
		host.acts("spotlight-end", identity)
		late.until("nobody to be large", `!document.querySelector('.tile.large')`)
		host.acts("rename", identity)
		host.accessible("people, and a question")
		host.do(fmt.Sprintf(`document.querySelector('#ask-text').value = %s`, quoted(hostile[0])))
		host.click("#ask [value=ok]")
		late.until("the name", tile(hostile[0]))
		host.acts("rename", identity)
		host.do(`document.querySelector('#ask-text').value = 'Ann'`)
		host.click("#ask [value=ok]")
		late.until("the name of before", tile("Ann"))
	})
	for _, p := range []*page{host, ann, late} {
		require.Empty(t, get[[]string](p, `[...document.querySelectorAll('#call img, #call iframe, #call script, #call b:not(.chat-head b), #call svg[onload]')].map((node) => node.outerHTML).concat(window.hacked ? ['hacked'] : [])`), "nothing of what strangers wrote is markup")
	}
}
