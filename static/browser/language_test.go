package browser_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// loadAxe brings the checker of accessible into the page.
func (p *page) loadAxe() {
	p.t.Helper()
	axe, err := os.ReadFile("testdata/axe/axe-core-4.14.1.min.js")
	require.NoError(p.t, err)
	p.do(string(axe))
}

// chooses takes a language in the settings, as a person does.
func (p *page) chooses(code string) {
	p.t.Helper()
	p.do(fmt.Sprintf(`const select = document.querySelector('#settings [data-language]');
		select.value = %q; select.dispatchEvent(new Event('change'))`, code))
}

// apart finds parts of the call that cover one another or leave the window.
const apart = `(() => {
	const box = (node) => node.getBoundingClientRect();
	const crosses = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
	const seen = [...document.querySelectorAll('.tile, .panel, .control, .topbar > *, #sharing')].filter((node) => node.checkVisibility())
		.filter((node) => !(innerWidth <= 760 && node.matches('.tile') && document.querySelector('.panel:not([hidden])')));
	const named = (node) => node.id || node.className;
	return seen.flatMap((one, i) => seen.slice(i + 1).filter((other) => crosses(box(one), box(other))).map((other) => named(one) + ' covers ' + named(other)))
		.concat(seen.filter((node) => box(node).left < -1 || box(node).right > innerWidth + 1).map((node) => named(node) + ' is outside'))
		.concat(document.documentElement.scrollWidth > innerWidth ? ['the page is wider than the window'] : []);
})()`

// testLanguages has a person who is in a call change the language. All that is said follows,
// also what is written from right to left, and only chosen languages are loaded.
func (p *page) testLanguages(t *testing.T) {
	loaded := `[...new Set(performance.getEntriesByType('resource').map((entry) => /texts\/(\w+)\.json$/.exec(entry.name)?.[1]).filter(Boolean))].sort().join()`
	require.Equal(t, "en", get[string](p, loaded))
	require.Equal(t, []string{"en", "ltr"}, get[[]string](p, `[document.documentElement.lang, document.documentElement.dir]`))
	for code, want := range map[string][3]string{
		"de": {"Gehen", "Ann (Sie)", "Nachricht an alle"}, "es": {"Salir", "Ann (usted)", "Mensaje para todos"},
		"fr": {"Quitter", "Ann (vous)", "Message à tout le monde"}, "zh": {"离开", "Ann（您）", "发送给所有人"},
	} {
		p.chooses(code)
		p.until("the call in "+code, fmt.Sprintf(`document.documentElement.lang === %q && document.querySelector('#leave .label').textContent === %q
			&& %s && document.querySelector('#chat-text').placeholder === %q && JSON.parse(localStorage.getItem('parlor')).language === %[1]q`, code, want[0], tile(want[1]), want[2]))
	}
	require.Equal(t, "de,en,es,fr,zh", get[string](p, loaded))

	p.do(`window.reached = window.fetch; window.fetch = async () => { throw new TypeError('gone'); }`)
	p.chooses("en")
	p.until("the choice to be what the page speaks, as the other cannot be had", `document.querySelector('#settings [data-language]').value === document.documentElement.lang
		&& JSON.parse(localStorage.getItem('parlor')).language === document.documentElement.lang`)
	p.do(`window.fetch = window.reached`)
	p.do(`const { useLanguage } = await import('/static/js/texts.js');
		useLanguage('ar', { ...await (await fetch('/static/js/texts/en.json')).json(), '@direction': 'rtl' })`)
	for _, size := range [][2]int64{{390, 844}, {1440, 900}} {
		require.NoError(t, chromedp.Do(p.ctx, chromedp.EmulateViewport(size[0], size[1])))
		p.until(fmt.Sprintf("nothing to cover another part from right to left at %v", size), apart+`.length === 0`)
	}
	require.True(t, get[bool](p, `document.querySelector('#chat').getBoundingClientRect().right < innerWidth / 2`), "the panel is on the left")
	require.Equal(t, "\u2068שלום\u2069 raised a hand", get[string](p, `(await import('/static/js/texts.js')).t('hand.raised', { name: 'שלום' })`), "a name does not turn its sentence")
	require.Equal(t, "{text}: <b>", get[string](p, `(await import('/static/js/texts.js')).t('said', { name: '{text}', text: '<b>' })`), "a name is no placeholder")
	p.chooses("en")
	p.until("the call in English again", `document.documentElement.dir === 'ltr' && document.querySelector('#leave .label').textContent === 'Leave'`)
	require.NoError(t, chromedp.Do(p.ctx, chromedp.EmulateViewport(960, 600)))
}
