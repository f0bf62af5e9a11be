package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/webrtc/v4"
)

// loadsCommand is the argument that runs the kinds of rooms.
const loadsCommand = "loads"

// kind is a kind of room, and how many there are.
type kind struct {
	name    string
	rooms   int
	members int  // of each room, that publish and subscribe
	viewers int  // of each room, that only subscribe
	picture bool // members publish a camera in simulcast, and not only a voice
	// floor is what the floor programs send to each receiver; zero: there is no floor.
	floor floorOrder
}

// clients is the number of participants.
func (k *kind) clients() int { return k.rooms * (k.members + k.viewers) }

// kinds are the measured ones.
func kinds() []kind {
	return []kind{
		{
			name: "video to 60", rooms: 1, members: 1, viewers: 60, picture: true,
			floor: floorOrder{FPS: 1 / cameraInterval.Seconds(), PerFrame: 4, Len: 950},
		},
		{
			name: "video to 200", rooms: 1, members: 1, viewers: 200, picture: true,
			floor: floorOrder{FPS: 1 / cameraInterval.Seconds(), PerFrame: 4, Len: 950},
		},
		{
			name: "10 speakers to 200", rooms: 1, members: 10, viewers: 200,
			// Voices come one at a time: a batch is one packet to each receiver.
			floor: floorOrder{FPS: 500, PerFrame: 1, Len: voicePayload},
		},
		{name: "meeting of 10", rooms: 1, members: 10, picture: true},
		{name: "10 meetings of 4", rooms: 10, members: 4, picture: true},
	}
}

// runLoads prints what kinds of rooms cost.
func runLoads(ctx context.Context, args []string, out io.Writer) (err error) {
	s := settings{feedback: true, key: "devkey", secret: "secret"}
	var only string
	f := flag.NewFlagSet("bench "+loadsCommand, flag.ContinueOnError)
	f.StringVar(&only, "only", "", "names of kinds, or parts of them, separated by commas; all without it")
	f.IntVar(&s.rounds, "rounds", 3, "rounds; each measures every program once")
	f.DurationVar(&s.window, "window", 8*time.Second, "how long each program is measured for")
	f.Var(&s.servers, "server", "[name=]binary of Parlor to measure; repeatable; default: built from this module")
	f.StringVar(&s.serverArgs, "server-args", "", "further arguments for the server, space-separated")
	f.StringVar(&s.url, "against", "", "ws:// address of a LiveKit-compatible server to measure too")
	f.IntVar(&s.pid, "pid", 0, "its process id")
	f.StringVar(&s.key, "key", s.key, "its API key")
	f.StringVar(&s.secret, "secret", s.secret, "its API secret")
	if err := f.Parse(args); err != nil {
		return err
	}
	if (s.url == "") != (s.pid == 0) || s.rounds < 1 {
		return errors.New("-against and -pid come together; rounds must be positive")
	}
	chosen, err := kindsNamed(only)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "parlor-loads")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	own := s
	own.url, own.pid = "", 0
	if len(own.servers) == 0 {
		fmt.Fprintln(out, "building the server")
		binary, err := build(ctx, dir)
		if err != nil {
			return err
		}
		own.servers = serverFlags{"parlor=" + binary}
	}
	fmt.Fprintf(out, "%-20s %-16s %9s %10s %8s %8s %7s %8s %8s %9s %9s\n", "kind", "server", "packets/s", "us/packet",
		"x floor", "user", "loss", "p99 ms", "MB", "ms/join", "p95 ms")
	for i := range chosen {
		if err := chosen[i].compare(ctx, own, s, dir, out); err != nil {
			return fmt.Errorf("%s: %w", chosen[i].name, err)
		}
	}
	return nil
}

// outcome is what one window of a kind on one server came to.
type outcome struct {
	sample
	seconds  float64
	latency  time.Duration // 99th percentile of the way from one client to another
	resident float64       // MB
	joinCost time.Duration // CPU time of a join
	joined   time.Duration // 95th percentile from the join to the first packet
}

// compare measures the servers in turns, and prints a row for each.
func (k *kind) compare(ctx context.Context, own, other settings, dir string, out io.Writer) error {
	names := make([]string, 0, len(own.servers)+1)
	results := map[string][]outcome{}
	var floors []sample
	for round := range own.rounds {
		if k.floor.FPS > 0 {
			m, err := k.runFloor(ctx, own.window)
			if err != nil {
				return err
			}
			floors = append(floors, m)
		}
		servers, err := startServers(ctx, own, fmt.Sprintf("%s/%s-%d", dir, strings.ReplaceAll(k.name, " ", "-"), round), out)
		if err == nil && other.url != "" {
			servers = append(servers, &server{name: "other", url: strings.TrimSuffix(other.url, "/"), pid: other.pid})
		}
		for _, v := range servers {
			if err == nil {
				var r outcome
				if r, err = k.run(ctx, other, v); err == nil {
					results[v.name] = append(results[v.name], r)
				}
			}
			if round == 0 {
				names = append(names, v.name)
			}
			err = errors.Join(err, v.stop())
		}
		if err != nil {
			return err
		}
	}
	floor := 0.0
	if len(floors) > 0 {
		floor, _, _ = spread(floors, sample.perPacket)
	}
	for _, name := range names {
		printOutcome(out, k.name, name, results[name], floor)
	}
	return nil
}

