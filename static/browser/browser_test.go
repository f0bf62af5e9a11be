// Package browser_test drives the page in headless Chromium against the real server: it
// does what a person would do, and checks what a person would see and hear.
package browser_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/dom"
	cdpage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// patience bounds every wait. It is long because machines that run tests are busy.
const patience = 90 * time.Second

// findChromium looks for a browser. Without one the test is skipped, except
// where CI=true forbids skipping.
func findChromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{
		os.Getenv("CHROMIUM"), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless-shell",
		"/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
	} {
		if name == "" {
			continue
		}
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("no Chromium found, and with CI=true nothing may be skipped")
	}
	t.Skip("no Chromium found: install one, or name it in CHROMIUM")
	return ""
}

// browser is one Chromium. Its pages share only the process.
type browser struct {
	ctx context.Context
}

// fakeDevices gives every page a camera with a moving picture and a microphone with
// speech, without asking.
func fakeDevices(t *testing.T) []chromedp.ExecAllocatorOption {
	voice := filepath.Join(t.TempDir(), "voice.wav")
	require.NoError(t, os.WriteFile(voice, speech(10*time.Second), 0o600))
	return []chromedp.ExecAllocatorOption{
		chromedp.Flag("use-fake-device-for-media-stream", true),
		chromedp.Flag("use-file-for-fake-audio-capture", voice),
		chromedp.Flag("use-fake-ui-for-media-stream", true),
	}
}

func startBrowser(t *testing.T, options ...chromedp.ExecAllocatorOption) *browser {
	t.Helper()
	options = append([]chromedp.ExecAllocatorOption{
		chromedp.ExecPath(findChromium(t)),
		chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.UserDataDir(t.TempDir()),
		// By default Chromium gathers no candidates on loopback, and hides their
		// addresses.
		chromedp.Flag("allow-loopback-in-peer-connection", true),
		chromedp.Flag("disable-features", "WebRtcHideLocalIpsWithMdns,Translate"),
		// Every page must run at full speed, visible or not.
		chromedp.Flag("disable-background-timer-throttling", true),
		chromedp.Flag("disable-backgrounding-occluded-windows", true),
		chromedp.Flag("disable-renderer-backgrounding", true),
		chromedp.Flag("autoplay-policy", "no-user-gesture-required"),
		chromedp.Flag("disable-dev-shm-usage", true),
		// No request leaves the machine.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-quic", true),
	}, options...)
	allocator, cancelAllocator := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		// The process must end before the folder of its profile is removed.
		bounded, done := context.WithTimeout(ctx, time.Minute)
		defer done()
		if err := chromedp.Cancel(bounded); err != nil {
			t.Log("close the browser:", err)
		}
		cancel()
		cancelAllocator()
	})
	require.NoError(t, chromedp.Do(ctx)) // starts the browser
	return &browser{ctx}
}

// page is one tab with its own profile, for one person.
type page struct {
	t         *testing.T
	name      string
	ctx       context.Context
	artifacts string

	mu      sync.Mutex // guards what follows
	console []string
}

// open opens an address of the page in a new tab, until the end of the test.
func (b *browser) open(t *testing.T, name, address string) *page {
	t.Helper()
	p := b.visit(t, name, address)
	p.until("the page to start", `window.parlor !== undefined`)
	return p
}

// visit opens any address in a new tab, until the end of the test.
func (b *browser) visit(t *testing.T, name, address string) *page {
	t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	p := newPage(ctx, cancel, t, name)
	require.NoError(t, chromedp.Do(ctx, chromedp.EmulateViewport(960, 600), chromedp.Navigate(address)))
	return p
}

// newPage is the page of a tab, which is closed at the end of the test.
func newPage(ctx context.Context, cancel func(), t *testing.T, name string) *page {
	p := &page{t: t, name: name, ctx: ctx, artifacts: t.ArtifactDir()}
	messages := chromedp.Console(ctx)
	var listening sync.WaitGroup
	listening.Go(func() { // until cancel
		for message, err := range messages {
			if err != nil {
				return
			}
			p.mu.Lock()
			p.console = append(p.console, string(message.Type)+": "+message.Text)
			p.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		p.report()
		cancel()
		listening.Wait()
	})
	return p
}

// tabs begins to watch for a tab that the page opens; next waits for it.
func (p *page) tabs(name string) (next func() *page) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	p.t.Cleanup(cancel)
	opened := chromedp.WaitNewTarget(ctx, func(*target.Info) bool { return true })
	return func() *page {
		p.t.Helper()
		var id target.ID
		select {
		case id = <-opened:
		case <-ctx.Done():
			p.t.Fatalf("%s has opened no tab", p.name)
		}
		tab, closeTab := chromedp.NewContext(p.ctx, chromedp.WithTargetID(id))
		other := newPage(tab, closeTab, p.t, name)
		require.NoError(p.t, chromedp.Do(tab))
		return other
	}
}

