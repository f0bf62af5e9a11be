// The program record makes the recordings of what Chromium publishes that the
// tests of forwarding are fed with: it starts a headless Chromium, has it publish
// a moving picture to a peer in this process in one way after the other, and
// writes down the packets that come.
//
//	go run ./media/forward/recording/record [-chromium PATH] [-only NAME] DIRECTORY
//
// The peer asks for a key frame of one layer after the other, and the publisher
// stops and starts layers, while it is recorded.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/pion/interceptor"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"parlor/media/forward/recording"
)

// length is how long each recording is.
const length = 8 * time.Second

const (
	uriDescriptor = "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"
	uriCapture    = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time"
)

// session is one way of publishing.
type session struct {
	name, mime    string
	width, height int
	// encodings and steps are JavaScript: what is published, and what is changed
	// of it while it is, as [milliseconds, function of the encodings].
	encodings, steps, what string
}

func simulcast(mode string) string {
	m := fmt.Sprintf(`scalabilityMode: '%s'`, mode)
	return `[{rid: 'q', scaleResolutionDownBy: 2, maxBitrate: 100000, ` + m + `}, {rid: 'h', maxBitrate: 250000, ` + m + `}]`
}

func svc(mode string) string {
	return fmt.Sprintf(`[{rid: 'f', maxBitrate: 600000, scalabilityMode: '%s'}]`, mode)
}

const (
	stopAndStart = `[[2500, (e) => { e[1].active = false; }], [4000, (e) => { e[1].active = true; }],
		[5000, (e) => { e[0].active = false; }], [6000, (e) => { e[0].active = true; }]]`
	stopAndStartWords = "top layer off at 2.5 s, on at 4 s; lowest off at 5 s, on at 6 s"
)

// fewer takes a spatial layer away and gives it back.
func fewer(less, all string) string {
	return fmt.Sprintf(`[[3000, (e) => { e[0].scalabilityMode = '%s'; }], [5000, (e) => { e[0].scalabilityMode = '%s'; }]]`, less, all)
}

func sessions() []session {
	return []session{
		{"vp8-simulcast", "video/VP8", 480, 270, simulcast("L1T1"), stopAndStart, stopAndStartWords},
		{"vp8-simulcast-temporal", "video/VP8", 480, 270, simulcast("L1T3"), stopAndStart, stopAndStartWords},
		{"h264-simulcast", "video/H264", 480, 270, simulcast("L1T1"), stopAndStart, stopAndStartWords},
		{"h264-simulcast-temporal", "video/H264", 480, 270, simulcast("L1T2"), stopAndStart, stopAndStartWords},
		{"vp9-simulcast", "video/VP9", 480, 270, simulcast("L1T1"), stopAndStart, stopAndStartWords},
		{"vp9-simulcast-temporal", "video/VP9", 480, 270, simulcast("L1T3"), stopAndStart, stopAndStartWords},
		{"vp9-svc", "video/VP9", 960, 540, svc("L3T3_KEY"), fewer("L2T3_KEY", "L3T3_KEY"), "L3T3_KEY, L2T3_KEY from 3 s to 5 s"},
		{"av1-svc", "video/AV1", 480, 270, svc("L3T3_KEY"), fewer("L2T3_KEY", "L3T3_KEY"), "L3T3_KEY, L2T3_KEY from 3 s to 5 s"},
		{"av1-simulcast", "video/AV1", 480, 270, simulcast("L1T1"), stopAndStart, stopAndStartWords},
	}
}

func main() {
	chromium := flag.String("chromium", "chromium", "the browser")
	only := flag.String("only", "", "make this recording alone")
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("name the directory for the recordings")
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(*chromium), chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("allow-loopback-in-peer-connection", true),
		chromedp.Flag("disable-features", "WebRtcHideLocalIpsWithMdns"),
		chromedp.Flag("disable-background-timer-throttling", true),
		chromedp.Flag("disable-backgrounding-occluded-windows", true),
		chromedp.Flag("disable-renderer-backgrounding", true),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND"))
	defer cancel()
	ctx, cancelBrowser := chromedp.NewContext(ctx)
	defer cancelBrowser()
	for _, s := range sessions() {
		if *only != "" && *only != s.name {
			continue
		}
		if err := s.record(ctx, flag.Arg(0)); err != nil {
			log.Printf("%s: %v", s.name, err)
		}
	}
}