// printOutcome prints the median of each figure.
func printOutcome(out io.Writer, kind, name string, all []outcome, floor float64) {
	middle := func(figure func(outcome) float64) float64 {
		v := make([]float64, len(all))
		for i, o := range all {
			v[i] = figure(o)
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	cost, times := middle(func(o outcome) float64 { return o.perPacket() }), "-"
	if floor > 0 {
		times = fmt.Sprintf("%.2f", cost/floor)
	}
	fmt.Fprintf(out, "%-20s %-16s %9.0f %10.2f %8s %7.0f%% %6.2f%% %8.1f %8.0f %9.1f %9.0f\n", kind, name,
		middle(func(o outcome) float64 { return float64(o.received) / o.seconds }), cost, times,
		middle(func(o outcome) float64 { return 100 * o.user.Seconds() / max((o.user+o.system).Seconds(), 1e-9) }),
		middle(func(o outcome) float64 { return 100 * o.loss() }),
		middle(func(o outcome) float64 { return 1e3 * o.latency.Seconds() }),
		middle(func(o outcome) float64 { return o.resident }),
		middle(func(o outcome) float64 { return 1e3 * o.joinCost.Seconds() }),
		middle(func(o outcome) float64 { return 1e3 * o.joined.Seconds() }))
}

// runFloor measures the floor with offload for the receivers of this kind.
func (k *kind) runFloor(ctx context.Context, window time.Duration) (m sample, err error) {
	sinks, err := openSinks(k.rooms * k.viewers)
	if err != nil {
		return m, err
	}
	defer sinks.close()
	o := k.floor
	o.Destinations, o.Window, o.Offload = sinks.addrs, window, true
	return runFloorWindow(ctx, o, sinks)
}

// crowd is the participants of one kind on one server.
type crowd struct {
	clients []*client
	ears    []*ear
	cameras []*camera
	sending sync.WaitGroup
	stop    context.CancelFunc
}

// run fills the rooms, measures a window, and empties them.
func (k *kind) run(ctx context.Context, s settings, v *server) (r outcome, err error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &crowd{stop: cancel}
	defer c.close()
	joins, err := meter(v.pid)
	if err != nil {
		return r, err
	}
	if err := c.open(ctx, k, s, v.url); err != nil {
		return r, fmt.Errorf("%s: %w", v.name, err)
	}
	user, system, err := joins()
	if err != nil {
		return r, err
	}
	r.joinCost = (user + system) / time.Duration(k.clients())
	var ways []time.Duration
	for _, e := range c.ears {
		if way := e.first(); way > 0 {
			ways = append(ways, way)
		}
	}
	r.joined = percentile(ways, 95)
	if err := wait(ctx, 3*time.Second); err != nil { // the estimates settle
		return r, err
	}
	for _, e := range c.ears {
		e.take()
	}
	begin := time.Now()
	done, err := meter(v.pid)
	if err != nil {
		return r, err
	}
	if err := wait(ctx, s.window); err != nil {
		return r, err
	}
	r.user, r.system, err = done()
	r.seconds = time.Since(begin).Seconds()
	ways = ways[:0]
	for _, e := range c.ears {
		came, expected, late := e.take()
		r.received, r.packets = r.received+came, r.packets+expected
		ways = append(ways, late...)
	}
	r.latency = percentile(ways, 99)
	var residentErr error
	r.resident, residentErr = resident(v.pid)
	if r.packets == 0 {
		err = errors.Join(err, errors.New("nothing was forwarded"))
	}
	return r, errors.Join(append(failures(c.clients), err, residentErr)...)
}

// joinsAtOnce is how many clients join at a time.
const joinsAtOnce = 8

// open lets all participants join, and waits until each of them has media.
func (c *crowd) open(ctx context.Context, k *kind, s settings, url string) error {
	pubAPI, err := newAPI(true, true)
	if err != nil {
		return err
	}
	subAPI, err := newAPI(true, false)
	if err != nil {
		return err
	}
	run := time.Now().UnixNano()
	for room := range k.rooms {
		name := fmt.Sprintf("load-%d-%d", run, room)
		for i := range k.members {
			camera, err := newCamera(uint64(room*k.members + i))
			if err != nil {
				return err
			}
			camera.silent = !k.picture
			e := newEar()
			e.alone = i == 0
			one := &client{publish: camera, watch: e.listen, both: k.members > 1, subAPI: subAPI}
			if err := one.join(ctx, s, url, name, fmt.Sprintf("member-%d", i), pubAPI); err != nil {
				return err
			}
			c.clients, c.cameras = append(c.clients, one), append(c.cameras, camera)
			if one.both {
				c.ears = append(c.ears, e)
			}
			if err := one.waitReady(ctx); err != nil {
				return err
			}
			c.sending.Go(func() { camera.run(ctx) })
		}
	}
	var mu sync.Mutex // guards c's slices and failed
	var failed []error
	var joining sync.WaitGroup
	places := make(chan struct{}, joinsAtOnce)
	for room := range k.rooms {
		for i := range k.viewers {
			places <- struct{}{}
			joining.Go(func() {
				defer func() { <-places }()
				e := newEar()
				one := &client{watch: e.listen}
				err := one.join(ctx, s, url, fmt.Sprintf("load-%d-%d", run, room), fmt.Sprintf("viewer-%d", i), subAPI)
				mu.Lock()
				defer mu.Unlock()
				if failed = append(failed, err); err == nil {
					c.clients, c.ears = append(c.clients, one), append(c.ears, e)
				}
			})
		}
	}
	joining.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, e := range c.ears {
		select {
		case <-e.heard:
		case <-ctx.Done():
			return fmt.Errorf("not all participants have media: %w", errors.Join(append(failures(c.clients), ctx.Err())...))
		}
	}
	return nil
}

func (c *crowd) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var closing sync.WaitGroup
	for _, one := range c.clients {
		closing.Go(func() { one.close(ctx) })
	}
	closing.Wait()
	c.stop()
	c.sending.Wait()
}

// stampSize is the length of the time of sending at the end of a payload, in bytes.
const stampSize = 8

// stamp writes the time of sending into the end of a payload.
func stamp(payload []byte) {
	binary.BigEndian.PutUint64(payload[len(payload)-stampSize:], uint64(time.Now().UnixNano()))
}

// ear counts what one participant receives.
type ear struct {
	since    time.Time
	alone    bool          // nobody is there yet that it could hear, so the time to its first packet tells nothing
	heard    chan struct{} // closed at the first packet
	hearing  sync.Once
	received atomic.Int64

	mu      sync.Mutex // guards the following
	firstAt time.Time
	missing int64
	late    []time.Duration
}

func newEar() *ear { return &ear{since: time.Now(), heard: make(chan struct{})} }

// first is the time from the join to the first packet; 0 if it joined an empty room.
func (e *ear) first() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.alone {
		return 0
	}
	return e.firstAt.Sub(e.since)
}

