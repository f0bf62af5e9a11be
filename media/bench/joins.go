package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/pprof/profile"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
)

// joinsCommand is the argument that measures what joins and subscriptions cost.
const joinsCommand = "joins"

const (
	// murmurInterval is the time between a speaker's packets: so few that forwarding them
	// costs little beside the joins.
	murmurInterval = 100 * time.Millisecond
	// settling is how long a room is left alone before its memory is measured.
	settling = 2 * time.Second
	// aside is how many speakers join a room in which nobody listens, to find out what a
	// speaker costs without listeners.
	aside = 8
)

// joinSettings are the parameters of a run.
type joinSettings struct {
	settings
	listeners int    // that join at once
	speakers  int    // that join after them
	present   int    // that speak in the room before them
	profile   string // file for the servers' CPU profile; "": none is taken
	late      bool   // the profile is of what follows the joins
	heap      string // file for the heap's profile in the end, of the last server; "": none is taken

	profiles []*profile.Profile // of each round and server
}

// runJoins prints what a join and a subscription cost the server.
func runJoins(ctx context.Context, args []string, out io.Writer) (err error) {
	s := joinSettings{settings: settings{feedback: true, key: "devkey", secret: "secret"}}
	f := flag.NewFlagSet("bench "+joinsCommand, flag.ContinueOnError)
	f.IntVar(&s.listeners, "listeners", 60, "participants that join a room at once")
	f.IntVar(&s.present, "present", 1, "participants that speak in the room before them")
	f.IntVar(&s.speakers, "speakers", 4, "participants that join and speak after them")
	f.IntVar(&s.rounds, "rounds", 3, "rounds; each measures every program once")
	f.StringVar(&s.profile, "cpuprofile", "", "file for the CPU profile of the servers while the listeners join")
	f.BoolVar(&s.late, "late", false, "let the profile be of the later speakers' joins")
	f.StringVar(&s.heap, "heapprofile", "", "file for the profile of the last server's heap, in the end")
	f.Var(&s.servers, "server", "[name=]binary of Parlor to measure; repeatable; default: built from this module")
	if err := f.Parse(args); err != nil {
		return err
	}
	if s.listeners < 1 || s.present < 1 || s.speakers < 1 || s.rounds < 1 {
		return errors.New("listeners, present, speakers and rounds must be positive")
	}
	dir, err := os.MkdirTemp("", "parlor-joins")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if len(s.servers) == 0 {
		fmt.Fprintln(out, "building the server")
		binary, err := build(ctx, dir)
		if err != nil {
			return err
		}
		s.servers = serverFlags{"parlor=" + binary}
	}
	results := map[string][]joinCosts{}
	for round := range s.rounds {
		for i, spec := range s.servers {
			name, binary := serverNamed(spec)
			r, err := s.measure(ctx, name, binary, filepath.Join(dir, fmt.Sprintf("%d-%d", round, i)))
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			results[name] = append(results[name], r)
			r.print(out, fmt.Sprintf("round %d  %s", round+1, name))
		}
	}
	fmt.Fprintf(out, "\nmedians of %d rounds, %d speakers, %d listeners, %d more speakers\n", s.rounds, s.present, s.listeners, s.speakers)
	for _, spec := range s.servers {
		name, _ := serverNamed(spec)
		middleCosts(results[name]).print(out, name)
	}
	if s.profile == "" {
		return nil
	}
	merged, err := profile.Merge(s.profiles)
	if err != nil {
		return fmt.Errorf("merge profiles: %w", err)
	}
	return writeProfile(merged, s.profile)
}

// joinCosts is what joins and subscriptions cost one server.
type joinCosts struct {
	join         float64 // ms of CPU time of a join
	subscription float64 // ms of CPU time of a subscription to a speaker who comes later, without the speaker's own
	participant  float64 // KB in use for a listener with one subscription
	one          float64 // KB in use for one more subscription
	first        float64 // ms, 95th percentile from a join to its first packet
	resident     float64 // MB, in the end
}

func (r joinCosts) print(out io.Writer, name string) {
	fmt.Fprintf(out, "%-24s %6.2f ms CPU/join  %6.3f ms CPU/subscription  %7.1f KB/listener  %6.1f KB/subscription  %6.0f ms to media (p95)  %5.0f MB resident\n",
		name, r.join, r.subscription, r.participant, r.one, r.first, r.resident)
}

// middleCosts has the median of each figure.
func middleCosts(all []joinCosts) (r joinCosts) {
	middle := func(figure func(*joinCosts) *float64) {
		v := make([]float64, len(all))
		for i := range all {
			v[i] = *figure(&all[i])
		}
		slices.Sort(v)
		*figure(&r) = v[len(v)/2]
	}
	middle(func(c *joinCosts) *float64 { return &c.join })
	middle(func(c *joinCosts) *float64 { return &c.subscription })
	middle(func(c *joinCosts) *float64 { return &c.participant })
	middle(func(c *joinCosts) *float64 { return &c.one })
	middle(func(c *joinCosts) *float64 { return &c.first })
	middle(func(c *joinCosts) *float64 { return &c.resident })
	return r
}

