package browser_test

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/stretchr/testify/require"
)

// clocks is what the pages of this test have in addition to the page's script. The publisher
// draws the time into each frame, as a field of 16 black and white cells. The watcher reads it
// from each frame that it shows, and reads what the browser believes about the playout.
const clocks = `window.clocks = (() => {
	const { Room, RoomEvent, Track } = window.LivekitClient;
	const now = () => performance.timeOrigin + performance.now();
	const columns = 4, wrap = 1 << 16;
	const state = { frames: [], stats: [], height: 0 };
	return {
		state,
		async publish(url, token, codec) {
			const canvas = document.createElement('canvas');
			canvas.width = 640;
			canvas.height = 360;
			const g = canvas.getContext('2d', { alpha: false });
			const draw = () => {
				const code = Math.floor(now()) % wrap;
				for (let bit = 0; bit < 16; bit++) {
					g.fillStyle = code & (1 << bit) ? '#fff' : '#000';
					g.fillRect((bit % columns) * 160, Math.floor(bit / columns) * 90, 160, 90);
				}
			};
			draw();
			const timer = setInterval(draw, 50);
			const sound = new AudioContext();
			const tone = sound.createOscillator(), out = sound.createMediaStreamDestination();
			tone.connect(out);
			tone.start();
			state.room = new Room({ dynacast: true });
			await state.room.connect(url, token);
			await state.room.localParticipant.publishTrack(canvas.captureStream(20).getVideoTracks()[0], { source: Track.Source.Camera, videoCodec: codec, simulcast: true, backupCodec: false });
			await state.room.localParticipant.publishTrack(out.stream.getAudioTracks()[0], { source: Track.Source.Microphone, dtx: false });
			state.stop = async () => { clearInterval(timer); tone.stop(); await sound.close(); };
		},
		async watch(url, token, single) {
			state.room = new Room({ singlePeerConnection: single, adaptiveStream: false });
			const tracks = {};
			const small = document.createElement('canvas');
			small.width = 64;
			small.height = 36;
			const g = small.getContext('2d', { alpha: false, willReadFrequently: true });
			state.room.on(RoomEvent.TrackSubscribed, (track, publication) => {
				tracks[track.kind] = track;
				const element = track.attach();
				document.body.append(element);
				if (track.kind !== 'video') return;
				state.publication = publication;
				const show = (_, frame) => {
					g.drawImage(element, 0, 0, 64, 36);
					const pixels = g.getImageData(0, 0, 64, 36).data;
					let code = 0;
					for (let bit = 0; bit < 16; bit++) {
						const x = (bit % columns) * 16 + 8, y = Math.floor(bit / columns) * 9 + 4;
						if (pixels[4 * (64 * y + x) + 1] > 127) code |= 1 << bit;
					}
					state.frames.push({ at: performance.timeOrigin + frame.presentationTime, code, rtp: frame.rtpTimestamp, height: frame.height });
					element.requestVideoFrameCallback(show);
				};
				element.requestVideoFrameCallback(show);
			});
			await state.room.connect(url, token);
			const timer = setInterval(async () => {
				const read = async (track) => [...((await track?.receiver?.getStats())?.values() ?? [])].find((report) => report.type === 'inbound-rtp');
				const [audio, video] = [await read(tracks.audio), await read(tracks.video)];
				if (!audio?.estimatedPlayoutTimestamp || !video?.estimatedPlayoutTimestamp) return;
				state.stats.push({ audio: audio.estimatedPlayoutTimestamp - audio.timestamp, video: video.estimatedPlayoutTimestamp - video.timestamp });
			}, 100);
			state.stop = async () => clearInterval(timer);
		},
		async leave() {
			await state.stop?.();
			await state.room?.disconnect();
			document.querySelectorAll('body > video, body > audio').forEach((element) => element.remove());
			Object.assign(state, { frames: [], stats: [] });
		},
	};
})()`

// clockedFrame is a frame that was shown at a time, in ms.
type clockedFrame struct {
	At     float64 `json:"at"`
	Code   float64 `json:"code"` // the time that it shows, in ms; it wraps
	RTP    float64 `json:"rtp"`  // timestamp, 90 kHz
	Height int     `json:"height"`
}

// stamp is the time that a frame shows less its timestamp, in ms since another such stamp.
func (f clockedFrame) stamp(since float64) float64 { return wrapped(f.Code - f.RTP/90 - since) }

// age is how long ago the time was that a frame showed when it was shown, in ms.
func (f clockedFrame) age() float64 { return wrapped(f.At - f.Code) }

// wrapped is a difference of times in ms, of which one wraps after 65.536 s.
func wrapped(ms float64) float64 { return ms - math.Round(ms/65536)*65536 }

// playout is the publisher's clock of what is played less the time, as the browser believes,
// in ms.
type playout struct {
	Audio float64 `json:"audio"`
	Video float64 `json:"video"`
}

