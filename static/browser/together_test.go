package browser_test

import (
	"encoding/json"
	"fmt"
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