// publish is the page's part: it returns the offer, and goes on with the answer.
const publish = `(async () => {
	const canvas = Object.assign(document.createElement('canvas'), { width: %d, height: %d });
	document.body.replaceChildren(canvas);
	const drawing = canvas.getContext('2d');
	let n = 0;
	setInterval(() => {
		n++;
		drawing.fillStyle = 'hsl(' + n %% 360 + ' 60%% 50%%)';
		drawing.fillRect(0, 0, canvas.width, canvas.height);
		for (let i = 0; i < 8; i++) {
			drawing.fillStyle = 'hsl(' + i * 40 + ' 80%% 40%%)';
			drawing.fillRect((n * (i + 1) * 3) %% canvas.width, i * canvas.height / 8, 60, canvas.height / 10);
		}
		drawing.fillStyle = 'white';
		drawing.font = '40px sans-serif';
		drawing.fillText(n, 20, 60);
	}, 66);
	const pc = window.pc = new RTCPeerConnection();
	const track = canvas.captureStream(15).getVideoTracks()[0];
	const transceiver = pc.addTransceiver(track, { direction: 'sendonly', sendEncodings: %s });
	const codecs = RTCRtpSender.getCapabilities('video').codecs;
	transceiver.setCodecPreferences(codecs.filter((c) => c.mimeType === %q && !/packetization-mode=0|profile-level-id=(64|4d|58)|profile-id=[1-3]|profile=[12]/.test(c.sdpFmtpLine ?? '')).slice(0, 1)
		.concat(codecs.filter((c) => c.mimeType === 'video/rtx')));
	if (transceiver.setHeaderExtensionsToNegotiate) {
		const all = transceiver.getHeaderExtensionsToNegotiate();
		for (const e of all) if (/abs-capture-time|dependency-descriptor/.test(e.uri)) e.direction = 'sendonly';
		transceiver.setHeaderExtensionsToNegotiate(all);
	}
	window.go = async (answer) => {
		await pc.setRemoteDescription({ type: 'answer', sdp: answer });
		for (const [at, change] of %s) {
			setTimeout(async () => {
				const parameters = transceiver.sender.getParameters();
				change(parameters.encodings);
				await transceiver.sender.setParameters(parameters);
			}, at);
		}
		return true;
	};
	await pc.setLocalDescription(await pc.createOffer());
	await new Promise((resolve) => {
		if (pc.iceGatheringState === 'complete') resolve();
		pc.onicegatheringstatechange = () => { if (pc.iceGatheringState === 'complete') resolve(); };
		setTimeout(resolve, 3000);
	});
	return pc.localDescription.sdp;
})()`

// tape collects packets.
type tape struct {
	mu      sync.Mutex // guards the following
	begin   time.Time
	packets []recording.Stored
	layers  []recording.Layer
	header  recording.Header
}

func (s *session) record(ctx context.Context, dir string) error {
	ctx, cancel := chromedp.NewContext(ctx)
	defer cancel()
	ctx, done := context.WithTimeout(ctx, time.Minute)
	defer done()
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		return err
	}
	offer, err := chromedp.Run(ctx, chromedp.Evaluate[string](
		fmt.Sprintf(publish, s.width, s.height, s.encodings, s.mime, s.steps), chromedp.EvalAwaitPromise))
	if err != nil {
		return err
	}
	peer, err := newPeer(s.mime, offer)
	if err != nil {
		return err
	}
	defer peer.Close()
	t := &tape{}
	t.header.MimeType, t.header.What = s.mime, s.what
	var reading sync.WaitGroup
	peer.OnTrack(func(track *webrtc.TrackRemote, receiver *webrtc.RTPReceiver) {
		t.add(track, receiver)
		reading.Go(func() { t.readRTP(track) })            // until the peer is closed
		reading.Go(func() { t.readRTCP(track, receiver) }) // likewise
	})
	answer, err := answerTo(peer, offer)
	if err != nil {
		return err
	}
	if _, err := chromedp.Run(ctx, chromedp.Evaluate[bool](fmt.Sprintf("go(%q)", answer), chromedp.EvalAwaitPromise)); err != nil {
		return err
	}
	if err := t.run(ctx, peer); err != nil {
		return err
	}
	browser, err := chromedp.Run(ctx, chromedp.Evaluate[string]("(pc.close(), navigator.userAgent.match(/Chrome\\/[0-9]+/)[0])"))
	if err != nil {
		return err
	}
	t.header.Browser = browser
	if err := peer.Close(); err != nil {
		return err
	}
	reading.Wait()
	return t.write(filepath.Join(dir, s.name+".rtp.gz"))
}

func newPeer(mime, offer string) (*webrtc.PeerConnection, error) {
	engine := &webrtc.MediaEngine{}
	feedback := []webrtc.RTCPFeedback{{Type: "nack"}, {Type: "nack", Parameter: "pli"}, {Type: "ccm", Parameter: "fir"}, {Type: "transport-cc"}}
	pt, fmtp := formatOf(mime, offer)
	if pt == 0 {
		return nil, errors.New("the browser does not offer the codec")
	}
	if err := engine.RegisterCodec(webrtc.RTPCodecParameters{
		RTPCodecCapability: webrtc.RTPCodecCapability{MimeType: mime, ClockRate: 90000, SDPFmtpLine: fmtp, RTCPFeedback: feedback},
		PayloadType:        webrtc.PayloadType(pt),
	}, webrtc.RTPCodecTypeVideo); err != nil {
		return nil, err
	}
	for _, uri := range []string{uriDescriptor, uriCapture, "urn:ietf:params:rtp-hdrext:sdes:mid", "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"} {
		if err := engine.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: uri}, webrtc.RTPCodecTypeVideo); err != nil {
			return nil, err
		}
	}
	interceptors := &interceptor.Registry{}
	if err := webrtc.RegisterDefaultInterceptors(engine, interceptors); err != nil {
		return nil, err
	}
	settings := webrtc.SettingEngine{}
	settings.SetIncludeLoopbackCandidate(true)
	settings.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	return webrtc.NewAPI(webrtc.WithMediaEngine(engine), webrtc.WithInterceptorRegistry(interceptors),
		webrtc.WithSettingEngine(settings)).NewPeerConnection(webrtc.Configuration{})
}