// listener hears the tracks of a room.
type listener struct {
	client *client
	since  time.Time
	first  atomic.Int64 // ns from the join to its first packet
	tracks atomic.Int64 // of which a packet has come
}

// listen reads a track until it ends.
func (l *listener) listen(t *webrtc.TrackRemote, r *webrtc.RTPReceiver) {
	go func() { // ends with the track
		buf := make([]byte, 2048)
		for {
			if _, _, err := r.Read(buf); err != nil { // RTCP must be read for the interceptors
				return
			}
		}
	}()
	buf := make([]byte, 2048)
	for n := 0; ; n++ {
		if _, _, err := t.Read(buf); err != nil {
			return
		}
		if n == 0 {
			l.first.CompareAndSwap(0, int64(time.Since(l.since)))
			l.tracks.Add(1)
		}
	}
}

// audience is the participants of a room.
type audience struct {
	listeners []*listener
	speakers  []*client
	speaking  sync.WaitGroup
	stop      context.CancelFunc
}

// speak lets a speaker join, who sends a packet now and then.
func (a *audience) speak(ctx context.Context, s settings, url, room string, api *webrtc.API) error {
	voice, err := newCamera(uint64(len(a.speakers)))
	if err != nil {
		return err
	}
	voice.silent = true
	one := &client{publish: voice, watch: (&listener{since: time.Now()}).listen}
	if err := one.join(ctx, s, url, room, fmt.Sprintf("speaker-%d", len(a.speakers)), api); err != nil {
		return err
	}
	a.speakers = append(a.speakers, one)
	a.speaking.Go(func() { murmur(ctx, voice.voice) })
	return one.waitReady(ctx)
}

// murmur sends packets until ctx ends.
func murmur(ctx context.Context, to *webrtc.TrackLocalStaticRTP) {
	ticks := time.NewTicker(murmurInterval)
	defer ticks.Stop()
	for n := uint16(0); ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
			_ = to.WriteRTP(&rtp.Packet{ // fails before the connection is up
				Header:  rtp.Header{Version: 2, SequenceNumber: n, Timestamp: uint32(n) * 48 * uint32(murmurInterval.Milliseconds())},
				Payload: make([]byte, voicePayload),
			})
		}
	}
}

// fill lets the listeners join, and waits until each of them hears all speakers.
func (a *audience) fill(ctx context.Context, s *joinSettings, url, room string, api *webrtc.API) error {
	var mu sync.Mutex // guards a.listeners and failed
	var failed []error
	var joining sync.WaitGroup
	places := make(chan struct{}, joinsAtOnce)
	for i := range s.listeners {
		places <- struct{}{}
		joining.Go(func() {
			defer func() { <-places }()
			l := &listener{since: time.Now()}
			l.client = &client{watch: l.listen}
			err := l.client.join(ctx, s.settings, url, room, fmt.Sprintf("listener-%d", i), api)
			mu.Lock()
			defer mu.Unlock()
			if failed = append(failed, err); err == nil {
				a.listeners = append(a.listeners, l)
			}
		})
	}
	joining.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	return a.hear(ctx, s.present)
}

// hear waits until each listener hears that many tracks.
func (a *audience) hear(ctx context.Context, tracks int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, l := range a.listeners {
		for l.tracks.Load() < int64(tracks) {
			if err := wait(ctx, 10*time.Millisecond); err != nil {
				return fmt.Errorf("%s hears %d of %d tracks: %w", l.client.identity, l.tracks.Load(), tracks, err)
			}
		}
	}
	return nil
}

func (a *audience) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var closing sync.WaitGroup
	for _, c := range a.speakers {
		closing.Go(func() { c.close(ctx) })
	}
	for _, l := range a.listeners {
		closing.Go(func() { l.client.close(ctx) })
	}
	closing.Wait()
	a.stop()
	a.speaking.Wait()
}