// take returns the packets since the last call, how many there were to come, and a sample
// of how long they were on the way.
func (e *ear) take() (came, expected int64, late []time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	came = e.received.Swap(0)
	expected, late = came+max(e.missing, 0), e.late
	e.missing, e.late = 0, nil
	return came, expected, late
}

// sampled is how many packets come for each whose way is timed.
const sampled = 16

// listen counts a track's packets until it ends.
func (e *ear) listen(t *webrtc.TrackRemote, r *webrtc.RTPReceiver) {
	go func() { // ends with the track
		buf := make([]byte, 2048)
		for {
			if _, _, err := r.Read(buf); err != nil { // RTCP must be read for the interceptors
				return
			}
		}
	}()
	buf := make([]byte, 2048)
	var newest uint16
	for n := 0; ; {
		size, _, err := t.Read(buf)
		if err != nil {
			return
		}
		if size <= rtpHeader+stampSize || buf[0]&0x20 != 0 { // padding
			continue
		}
		n++
		e.received.Add(1)
		sequence := binary.BigEndian.Uint16(buf[2:])
		gap := int64(int16(sequence - newest - 1))
		if n == 1 {
			gap = 0
			e.hearing.Do(func() {
				e.mu.Lock()
				e.firstAt = time.Now()
				e.mu.Unlock()
				close(e.heard)
			})
		}
		if gap >= 0 {
			newest = sequence
		} else {
			gap = -1 // it was counted as missing when a later one came
		}
		if gap == 0 && n%sampled != 0 {
			continue
		}
		e.mu.Lock()
		e.missing += gap
		if n%sampled == 0 {
			e.late = append(e.late, time.Duration(time.Now().UnixNano()-int64(binary.BigEndian.Uint64(buf[size-stampSize:size]))))
		}
		e.mu.Unlock()
	}
}

// percentile is the value below which so many percent lie; 0 of none.
func percentile(v []time.Duration, percent int) time.Duration {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[min(len(v)*percent/100, len(v)-1)]
}

// resident is the physical memory of a process in MB, from /proc/PID/statm (proc(5)).
func resident(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, fmt.Errorf("read a process's memory: %w", err)
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0, fmt.Errorf("read a process's memory: unexpected %q", b)
	}
	pages, err := strconv.ParseFloat(fields[1], 64)
	return pages * float64(os.Getpagesize()) / (1 << 20), err
}
