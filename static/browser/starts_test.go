package browser_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/stretchr/testify/require"
)

// The observation of a start begins with the first decoded frame. From then on no two
// decoded frames may be further apart than allowedGap.
const (
	watched    = 8 * time.Second
	allowedGap = 500 * time.Millisecond
)

// reading is one reading of a page's statistics. Times are milliseconds since 1970, the
// same for all pages of a browser.
type reading struct {
	At       float64 `json:"at"`
	Frames   int     `json:"frames"` // encoded or decoded so far
	Freezes  int     `json:"freezes"`
	Frozen   float64 `json:"frozen"` // seconds
	PLIs     int     `json:"plis"`
	Received int     `json:"received"` // packets
	Height   int     `json:"height"`
	// What tells a watcher that is late itself from one that lacks something.
	Complete   int     `json:"complete"` // frames of which all packets came
	Dropped    int     `json:"dropped"`  // frames
	Lost       int     `json:"lost"`     // packets
	NACKs      int     `json:"nacks"`
	KeyFrames  int     `json:"keyFrames"`  // decoded
	Processing float64 `json:"processing"` // seconds that decoded frames took from their first packet on, in all
}

// shownFrame is a frame that a page showed. Times are milliseconds since 1970.
type shownFrame struct {
	At       float64 `json:"at"`
	Received float64 `json:"received"`
	RTP      float64 `json:"rtp"` // timestamp, 90 kHz
}

// observers is what the pages of this test have in addition to the page's script. They
// use livekit-client directly, so that the page's preview and drawing take no CPU time.
const observers = `window.starts = (() => {
	const { Room, RoomEvent, createLocalVideoTrack } = window.LivekitClient;
	const every100ms = (read) => {
		const readings = [];
		const timer = setInterval(async () => {
			const at = performance.timeOrigin + performance.now();
			const reading = await read();
			if (reading) readings.push({ at, ...reading });
		}, 100);
		return { readings, stop: () => clearInterval(timer) };
	};
	const reports = async (of, type) => [...((await of?.getStats())?.values() ?? [])].filter((report) => report.type === type);
	const state = {};
	return {
		state,
		async join(url, token, single) {
			state.room = new Room({ singlePeerConnection: single, adaptiveStream: false, dynacast: true });
			state.room.on(RoomEvent.TrackSubscribed, (track) => {
				const video = track.attach();
				video.muted = true;
				document.body.append(video);
				const shown = state.shown = [];
				const show = (now, frame) => {
					shown.push({ at: performance.timeOrigin + now, received: performance.timeOrigin + (frame.receiveTime ?? 0), rtp: frame.rtpTimestamp ?? 0 });
					video.requestVideoFrameCallback(show);
				};
				video.requestVideoFrameCallback(show);
				state.observed = every100ms(async () => {
					const [report] = await reports(track.receiver, 'inbound-rtp');
					return report && { frames: report.framesDecoded ?? 0, freezes: report.freezeCount ?? 0, frozen: report.totalFreezesDuration ?? 0, plis: report.pliCount ?? 0,
						received: report.packetsReceived ?? 0, height: report.frameHeight ?? 0, complete: report.framesReceived ?? 0, dropped: report.framesDropped ?? 0,
						lost: report.packetsLost ?? 0, nacks: report.nackCount ?? 0, keyFrames: report.keyFramesDecoded ?? 0, processing: report.totalProcessingDelay ?? 0 };
				});
			});
			await state.room.connect(url, token);
		},
		async publish(codec) {
			const track = await createLocalVideoTrack({ resolution: { width: 640, height: 360, frameRate: 15 } });
			const publishing = state.room.localParticipant.publishTrack(track, { videoCodec: codec, simulcast: true, backupCodec: false });
			state.observed = every100ms(async () => {
				const sent = await reports(track.sender, 'outbound-rtp');
				return { frames: sent.reduce((sum, report) => sum + (report.framesEncoded ?? 0), 0) };
			});
			await publishing;
			state.codecs = async () => {
				const used = new Set((await reports(track.sender, 'outbound-rtp')).map((report) => report.codecId));
				return (await reports(track.sender, 'codec')).filter((report) => used.has(report.id)).map((report) => report.mimeType);
			};
			state.stop = () => track.stop();
		},
		watchedFor: () => {
			const readings = state.observed?.readings ?? [];
			const first = readings.find((reading) => reading.frames > 0);
			return first ? readings.at(-1).at - first.at : 0;
		},
		async leave() {
			state.observed?.stop();
			state.stop?.();
			document.querySelectorAll('body > video').forEach((video) => video.remove());
			await state.room.disconnect();
			state.observed = undefined;
		},
	};
})()`