// front shows the page before the other tabs of its window.
func (p *page) front() {
	p.t.Helper()
	_, err := chromedp.Call(p.ctx, cdpage.BringToFront, cdp.Empty{})
	require.NoError(p.t, err, "%s: to the front", p.name)
}

// report fails the test if the page has logged an error, and saves a screenshot if the
// test has failed.
func (p *page) report() {
	p.mu.Lock()
	console := p.console
	p.mu.Unlock()
	for _, line := range console {
		if strings.Contains(line, "Content Security Policy") || strings.HasPrefix(line, "exception") {
			p.t.Errorf("%s: %s", p.name, line)
		}
	}
	if !p.t.Failed() {
		return
	}
	for _, line := range console {
		p.t.Logf("%s: %.300s", p.name, line)
	}
	p.t.Logf("%s in the end: %s", p.name, p.state())
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	picture, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		p.t.Logf("%s: no screenshot: %v", p.name, err)
		return
	}
	path := filepath.Join(p.artifacts, p.name+".png")
	if err := os.WriteFile(path, picture, 0o600); err != nil {
		p.t.Logf("%s: no screenshot: %v", p.name, err)
		return
	}
	p.t.Logf("%s looks like %s (kept with go test -artifacts)", p.name, path)
}

// get evaluates a JavaScript expression, which may use await.
func get[T any](p *page, script string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T]("(async () => ("+script+"))()", chromedp.EvalAwaitPromise))
	require.NoError(p.t, err, "%s: %s", p.name, script)
	return value
}

// do runs JavaScript without a result.
func (p *page) do(script string) {
	p.t.Helper()
	get[bool](p, fmt.Sprintf("(async () => { %s; return true })()", script))
}

// until waits until an expression is true.
func (p *page) until(what, condition string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	script := fmt.Sprintf("(async () => Boolean(%s))()", condition)
	for {
		done, err := chromedp.Run(ctx, chromedp.Evaluate[bool](script, chromedp.EvalAwaitPromise))
		if err == nil && done {
			return
		}
		if ctx.Err() != nil {
			p.t.Fatalf("%s: waited %v for %s; state: %s", p.name, patience, what, p.state())
		}
		if !goesElsewhere(err) {
			require.NoError(p.t, err, "%s: %s", p.name, condition)
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond): // the page can only be polled
		}
	}
}

// goesElsewhere tells whether a script got no answer because its page was left for another
// address just then.
func goesElsewhere(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "Inspected target navigated or closed") ||
		strings.Contains(err.Error(), "Execution context was destroyed") || strings.Contains(err.Error(), "Cannot find context"))
}

// state describes the page, for the message of a failure.
func (p *page) state() string {
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	state, err := chromedp.Run(ctx, chromedp.Evaluate[string](`(async () => {
		const remote = [];
		for (const participant of parlor.room?.remoteParticipants.values() ?? []) {
			for (const publication of participant.trackPublications.values()) {
				const one = { who: participant.name, sid: publication.trackSid, source: publication.source, muted: publication.isMuted,
					subscription: publication.subscriptionStatus, stream: publication.track?.streamState, shown: publication.track?.attachedElements.length };
				for (const report of (await publication.track?.receiver?.getStats())?.values() ?? []) {
					if (report.type === 'inbound-rtp') Object.assign(one, { packets: report.packetsReceived, decoded: report.framesDecoded, pli: report.pliCount });
				}
				remote.push(one);
			}
		}
		const local = [];
		for (const publication of parlor.room?.localParticipant.trackPublications.values() ?? []) {
			const one = { sid: publication.trackSid, source: publication.source, muted: publication.isMuted, streams: [],
				state: publication.track?.mediaStreamTrack.readyState };
			for (const report of (await publication.track?.sender?.getStats())?.values() ?? []) {
				if (report.type === 'outbound-rtp') one.streams.push({ rid: report.rid, active: report.active, packets: report.packetsSent,
					encoded: report.framesEncoded, limited: report.qualityLimitationReason, pli: report.pliCount });
			}
			local.push(one);
		}
		return JSON.stringify({
			screen: parlor.screen, problem: parlor.problem, room: parlor.room?.state, remote, local,
			tiles: [...document.querySelectorAll('.tile')].map((tile) => [tile.className, tile.getAttribute('aria-label'), tile.querySelector('video').readyState]),
			toasts: [...document.querySelectorAll('.toast')].map((toast) => toast.textContent),
		});
	})()`, chromedp.EvalAwaitPromise))
	if err != nil {
		return err.Error()
	}
	return state
}