// phase is the time in which one layer was shown. Times are in ms, and medians.
type phase struct {
	height  int
	stamped float64 // by how much the timestamps say something else than in the first phase
	atOnce  float64 // the same of the first frames of the layer
	// believed is by how much the browser believes something else of the time at which frames
	// were captured.
	believed float64
	apart    float64 // sound and picture, as the browser believes
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

const (
	// inSync is by how much sound and picture may move against each other at a change of the
	// layer. Frames tell it to a millisecond, and on a busy machine to a few.
	inSync = 20.0
	// believedInSync is the same as the browser believes. It reads the clock when a frame is
	// shown, which on a busy machine is one or two frames late.
	believedInSync = 100.0
)

// TestBrowsersPlayInSync: the picture stays with the sound over changes of the layer, with
// simulcast and with SVC. Each frame shows when it was drawn. Its timestamp must go on saying
// the same, from the first frame of a layer on, and so must the sender reports, by which the
// browser believes to know the publisher's clock. The sound does not change.
func TestBrowsersPlayInSync(t *testing.T) {
	if testing.Short() {
		t.Skip("drives a browser")
	}
	f := &fixture{startServer(t, buildServer(t)), startBrowser(t, fakeDevices(t)...)}
	open := func(name string) *page {
		p := f.browser.open(t, name, f.server.page("room", "x", "audio", "0", "video", "0"))
		p.do(clocks)
		return p
	}
	publisher, watcher := open("publisher"), open("watcher")
	for _, c := range []struct {
		codec  string
		single bool
	}{{"vp8", true}, {"vp9", false}} {
		t.Run(c.codec, func(t *testing.T) {
			for try := range repeats {
				phases := f.playInSync(t, fmt.Sprintf("sync-%s-%d", c.codec, try), c.codec, c.single, publisher, watcher)
				together := true
				for _, p := range phases {
					t.Logf("try %d, %d lines: timestamps moved by %.1f ms, at once by %.1f ms, as believed by %.1f ms; sound and picture %.0f ms apart", try, p.height, p.stamped, p.atOnce, p.believed, p.apart)
					together = together && max(math.Abs(p.stamped), math.Abs(p.atOnce)) < inSync && math.Abs(p.believed) < believedInSync
				}
				if together {
					return
				}
			}
			t.Errorf("the picture moved against the sound in each of %d calls", repeats)
		})
	}
}

// playInSync makes a call in which the watcher's layer changes, and tells what each layer
// showed.
func (f *fixture) playInSync(t *testing.T, room, codec string, single bool, publisher, watcher *page) (phases []phase) {
	url := "ws://localhost:" + f.server.port
	f.server.rest("POST", "/v1/rooms", fmt.Sprintf(`{"name": %q, "sync_streams": true}`, room))
	token := func(identity string) string {
		return f.server.token(identity, time.Hour, auth.VideoGrant{RoomJoin: true, Room: room})
	}
	watcher.do(fmt.Sprintf(`await clocks.watch(%q, %q, %t)`, url, token("watcher"), single))
	publisher.do(fmt.Sprintf(`await clocks.publish(%q, %q, %q)`, url, token("publisher"), codec))
	watcher.until("a picture and its clock", `clocks.state.frames.length > 20 && clocks.state.stats.length > 10`)
	var stamp, believed float64
	for i, quality := range []int{0, 2, 0, 2, 0} {
		height := []int{180, 360}[min(quality, 1)]
		watcher.do(fmt.Sprintf(`Object.assign(clocks.state, { frames: [], stats: [] }); clocks.state.publication.setVideoQuality(%d)`, quality))
		watcher.until("the layer", fmt.Sprintf(`clocks.state.frames.filter((f) => f.height === %d).length > 60 && clocks.state.stats.length > 30`, height))
		var seen struct {
			Frames []clockedFrame `json:"frames"`
			Stats  []playout      `json:"stats"`
		}
		require.NoError(t, json.Unmarshal([]byte(get[string](watcher, `JSON.stringify({ frames: clocks.state.frames, stats: clocks.state.stats })`)), &seen))
		var stamps, ages, video, apart []float64
		for _, s := range seen.Frames {
			ages = append(ages, s.age())
			if s.Height != height {
				continue
			}
			if i == 0 && len(stamps) == 0 {
				stamp = s.stamp(0)
			}
			stamps = append(stamps, s.stamp(stamp))
		}
		for _, s := range seen.Stats {
			video = append(video, s.Video)
			apart = append(apart, s.Audio-s.Video)
		}
		p := phase{height: height, stamped: median(stamps), atOnce: median(stamps[:9]), believed: median(video) + median(ages), apart: median(apart)}
		if i == 0 {
			stamp += p.stamped
			believed = p.believed
			p.stamped, p.atOnce = 0, p.atOnce-p.stamped
		}
		p.believed -= believed
		phases = append(phases, p)
	}
	for _, p := range []*page{watcher, publisher} {
		p.do(`await clocks.leave()`)
	}
	return phases
}
