package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"parlor/media/emulator"
)

// networkCommand is the argument that runs the scenarios of bad networks.
const networkCommand = "network"

// scenario is a room behind a bad network.
type scenario struct {
	name                    string
	publishers, subscribers int
	phases                  []phase
	bulk                    bool // a TCP flow shares the way to the subscribers
	screen                  bool // the first publisher's picture is a screen share
	// uplink: it is the first publisher that is behind the bad network, not the subscribers.
	uplink bool
}

// phase is the state of the network for some time. It is the same in both directions, but
// only the direction to the subscribers has a bounded rate.
type phase struct {
	name   string
	length time.Duration
	change func(*emulator.Conditions)
}

// warming is how long media flows over a clean network before the measurement.
const warming = 5 * time.Second

func scenarios(short bool) []scenario {
	length := func(d time.Duration) time.Duration {
		if short {
			return d / 3
		}
		return d
	}
	one := func(name string, change func(*emulator.Conditions)) scenario {
		return scenario{name: name, publishers: 1, subscribers: 1, phases: []phase{{"", length(30 * time.Second), change}}}
	}
	rate := func(r float64) func(*emulator.Conditions) { return func(c *emulator.Conditions) { c.Rate = r } }
	loss := func(l float64) func(*emulator.Conditions) {
		return func(c *emulator.Conditions) { c.Rate, c.Loss = 3e6, l }
	}
	return []scenario{
		one("1 % loss", loss(0.01)),
		one("5 % loss", loss(0.05)),
		one("10 % loss", loss(0.1)),
		one("bursts of loss", func(c *emulator.Conditions) { c.Rate, c.Burst, c.BurstLength = 3e6, 0.005, 6 }),
		one("200 ms round trip", func(c *emulator.Conditions) { c.Rate, c.Delay = 3e6, 100*time.Millisecond }),
		one("30 ms jitter, reordered", func(c *emulator.Conditions) { c.Rate, c.Jitter, c.Reorder = 3e6, 30*time.Millisecond, true }),
		{name: "steps", publishers: 1, subscribers: 1, phases: []phase{
			{"20 M", length(15 * time.Second), rate(20e6)},
			{"600 k", length(25 * time.Second), rate(600e3)},
			{"3 M", length(30 * time.Second), rate(3e6)},
			{"250 k", length(20 * time.Second), rate(250e3)},
			{"20 M again", length(25 * time.Second), rate(20e6)},
		}},
		{name: "two share 1.5 M", publishers: 1, subscribers: 2, phases: []phase{{"", length(30 * time.Second), rate(1.5e6)}}},
		{name: "beside TCP, 2 M", publishers: 3, subscribers: 1, bulk: true, phases: []phase{{"", length(60 * time.Second), rate(2e6)}}},
		{name: "9 publishers, 1.5 M", publishers: 9, subscribers: 1, phases: []phase{{"", length(30 * time.Second), rate(1.5e6)}}},
		{name: "screen and 5 cameras", publishers: 6, subscribers: 1, screen: true, phases: []phase{{"1.5 M", length(30 * time.Second), rate(1.5e6)}}},
		{name: "uplink narrows", publishers: 1, subscribers: 1, uplink: true, phases: []phase{
			{"20 M", length(15 * time.Second), rate(20e6)},
			{"700 k", length(30 * time.Second), rate(700e3)},
			{"20 M again", length(30 * time.Second), rate(20e6)},
		}},
	}
}

// site is a measured server.
type site struct {
	name, url, key, secret string
}

func runNetwork(ctx context.Context, args []string, out io.Writer) (err error) {
	var against, only, binary string
	var short bool
	f := flag.NewFlagSet("bench "+networkCommand, flag.ContinueOnError)
	f.StringVar(&against, "against", "", "ws:// address of a LiveKit-compatible server to measure too; its key and secret follow the flags")
	f.StringVar(&only, "only", "", "names of scenarios, or parts of them, separated by commas; all without it")
	f.StringVar(&binary, "server", "", "binary of Parlor to measure; default: built from this module")
	f.BoolVar(&short, "short", false, "a third of the time for each")
	if err := f.Parse(args); err != nil {
		return err
	}
	var chosen []scenario
	for _, s := range scenarios(short) {
		if only == "" || slices.ContainsFunc(strings.Split(only, ","), func(part string) bool { return strings.Contains(s.name, strings.TrimSpace(part)) }) {
			chosen = append(chosen, s)
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("no scenario is called %q", only)
	}
	dir, err := os.MkdirTemp("", "parlor-network")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if binary == "" {
		fmt.Fprintln(out, "building the server")
		if binary, err = build(ctx, dir); err != nil {
			return err
		}
	}
	own, err := start(ctx, "parlor", binary, settings{}, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, own.stop()) }()
	sites := []site{{"parlor", own.url, "devkey", "secret"}}
	if against != "" {
		other := site{"other", strings.TrimSuffix(against, "/"), "devkey", "secret"}
		switch f.NArg() {
		case 0:
		case 2:
			other.key, other.secret = f.Arg(0), f.Arg(1)
		default:
			return errors.New("-against URL is followed by a key and a secret")
		}
		sites = append(sites, other)
	}
	return compare(ctx, chosen, sites, out)
}

