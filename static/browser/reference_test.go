package browser_test

import (
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// testReference uses the API reference like a reader: it searches for a call, reads its
// example in another language, and tries it.
func (f *fixture) testReference(t *testing.T) {
	p := f.browser.visit(t, "reader", "http://localhost:"+f.server.port+"/docs")
	p.until("the reference to be drawn", `document.querySelectorAll('article').length > 40`)
	require.Empty(t, get[[]string](p, `await (async () => {
		const { paths } = await (await fetch('openapi.json')).json();
		return Object.values(paths).flatMap(Object.values).map((route) => route.operationId).filter((id) => !document.querySelector('article#' + id + ' pre'));
	})()`), "operations without an example")
	require.Empty(t, get[[]string](p, `[...document.querySelectorAll('main a[href^="#"]')].map((link) => link.hash.slice(1)).filter((id) => !document.getElementById(id))`), "links to nowhere")

	p.press("/")
	p.until("the search to have the focus", `document.activeElement.id === 'search'`)
	p.write("#search", "createRoom")
	require.Equal(t, "createRoom", get[string](p, `document.getElementById('search').value`))
	require.Less(t, get[int](p, `document.querySelectorAll('article:not([hidden])').length`), 5, "only what has the words")
	require.True(t, get[bool](p, `!document.getElementById('createRoom').hidden`))
	p.do(`document.getElementById('language').value = 'Python'; document.getElementById('language').dispatchEvent(new Event('change'))`)
	require.Contains(t, get[string](p, `document.querySelector('#createRoom pre').textContent`), "requests.request(\"POST\"")

	p.do(`for (const details of document.querySelectorAll('#createRoom details, #credentials')) details.open = true`)
	p.write("#key", devKey)
	p.write("#secret", devSecret)
	p.do(`const body = document.querySelector('#createRoom textarea'); body.value = '{"name": "from-the-reference", "metadata": "<b>"}'; body.dispatchEvent(new Event('input', { bubbles: true }))`)
	require.Contains(t, get[string](p, `document.querySelector('#createRoom pre').textContent`), "from-the-reference", "the example follows what is filled in")
	p.click("#createRoom form button")
	p.until("an answer", `document.querySelector('#createRoom form pre').textContent.startsWith('201')`)
	require.Contains(t, get[string](p, `document.querySelector('#createRoom form pre').textContent`), `"name": "from-the-reference"`)
	p.do(`document.getElementById('secret').value = 'wrong'`)
	p.click("#createRoom form button")
	p.until("a refusal", `document.querySelector('#createRoom form pre').textContent.startsWith('401')`)

	require.NoError(t, chromedp.Do(p.ctx, chromedp.EmulateViewport(390, 844)))
	p.do(`document.getElementById('search').value = ''; document.getElementById('search').dispatchEvent(new Event('input'))`)
	require.LessOrEqual(t, get[int](p, `document.documentElement.scrollWidth`), 390, "the phone need not scroll sideways")
}