// judgement is the result of one start for a watcher.
type judgement struct {
	gap time.Duration // longest time between two decoded frames, without delays of the machine
	// starved is the longest time without a decoded frame in which the publisher encoded
	// nothing, or a page did not run.
	starved time.Duration
	freezes int
	frozen  time.Duration
	plis    int
	// unseen: the pages ran too seldom to judge this start, or the watcher had what it
	// needed and decoded it late.
	unseen bool
	// first is the time from the first encoded to the first decoded frame.
	first time.Duration
	// from and to are the times of the longest gap, in milliseconds since 1970.
	from, to float64
	details  string // what the pages read around a gap that is not allowed
}

// fewest is the lowest sufficient number of readings of a page; a quiet machine makes 80.
const fewest = 40

// judge finds the longest time without a decoded frame. It subtracts delays that are not
// the watcher's fault: times in which the publisher encoded nothing, and times in which a
// page could not read its statistics.
func judge(watcher, publisher []reading) (j judgement) {
	first := slices.IndexFunc(watcher, func(r reading) bool { return r.Frames > 0 })
	if first < 0 {
		return judgement{gap: watched}
	}
	last := watcher[first]
	if sent := slices.IndexFunc(publisher, func(r reading) bool { return r.Frames > 0 }); sent >= 0 {
		j.first = milliseconds(last.At - publisher[sent].At)
	}
	end := last.At + float64(watched.Milliseconds())
	var final reading
	for _, r := range watcher[first:] {
		if r.At > end {
			break
		}
		final = r
		if r.Frames == last.Frames {
			continue
		}
		starved := max(longestPause(publisher, last.At, r.At), longestSilence(watcher, last.At, r.At), longestSilence(publisher, last.At, r.At))
		if gap := milliseconds(r.At-last.At) - starved; gap > j.gap {
			j.gap, j.from, j.to = gap, last.At, r.At
		}
		j.starved = max(j.starved, starved)
		last = r
	}
	// The picture may have stood still until the end.
	if gap := milliseconds(final.At-last.At) - longestPause(publisher, last.At, final.At); gap > j.gap {
		j.gap, j.from, j.to = gap, last.At, final.At
	}
	j.unseen = within(watcher, first, end) < fewest || longestSilence(publisher, watcher[first].At, end) > watched/2
	j.freezes, j.frozen, j.plis = final.Freezes, time.Duration(final.Frozen*float64(time.Second)), final.PLIs
	return j
}

// late tells whether the watcher was late itself in the longest gap: complete frames waited
// from its beginning on, the frame that was decoded at its end was one of them, nothing was
// lost or requested, no key frame came to help, and the timestamps went on as the frames
// arrived. A watcher that lacks a frame, or is told to show one later, is not late.
func (j judgement) late(watcher []reading, shown []shownFrame) bool {
	before := slices.IndexFunc(watcher, func(r reading) bool { return r.At >= j.from })
	after := slices.IndexFunc(watcher, func(r reading) bool { return r.At >= j.to })
	soon := slices.IndexFunc(watcher, func(r reading) bool { return r.At > j.from+tolerated.Seconds()*1000 })
	if before < 0 || after < 0 || soon < 0 || watcher[after].Frames == watcher[before].Frames {
		return false
	}
	a, b := watcher[before], watcher[after]
	if b.PLIs != a.PLIs || b.NACKs != a.NACKs || b.Lost != a.Lost || b.KeyFrames != a.KeyFrames {
		return false
	}
	if watcher[soon].Complete <= a.Frames+a.Dropped || milliseconds((b.Processing-a.Processing)*1000) < j.gap-tolerated {
		return false
	}
	next := slices.IndexFunc(shown, func(s shownFrame) bool { return s.At > j.from+tolerated.Seconds()*1000 })
	if next < 1 {
		return false
	}
	p, q := shown[next-1], shown[next]
	ahead := (q.RTP-p.RTP)/90 - (q.Received - p.Received)
	return milliseconds(max(ahead, -ahead)) <= tolerated
}