// formatOf is the payload type and the parameters that an offer has for a codec.
func formatOf(mime, offer string) (pt int, fmtp string) {
	name := strings.TrimPrefix(mime, "video/")
	for line := range strings.Lines(offer) {
		var n int
		var what string
		if k, _ := fmt.Sscanf(line, "a=rtpmap:%d %s", &n, &what); k == 2 && strings.HasPrefix(what, name+"/") && pt == 0 {
			pt = n
		}
		if rest, ok := strings.CutPrefix(line, fmt.Sprintf("a=fmtp:%d ", pt)); ok && pt != 0 {
			fmtp = strings.TrimSpace(rest)
		}
	}
	return pt, fmtp
}

func answerTo(peer *webrtc.PeerConnection, offer string) (string, error) {
	if err := peer.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: offer}); err != nil {
		return "", err
	}
	answer, err := peer.CreateAnswer(nil)
	if err != nil {
		return "", err
	}
	gathered := webrtc.GatheringCompletePromise(peer)
	if err := peer.SetLocalDescription(answer); err != nil {
		return "", err
	}
	<-gathered
	return peer.LocalDescription().SDP, nil
}

func (t *tape) add(track *webrtc.TrackRemote, receiver *webrtc.RTPReceiver) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.begin.IsZero() {
		t.begin = time.Now()
	}
	t.layers = append(t.layers, recording.Layer{RID: track.RID(), SSRC: uint32(track.SSRC())})
	t.header.PayloadType, t.header.Fmtp = uint8(track.PayloadType()), track.Codec().SDPFmtpLine
	for _, e := range receiver.GetParameters().HeaderExtensions {
		switch e.URI {
		case uriDescriptor:
			t.header.DescriptorID = uint8(e.ID)
		case uriCapture:
			t.header.CaptureID = uint8(e.ID)
		}
	}
}

func (t *tape) keep(raw []byte, size int, isRTCP bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := time.Since(t.begin)
	if at < length {
		t.packets = append(t.packets, recording.Stored{Packet: recording.Packet{At: at, RTCP: isRTCP, Raw: slices.Clone(raw)}, Size: size})
	}
}

func (t *tape) readRTP(track *webrtc.TrackRemote) {
	b := make([]byte, 2000)
	for {
		n, _, err := track.Read(b)
		if err != nil {
			return
		}
		var h rtp.Header
		start, err := h.Unmarshal(b[:n])
		if err != nil {
			continue
		}
		if h.Padding { // only as much as is not padding
			n = max(start, n-int(b[n-1]))
			b[0] &^= 0x20
		}
		t.keep(b[:min(n, start+recording.Payload)], n, false)
	}
}

func (t *tape) readRTCP(track *webrtc.TrackRemote, receiver *webrtc.RTPReceiver) {
	for {
		var packets []rtcp.Packet
		var err error
		if track.RID() != "" {
			packets, _, err = receiver.ReadSimulcastRTCP(track.RID())
		} else {
			packets, _, err = receiver.ReadRTCP()
		}
		if err != nil {
			return
		}
		for _, p := range packets {
			sr, ok := p.(*rtcp.SenderReport)
			if !ok || sr.SSRC != uint32(track.SSRC()) {
				continue
			}
			if raw, err := sr.Marshal(); err == nil {
				t.keep(raw, len(raw), true)
			}
		}
	}
}

// run asks for key frames until the recording is long enough.
func (t *tape) run(ctx context.Context, peer *webrtc.PeerConnection) error {
	ticker := time.NewTicker(400 * time.Millisecond)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		t.mu.Lock()
		layers, begin := slices.Clone(t.layers), t.begin
		t.mu.Unlock()
		if len(layers) == 0 {
			continue
		}
		if time.Since(begin) > length {
			return nil
		}
		if err := peer.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: layers[n%len(layers)].SSRC}}); err != nil {
			return err
		}
	}
}

// write puts the layers in order, the lowest first, and the recording in a file.
func (t *tape) write(name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	order := []string{"q", "h"}
	slices.SortFunc(t.layers, func(a, b recording.Layer) int {
		return slices.Index(order, a.RID) - slices.Index(order, b.RID)
	})
	t.header.Layers = t.layers
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := recording.Write(file, t.header, t.packets); err != nil {
		return errors.Join(err, file.Close())
	}
	log.Printf("%s: %d packets of %d layers", name, len(t.packets), len(t.layers))
	return file.Close()
}