// measure starts a server, fills a room of it, and adds speakers.
func (s *joinSettings) measure(ctx context.Context, name, binary, dir string) (r joinCosts, err error) {
	v, debug, err := startDebugged(ctx, name, binary, s.settings, dir)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, v.stop()) }()
	ctx, cancel := context.WithCancel(ctx)
	a := &audience{stop: cancel}
	defer a.close()
	speakerAPI, err := newAPI(true, true)
	if err != nil {
		return r, err
	}
	listenerAPI, err := newAPI(true, false)
	if err != nil {
		return r, err
	}
	const room = "joins"
	for range s.present {
		if err := a.speak(ctx, s.settings, v.url, room, speakerAPI); err != nil {
			return r, err
		}
	}
	empty, err := s.settled(ctx, debug)
	if err != nil {
		return r, err
	}
	speaker, err := s.costOf(ctx, v, debug, false, func() error {
		for range aside {
			if err := a.speak(ctx, s.settings, v.url, "aside", speakerAPI); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return r, err
	}
	before, err := s.settled(ctx, debug)
	if err != nil {
		return r, err
	}
	joins, err := s.costOf(ctx, v, debug, !s.late, func() error { return a.fill(ctx, s, v.url, room, listenerAPI) })
	if err != nil {
		return r, err
	}
	var firsts []time.Duration
	for _, l := range a.listeners {
		firsts = append(firsts, time.Duration(l.first.Load()))
	}
	filled, err := s.settled(ctx, debug)
	if err != nil {
		return r, err
	}
	more, err := s.costOf(ctx, v, debug, s.late, func() error {
		for i := range s.speakers {
			if err := a.speak(ctx, s.settings, v.url, room, speakerAPI); err != nil {
				return err
			}
			if err := a.hear(ctx, s.present+1+i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return r, err
	}
	all, err := s.settled(ctx, debug)
	if err != nil {
		return r, err
	}
	listeners, speakers := float64(s.listeners), float64(s.speakers)
	r.join, r.participant = joins/listeners, (filled-before)/listeners
	r.first = 1e3 * percentile(firsts, 95).Seconds()
	r.subscription = (more - speakers*speaker/aside) / (listeners * speakers)
	r.one = (all - filled - speakers*(before-empty)/aside) / (listeners * speakers)
	if s.heap != "" {
		if err := s.writeHeap(ctx, debug); err != nil {
			return r, err
		}
	}
	r.resident, err = resident(v.pid)
	return r, err
}

// costOf is the server's CPU time in ms while f runs. If profiled, and wanted, a profile begins
// with f.
func (s *joinSettings) costOf(ctx context.Context, v *server, debug string, profiled bool, f func() error) (float64, error) {
	end := func() error { return nil }
	if profiled && s.profile != "" {
		end = s.takeProfile(ctx, debug)
	}
	ms, err := cpuTimeOf(v, f)
	return ms, errors.Join(err, end())
}

// cpuTimeOf is the server's CPU time in ms while f runs.
func cpuTimeOf(v *server, f func() error) (float64, error) {
	done, err := meter(v.pid)
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	user, system, err := done()
	return 1e3 * (user + system).Seconds(), err
}

// settled waits until the room has settled, and returns what is in use then.
func (s *joinSettings) settled(ctx context.Context, debug string) (float64, error) {
	if err := wait(ctx, settling); err != nil {
		return 0, err
	}
	return inUse(ctx, debug)
}

// takeProfile begins a CPU profile; the returned function waits for it, and keeps it.
func (s *joinSettings) takeProfile(ctx context.Context, debug string) func() error {
	const window = 4 * time.Second
	var p *profile.Profile
	var err error
	var taking sync.WaitGroup
	taking.Go(func() { p, err = cpuProfile(ctx, debug, window) })
	return func() error {
		taking.Wait()
		if err != nil {
			return err
		}
		s.profiles = append(s.profiles, p)
		return nil
	}
}

// writeHeap writes the profile of a server's heap.
func (s *joinSettings) writeHeap(ctx context.Context, debug string) (err error) {
	profile, err := heapProfile(ctx, debug+"/debug/pprof/heap?gc=1")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, profile.Close()) }()
	f, err := os.Create(s.heap)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, profile)
	return errors.Join(err, f.Close())
}

func heapProfile(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("read a server's memory: %w", err)
	}
	return res.Body, nil
}

// inUse is the memory in KB that a server has in use after a collection: its heap and its
// goroutines' stacks.
func inUse(ctx context.Context, debug string) (float64, error) {
	text, err := heapProfile(ctx, debug+"/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return 0, err
	}
	defer text.Close()
	return memoryIn(text)
}

// memoryIn reads what is in use, in KB, from a heap profile in text.
func memoryIn(text io.Reader) (float64, error) {
	bytes, found := 0.0, 0
	for lines := bufio.NewScanner(text); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), "# HeapAlloc = ")
		if !ok {
			if rest, ok = strings.CutPrefix(lines.Text(), "# Stack = "); !ok {
				continue
			}
			rest, _, _ = strings.Cut(rest, " / ")
		}
		n, err := strconv.ParseFloat(rest, 64)
		if err != nil {
			return 0, fmt.Errorf("read a server's memory: %w", err)
		}
		bytes, found = bytes+n, found+1
	}
	if found != 2 {
		return 0, errors.New("read a server's memory: its heap profile does not tell it")
	}
	return bytes / 1024, nil
}
