package browser_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// On a server that hands out no tokens a host comes in by a link, makes one for guests in the
// call, and a guest comes in by that: once, though its page is loaded again. A link that was
// taken back lets nobody in.
func (f *fixture) testInvitation(t *testing.T) {
	key, secret := "key", strings.Repeat("s", 32)
	s := startServer(t, f.server.binary, "--keys", key+":"+secret, "--bind", "127.0.0.1", "--invitations")
	ask := func(method, path, body string) []byte {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://localhost:"+s.port+"/v1/rooms/board/invitations"+path, strings.NewReader(body))
		require.NoError(t, err)
		req.SetBasicAuth(key, secret)
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		answer, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Less(t, res.StatusCode, 300, string(answer))
		return answer
	}
	var hosts struct{ Link string }
	require.NoError(t, json.Unmarshal(ask("POST", "", `{"role":"host"}`), &hosts))

	comes := func(name, link string) *page {
		p := f.browser.open(t, name, link)
		p.until("the lobby, without a room to choose", `document.querySelector('#lobby').checkVisibility() && !document.querySelector('#room').checkVisibility()`)
		p.write("#name", name)
		p.click("#join")
		return p
	}
	host := comes("Hana", hosts.Link)
	host.until("the call", `parlor.screen === 'call' && parlor.room.name === 'board'`)
	host.do(`navigator.clipboard.writeText = async (text) => { window.copied = text; }`)
	host.click("#invite")
	host.until("a link for guests", `window.copied?.includes('#invite=IN_')`)
	link := get[string](host, `window.copied`)
	host.loadAxe()
	host.click("#invite-qr")
	host.until("the same link as a QR code", `document.querySelector('#qr .qr path')?.getAttribute('d').length > 1000 && document.querySelector('#qr-link').textContent === window.copied`)
	host.accessible("the QR code")
	host.click(`[data-close="qr"]`)

	guest := comes("Gus", link)
	guest.until("the call", `parlor.screen === 'call'`)
	host.until("the guest", `[...parlor.room.remoteParticipants.values()].some((p) => p.name === 'Gus')`)
	require.False(t, get[bool](guest, `document.querySelector('#invite').checkVisibility()`), "a guest invites nobody")
	who := get[string](guest, `parlor.room.localParticipant.identity`)
	require.NoError(t, chromedp.Do(guest.ctx, chromedp.Reload())) // which waits for the new document
	guest.until("the lobby again", `window.parlor?.screen === 'lobby' && document.querySelector('#name').value === 'Gus'`)
	guest.click("#join")
	guest.until("the call again", `parlor.screen === 'call'`)
	require.Equal(t, who, get[string](guest, `parlor.room.localParticipant.identity`))

	// The host makes the guest one, who invites others and remains host over a reload of the
	// page, and takes it back.
	host.click("#people-toggle")
	host.acts("more", who)
	host.acts("make-host", who)
	host.acts("make-host", who)
	invites := `document.querySelector('#invite').checkVisibility()`
	guest.until("to invite others", invites)
	guest.do(`navigator.clipboard.writeText = async (text) => { window.copied = text; }`)
	guest.click("#invite")
	guest.until("a link for guests", `window.copied?.includes('#invite=IN_')`)
	require.NoError(t, chromedp.Do(guest.ctx, chromedp.Reload()))
	guest.until("the lobby again", `window.parlor?.screen === 'lobby' && document.querySelector('#name').value === 'Gus'`)
	guest.click("#join")
	guest.until("the call, as host", `parlor.screen === 'call' && `+invites)
	host.acts("unmake-host", who)
	guest.until("to invite nobody", `!`+invites)
	host.click(`[data-close="people"]`)

	// The host lets guests wait: one is let in, another is not.
	host.click("#people-toggle")
	host.until("a switch for the waiting room", `document.querySelector('[data-action="waiting-room"]') !== null`)
	host.click(`[data-action="waiting-room"]`)
	host.until("it to be on", `document.querySelector('[data-action="waiting-room-end"]') !== null`)
	knocks := func(name string) *page {
		p := comes(name, link)
		p.until("a word that it waits", `parlor.screen === 'lobby' && document.querySelector('#join-status').dataset.text === 'lobby.knocking'`)
		return p
	}
	eve := knocks("Eve")
	host.until("who waits", `document.querySelector('#people-knocks').checkVisibility() && document.querySelector('.knock').textContent.includes('Eve')`)
	host.until("a word about it", `document.querySelector('.toast[data-code="knock"]')?.textContent.includes('Eve')`)
	host.accessible("who waits")
	host.click(`.knock [data-action="refuse"]`)
	eve.until("the refusal", `parlor.screen === 'lobby' && parlor.problem?.code === 'knock-refused' && !document.querySelector('#join').disabled`)
	gil := knocks("Gil")
	host.until("who waits", `document.querySelector('.knock')?.textContent.includes('Gil')`)
	gil.loadAxe()
	gil.looks("a guest waits")
	gil.click("#join-cancel")
	gil.until("to wait no more", `!document.querySelector('#join').disabled && !document.querySelector('#join-cancel').checkVisibility() && document.querySelector('#lobby-problem').hidden`)
	host.until("nobody to wait", `!document.querySelector('#people-knocks').checkVisibility()`)
	fay := knocks("Fay")
	host.until("who waits", `document.querySelector('.knock')?.textContent.includes('Fay')`)
	host.click(`.knock [data-action="admit"]`)
	fay.until("the call", `parlor.screen === 'call'`)
	host.until("nobody to wait", `!document.querySelector('#people-knocks').checkVisibility() && [...parlor.room.remoteParticipants.values()].some((p) => p.name === 'Fay')`)

	var all struct {
		Invitations []struct {
			ID, Role string
			Used     int
		}
	}
	require.NoError(t, json.Unmarshal(ask("GET", "", ""), &all))
	require.Len(t, all.Invitations, 3)
	require.Equal(t, []any{"guest", 2}, []any{all.Invitations[1].Role, all.Invitations[1].Used})
	ask("DELETE", "/"+all.Invitations[1].ID, "")
	late := comes("Lea", link)
	late.until("a word about it", `parlor.screen === 'lobby' && parlor.problem?.code === 'invitation-revoked'`)
	require.NotContains(t, s.said(), link[strings.LastIndex(link, ".")+1:])
}