// compare runs each scenario against each server, and prints a row for each phase.
func compare(ctx context.Context, chosen []scenario, sites []site, out io.Writer) error {
	fmt.Fprintf(out, "%-24s %-11s %-7s %7s %6s %7s %8s %5s %6s %7s %7s %7s %5s %7s %5s %s\n",
		"scenario", "phase", "server", "85 %", "share", "freezes", "frozen", "fps", "height", "median", "p95", "dropped", "keys", "sound", "fair", "told")
	for _, s := range chosen {
		for _, at := range sites {
			results, err := s.run(ctx, at)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", s.name, at.name, err)
			}
			for i, r := range results {
				fmt.Fprintf(out, "%-24s %-11s %-7s %s\n", s.name, s.phases[i].name, at.name, &r)
			}
		}
	}
	return nil
}

// result is the outcome of a phase, for all subscribers and all their tracks together.
type result struct {
	reached     time.Duration // time until 85 % of the usable bandwidth is used; -1: never
	share       float64       // share of the usable bandwidth that is used in the second half
	freezes     int
	frozen      time.Duration
	fps         float64 // of each video
	height      int     // median of the frames in the second half, pixels
	median, p95 time.Duration
	dropped     int     // packets dropped because the queue was full
	keys        int     // keyframes that publishers were asked for
	missing     float64 // share of audio packets that did not arrive
	fair        float64 // the least of the bitrates that share the path, divided by the highest; 0: there is one
	told        string  // the worst connection quality that the first publisher received
}

func (r *result) String() string {
	reached := "never"
	if r.reached >= 0 {
		reached = fmt.Sprintf("%.1f s", r.reached.Seconds())
	}
	fair := "-"
	if r.fair > 0 {
		fair = fmt.Sprintf("%.2f", r.fair)
	}
	return fmt.Sprintf("%7s %5.0f%% %7d %6.1f s %5.1f %6d %4d ms %4d ms %7d %5d %6.2f%% %5s %s", reached, 100*r.share,
		r.freezes, r.frozen.Seconds(), r.fps, r.height, r.median.Milliseconds(), r.p95.Milliseconds(), r.dropped, r.keys, 100*r.missing, fair, r.told)
}