// within is the number of readings from the first to the end.
func within(readings []reading, first int, end float64) (n int) {
	for _, r := range readings[first:] {
		if r.At <= end {
			n++
		}
	}
	return n
}

func milliseconds(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

// repeats is how often a start is repeated if the machine was too busy.
const repeats = 3

// tolerated is how long a page may not run, or a publisher not encode, at 15 frames and
// 10 readings a second on a busy machine.
const tolerated = 300 * time.Millisecond

// longestPause is the longest time in which the number of frames stayed the same; 0 if it
// is tolerated.
func longestPause(readings []reading, from, to float64) (longest time.Duration) {
	since, frames := from, -1
	for _, r := range readings {
		if r.At < from-500 || r.At > to+500 {
			continue
		}
		if r.Frames != frames {
			longest = max(longest, milliseconds(min(r.At, to)-max(since, from)))
			since, frames = r.At, r.Frames
		}
	}
	return unless(longest)
}

// longestSilence is the longest time between two readings; 0 if it is tolerated.
func longestSilence(readings []reading, from, to float64) (longest time.Duration) {
	for i := 1; i < len(readings); i++ {
		if readings[i].At > from && readings[i-1].At < to {
			longest = max(longest, milliseconds(readings[i].At-readings[i-1].At))
		}
	}
	return unless(longest)
}

func unless(d time.Duration) time.Duration {
	if d <= tolerated {
		return 0
	}
	return d
}

// TestJudge: faults of the server are distinguished from those of the machine.
func TestJudge(t *testing.T) {
	// series has a reading every 100 ms, with a new frame at each, except at those where
	// it stands still.
	series := func(still func(at int) bool, silent func(at int) bool) (readings []reading) {
		frames := 0
		for at := 0; at <= 9000; at += 100 {
			if !still(at) {
				frames++
			}
			if !silent(at) {
				readings = append(readings, reading{At: float64(at), Frames: frames})
			}
		}
		return readings
	}
	never := func(int) bool { return false }
	still := func(at int) bool { return at > 1000 && at < 2500 }
	steady := series(never, never)
	require.Equal(t, 100*time.Millisecond, judge(steady, steady).gap)
	require.Equal(t, 1500*time.Millisecond, judge(series(still, never), steady).gap, "a frozen picture")
	require.Less(t, judge(series(still, never), series(still, never)).gap, allowedGap, "nothing was encoded")
	require.Less(t, judge(series(never, still), steady).gap, allowedGap, "the watcher did not run")
	require.Greater(t, judge(series(func(at int) bool { return at > 3000 }, never), steady).gap, 4*time.Second, "still to the end")
	require.Equal(t, watched, judge(nil, steady).gap, "no picture at all")

	// A watcher that decodes late, and one whose frames cannot be decoded. The frames of
	// both arrive.
	arrives := func(change func(*reading)) (readings []reading) {
		for _, r := range series(still, never) {
			r.Complete = int(r.At/100) + 1
			if r.At >= 2500 {
				r.Dropped, r.Processing = 14, 1.5
				change(&r)
			}
			readings = append(readings, r)
		}
		return readings
	}
	show := func(ahead float64) (shown []shownFrame) {
		for _, r := range arrives(func(*reading) {}) {
			if !still(int(r.At)) {
				shown = append(shown, shownFrame{At: r.At, Received: r.At, RTP: 90 * r.At})
			}
			if r.At >= 2500 {
				shown[len(shown)-1].RTP += 90 * ahead
			}
		}
		return shown
	}
	late := func(watcher []reading, shown []shownFrame) bool { return judge(watcher, steady).late(watcher, shown) }
	require.True(t, late(arrives(func(*reading) {}), show(0)))
	require.False(t, late(arrives(func(r *reading) { r.KeyFrames = 1 }), show(0)), "a key frame helped")
	require.False(t, late(arrives(func(r *reading) { r.PLIs = 1 }), show(0)), "one was requested")
	require.False(t, late(arrives(func(r *reading) { r.NACKs = 1 }), show(0)), "a packet was requested")
	require.False(t, late(arrives(func(r *reading) { r.Processing = 0.1 }), show(0)), "a later frame was decoded")
	require.False(t, late(arrives(func(*reading) {}), show(800)), "the frame was to be shown later")
	require.False(t, late(series(still, never), show(0)), "nothing arrived")
}

// TestPictureGoesOn starts calls with Chromium on both sides, for each codec and with
// both connection modes, and observes the first seconds: once there is a picture, it must
// continue. PARLOR_TEST_STARTS sets the number of starts of each kind.
// PARLOR_TEST_AGAINST="name=ws://localhost:PORT,..." names other LiveKit-compatible
// servers with the development key, whose starts alternate with these and are not judged.
func TestPictureGoesOn(t *testing.T) {
	if testing.Short() {
		t.Skip("drives a browser")
	}
	starts := 3
	if v := os.Getenv("PARLOR_TEST_STARTS"); v != "" {
		n, err := strconv.Atoi(v)
		require.NoError(t, err, "PARLOR_TEST_STARTS")
		starts = n
	}
	findChromium(t)
	var table strings.Builder
	// Logged after the server's output, because long outputs are cut at their front.
	t.Cleanup(func() { t.Log("\n" + table.String()) })
	f := &fixture{startServer(t, buildServer(t)), startBrowser(t, fakeDevices(t)...)}
	watchers := []string{"single", "dual"}
	const parlor = "Parlor"
	names, urls := []string{parlor}, []string{"ws://localhost:" + f.server.port}
	if others := os.Getenv("PARLOR_TEST_AGAINST"); others != "" {
		for other := range strings.SplitSeq(others, ",") {
			name, url, found := strings.Cut(other, "=")
			require.True(t, found, "PARLOR_TEST_AGAINST: %q is not name=url", other)
			names, urls = append(names, name), append(urls, url)
		}
	}
	publisher := f.observer(t, "publisher")
	pages := []*page{f.observer(t, watchers[0]), f.observer(t, watchers[1])}

	fmt.Fprintf(&table, "%-8s%-6s%-8s%-8s%-14s%-10s%-10s%-6s%s\n", "server", "codec", "mode", "starts", "longest gap", "freezes", "frozen", "PLIs", "gaps above 500 ms")
	for _, codec := range []string{"vp8", "h264", "vp9", "av1"} {
		seen := map[[2]string][]judgement{}
		for start := range starts {
			for i, name := range names {
				judged := f.start(t, urls[i], codec, start, publisher, pages)
				for again := 1; again <= repeats && slices.ContainsFunc(judged, func(j judgement) bool { return j.unseen }); again++ {
					judged = f.start(t, urls[i], codec, start+again*starts, publisher, pages)
				}
				for w, j := range judged {
					require.False(t, j.unseen, "the machine is too busy to judge a start")
					seen[[2]string{name, watchers[w]}] = append(seen[[2]string{name, watchers[w]}], j)
				}
			}
		}
		for _, mode := range watchers {
			for _, name := range names {
				judged := seen[[2]string{name, mode}]
				var sum judgement
				var bad int
				var details string
				for _, j := range judged {
					sum.gap = max(sum.gap, j.gap)
					sum.freezes, sum.frozen, sum.plis = sum.freezes+j.freezes, sum.frozen+j.frozen, sum.plis+j.plis
					if j.gap > allowedGap {
						bad++
						details += j.details
					}
				}
				fmt.Fprintf(&table, "%-8s%-6s%-8s%-8d%-14v%-10d%-10v%-6d%d\n", name, codec, mode, len(judged), sum.gap.Round(time.Millisecond),
					sum.freezes, sum.frozen.Round(time.Millisecond), sum.plis, bad)
				table.WriteString(details)
				if bad > 0 && name == parlor {
					t.Errorf("%s, %s: in %d of %d starts the picture stood still for more than %v", codec, mode, bad, len(judged), allowedGap)
				}
			}
		}
	}
}

// observer opens a page with the observers' script. It stays in the lobby.
func (f *fixture) observer(t *testing.T, name string) *page {
	p := f.browser.open(t, name, f.server.page("room", "x", "audio", "0", "video", "0"))
	p.do(observers)
	return p
}

// start makes the publisher join a room in which the watchers wait.
func (f *fixture) start(t *testing.T, url, codec string, n int, publisher *page, watchers []*page) (seen []judgement) {
	room := fmt.Sprintf("start-%s-%d", codec, n)
	join := func(p *page, identity string, single bool) {
		token := f.server.token(identity, time.Hour, auth.VideoGrant{RoomJoin: true, Room: room})
		p.do(fmt.Sprintf(`await starts.join(%q, %q, %t)`, url, token, single))
	}
	for i, p := range watchers {
		join(p, p.name, i == 0)
	}
	join(publisher, publisher.name, n%2 == 0)
	stalled := watchMachine()
	publisher.do(fmt.Sprintf(`await starts.publish(%q)`, codec))
	for _, p := range watchers {
		p.until("the first seconds to be seen", fmt.Sprintf(`starts.watchedFor() > %d`, watched.Milliseconds()))
	}
	stall := stalled()
	require.Equal(t, []string{"video/" + strings.ToUpper(codec)}, slices.Compact(get[[]string](publisher, `await starts.state.codecs()`)), "the codec that is sent")
	encoded := readings(t, publisher)
	for _, p := range watchers {
		decoded := readings(t, p)
		require.NotEmpty(t, decoded)
		j := judge(decoded, encoded)
		if j.gap > allowedGap && stall > allowedGap/2 {
			j.unseen = true // nothing on this machine ran, the server neither
		}
		shown := shownFrames(t, p)
		require.NotEmpty(t, shown)
		if j.gap > allowedGap {
			j.details = around(j, decoded, encoded, shown)
			j.unseen = j.unseen || j.late(decoded, shown)
		}
		seen = append(seen, j)
		t.Logf("%s, %s, start %d, %s: longest gap %v (machine: %v, stood still for %v), freezes %d (%v), PLIs %d, height %d, first picture after %v, unseen %t%s", url, codec, n, p.name, j.gap.Round(time.Millisecond),
			j.starved.Round(time.Millisecond), stall.Round(time.Millisecond), j.freezes, j.frozen.Round(time.Millisecond), j.plis, decoded[len(decoded)-1].Height,
			j.first.Round(time.Millisecond), j.unseen, "\n"[:min(1, len(j.details))]+j.details)
	}
	for _, p := range append(slices.Clone(watchers), publisher) {
		p.do(`await starts.leave()`)
	}
	return seen
}

// around tells what the pages read shortly before, in and after the longest gap.
func around(j judgement, watcher, publisher []reading, shown []shownFrame) string {
	var text strings.Builder
	near := func(at float64) bool { return at >= j.from-300 && at <= j.to+300 }
	for _, r := range watcher {
		if near(r.At) {
			fmt.Fprintf(&text, "  %6.0f ms: decoded %d of %d complete frames (%d key frames), dropped %d, %d packets (%d lost), height %d, NACKs %d, PLIs %d, processing %.3f s\n",
				r.At-j.from, r.Frames, r.Complete, r.KeyFrames, r.Dropped, r.Received, r.Lost, r.Height, r.NACKs, r.PLIs, r.Processing)
		}
	}
	text.WriteString("  encoded:")
	for _, r := range publisher {
		if near(r.At) {
			fmt.Fprintf(&text, " %.0f ms: %d,", r.At-j.from, r.Frames)
		}
	}
	text.WriteString("\n  shown, received, timestamp:")
	for _, s := range shown {
		if near(s.At) {
			fmt.Fprintf(&text, " %.0f, %.0f, %.0f ms;", s.At-j.from, s.Received-j.from, (s.RTP-shown[0].RTP)/90)
		}
	}
	return text.String() + "\n"
}

// shownFrames are the frames that a page has shown so far.
func shownFrames(t *testing.T, p *page) (list []shownFrame) {
	require.NoError(t, json.Unmarshal([]byte(get[string](p, `JSON.stringify(starts.state.shown)`)), &list))
	return list
}

// watchMachine measures for how long a goroutine that sleeps for 10 ms at a time was not run.
func watchMachine() (stop func() time.Duration) {
	end, longest := make(chan struct{}), make(chan time.Duration)
	go func() {
		most, last := time.Duration(0), time.Now()
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				now := time.Now()
				most, last = max(most, now.Sub(last)), now
			case <-end:
				longest <- most
				return
			}
		}
	}()
	return func() time.Duration {
		close(end)
		return <-longest
	}
}

// readings are a page's readings so far, in order of time.
func readings(t *testing.T, p *page) (list []reading) {
	require.NoError(t, json.Unmarshal([]byte(get[string](p, `JSON.stringify(starts.state.observed.readings)`)), &list))
	slices.SortFunc(list, func(a, b reading) int { return cmp.Compare(a.At, b.At) })
	return list
}