// click clicks an element with a real mouse event. If the page replaces the element before
// the click, its successor is clicked.
func (p *page) click(selector string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	for {
		err := chromedp.Do(ctx, chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
		if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "Could not find node with given id") {
			require.NoError(p.t, err, "%s: click %s", p.name, selector)
			return
		}
	}
}

// write types text into a field, key by key.
func (p *page) write(selector, text string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	require.NoError(p.t, chromedp.Do(ctx, chromedp.SendKeys(chromedp.CSS(selector), text, chromedp.NodeVisible)), "%s: type into %s", p.name, selector)
}

// press presses one key, wherever the focus is.
func (p *page) press(key string) {
	p.t.Helper()
	require.NoError(p.t, chromedp.Do(p.ctx, chromedp.KeyEvent(key)), "%s: press %q", p.name, key)
}

// picks clicks what opens a window to choose files, and chooses that file.
func (p *page) picks(selector, path string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	catch := func(on bool) {
		_, err := chromedp.Call(ctx, cdpage.SetInterceptFileChooserDialog, cdpage.SetInterceptFileChooserDialogParams{Enabled: on})
		require.NoError(p.t, err, "%s: choose a file", p.name)
	}
	windows := chromedp.Events(ctx, cdpage.FileChooserOpened)
	catch(true)
	p.click(selector)
	for window, err := range windows {
		require.NoError(p.t, err, "%s: no window to choose a file", p.name)
		_, err = chromedp.Call(ctx, dom.SetFileInputFiles, dom.SetFileInputFilesParams{Files: []string{path}, BackendNodeID: window.BackendNodeID})
		require.NoError(p.t, err, "%s: choose %s", p.name, path)
		break
	}
	catch(false)
}

// speech is a mono WAV with the pitch, formants and rhythm of a voice. Noise suppression
// passes it, unlike a tone, and it has no pauses in which discontinuous transmission
// would stop the packets.
func speech(length time.Duration) []byte {
	const rate = 48000
	samples := int(length.Seconds() * rate)
	noise := rand.New(rand.NewPCG(1, 2)) // the same in each run
	wave := make([]int16, samples)
	phase := 0.0
	for i := range wave {
		t := float64(i) / rate
		pitch := 130 + 30*math.Sin(2*math.Pi*0.7*t) + 8*math.Sin(2*math.Pi*3.1*t)
		phase += 2 * math.Pi * pitch / rate
		var sum float64
		for harmonic := 1.0; harmonic <= 20; harmonic++ {
			frequency := harmonic * pitch
			formant := func(centre, width float64) float64 { return math.Exp(-math.Pow((frequency-centre)/width, 2)) }
			sum += (formant(600, 300) + 0.6*formant(1400, 400) + 0.3*formant(2600, 500) + 0.1) * math.Sin(harmonic*phase)
		}
		syllable := 0.55 + 0.45*math.Sin(2*math.Pi*4*t)
		value := (sum + 0.2*noise.NormFloat64()) * syllable * 0.12
		wave[i] = int16(math.MaxInt16 * max(-0.95, min(0.95, value)))
	}
	header := []byte("RIFF\x00\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00")
	header = binary.LittleEndian.AppendUint32(header, rate)
	header = binary.LittleEndian.AppendUint32(header, 2*rate)
	header = append(header, "\x02\x00\x10\x00data"...)
	header = binary.LittleEndian.AppendUint32(header, uint32(2*samples))
	binary.LittleEndian.PutUint32(header[4:], uint32(len(header)-8+2*samples))
	file, err := binary.Append(header, binary.LittleEndian, wave)
	if err != nil {
		panic(err) // int16 always has a size
	}
	return file
}