// run runs the scenario on a server.
func (s *scenario) run(ctx context.Context, at site) (results []result, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var sending sync.WaitGroup
	way := &path{}
	way.set(clean(), emulator.Conditions{Delay: clean().Delay})
	var clients []*client
	defer func() {
		ending, done := context.WithTimeout(context.Background(), 5*time.Second)
		defer done()
		for _, c := range clients {
			c.close(ending)
		}
		cancel()
		sending.Wait()
		err = errors.Join(err, way.close())
	}()
	pubAPI, err := newAPI(true, true)
	if err != nil {
		return nil, err
	}
	subAPI, err := newAPI(true, false)
	if err != nil {
		return nil, err
	}
	room, access := fmt.Sprintf("network-%d", time.Now().UnixNano()), settings{key: at.key, secret: at.secret}
	var cameras []*camera
	for i := range s.publishers {
		camera, err := newCamera(uint64(i))
		if err != nil {
			return nil, err
		}
		camera.screen = s.screen && i == 0
		cameras = append(cameras, camera)
		c := &client{publish: camera}
		if s.uplink && i == 0 {
			c.path = way
		}
		if err := c.join(ctx, access, at.url, room, fmt.Sprintf("publisher-%d", i), pubAPI); err != nil {
			return nil, err
		}
		clients = append(clients, c)
		if err := c.waitReady(ctx); err != nil {
			return nil, err
		}
		sending.Go(func() { camera.run(ctx) })
	}
	var viewers []*viewer
	for i := range s.subscribers {
		v := newViewer(s.publishers)
		c := &client{watch: v.watch}
		if !s.uplink {
			c.path = way
		}
		v.client = c
		if err := c.join(ctx, access, at.url, room, fmt.Sprintf("subscriber-%d", i), subAPI); err != nil {
			return nil, err
		}
		clients, viewers = append(clients, c), append(viewers, v)
		if err := v.waitShown(ctx); err != nil {
			return nil, err
		}
	}
	if err := wait(ctx, warming); err != nil {
		return nil, err
	}
	var flow *emulator.Bulk
	if s.bulk {
		flow = way.startBulk()
		defer flow.Stop()
	}
	for _, p := range s.phases {
		c := clean()
		p.change(&c)
		r, err := s.measure(ctx, p, c, way, viewers, cameras, flow)
		r.told = clients[0].toldWorst()
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	return results, errors.Join(failures(clients)...)
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// failures are the errors of clients that ended early.
func failures(clients []*client) (all []error) {
	for _, c := range clients {
		select {
		case err := <-c.failed:
			all = append(all, fmt.Errorf("%s: %w", c.identity, err))
		default:
		}
	}
	return all
}

// Throughput is measured each lookEvery, over lookOver of these looks.
const (
	lookEvery = 100 * time.Millisecond
	lookOver  = 10 // looks
)

// measure runs a phase. flow is the TCP flow that shares the path; nil if there is none.
func (s *scenario) measure(ctx context.Context, p phase, c emulator.Conditions, way *path, viewers []*viewer, cameras []*camera, flow *emulator.Bulk) (r result, err error) {
	usable := min(c.Rate, float64(s.publishers*s.subscribers)*(cameraRate+voiceRate))
	if s.uplink {
		usable = cameraRate + voiceRate // of the way to the subscriber, which has room
	}
	keys := int64(0)
	for _, camera := range cameras {
		keys -= camera.keys.Load()
	}
	begin := time.Now()
	for _, v := range viewers {
		v.begin()
	}
	way.take(s.uplink)
	back := emulator.Conditions{Delay: c.Delay, Jitter: c.Jitter, Reorder: c.Reorder}
	if s.uplink {
		c, back = back, c
	}
	way.set(c, back)
	if flow != nil {
		flow.Take()
	}
	r.reached = -1
	var looks []float64 // bits
	var half, shown float64
	var waits []time.Duration
	ticks := time.NewTicker(lookEvery)
	defer ticks.Stop()
	for time.Since(begin) < p.length {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return r, ctx.Err()
		}
		t := way.take(s.uplink)
		bits := float64(8 * (t.Bytes + 28*t.Packets))
		if s.uplink { // what came of it counts
			bits = -shown
			shown = 0
			for _, v := range viewers {
				shown += v.took()
			}
			bits += shown
		}
		looks, waits = append(looks, bits), append(waits, t.Waits...)
		r.dropped += t.Dropped
		if time.Since(begin) > p.length/2 {
			half += bits
		}
		if n := len(looks); r.reached < 0 && n >= lookOver {
			sum := 0.0
			for _, b := range looks[n-lookOver:] {
				sum += b
			}
			if sum/(lookOver*lookEvery.Seconds()) >= 0.85*usable {
				r.reached = time.Since(begin)
			}
		}
	}
	r.share = half / (p.length / 2).Seconds() / usable
	var all float64
	for _, b := range looks {
		all += b
	}
	got := make([]float64, 0, len(viewers)+1)
	for _, v := range viewers {
		got = append(got, v.took())
	}
	if flow != nil {
		bulk := float64(8 * flow.Take())
		got = []float64{bulk, all - bulk}
	}
	if len(got) > 1 {
		r.fair = slices.Min(got) / max(slices.Max(got), 1)
	}
	slices.Sort(waits)
	if n := len(waits); n > 0 {
		r.median, r.p95 = waits[n/2], waits[n*95/100]
	}
	for _, camera := range cameras {
		keys += camera.keys.Load()
	}
	r.keys = int(keys)
	for _, v := range viewers {
		v.end(begin, time.Now(), &r)
	}
	r.fps /= float64(s.publishers * s.subscribers)
	r.missing /= float64(s.subscribers)
	return r, nil
}
