package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// settle is how long sent packets may take to arrive.
const settle = 500 * time.Millisecond

// sample is the result of one window of one program.
type sample struct {
	packets      int64 // packets that had to arrive
	received     int64
	user, system time.Duration
}

// perPacket is the CPU time per packet that had to arrive, in microseconds.
func (s sample) perPacket() float64 {
	return float64((s.user + s.system).Nanoseconds()) / 1000 / float64(s.packets)
}

func (s sample) loss() float64 { return 1 - float64(s.received)/float64(s.packets) }

// program is a measured program: a floor or a server.
type program struct {
	name string
	run  func(context.Context) (sample, error)
	// idle measures a window in which no frames are sent; nil for a floor.
	idle func(context.Context) (time.Duration, error)

	samples []sample
}

func measure(ctx context.Context, s settings, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "parlor-bench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Fprintf(out, "1 publisher, %d subscribers, %.1f frames/s of %d packets of %d bytes; %d rounds of %v\n",
		s.subscribers, s.fps, s.perFrame, s.payload, s.rounds, s.window)

	floors, closeFloors, err := floorPrograms(s)
	if err != nil {
		return err
	}
	defer closeFloors()
	servers, closeServers, err := serverPrograms(ctx, s, dir, out)
	defer closeServers() // not nil, even with an error
	if err != nil {
		return err
	}
	programs := append(servers, floors...)
	for round := range s.rounds {
		for _, p := range programs {
			m, err := p.run(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			p.samples = append(p.samples, m)
			fmt.Fprintf(out, "round %d  %-16s %6.2f us/packet  user %5.2f s  system %5.2f s  loss %.3f%%\n", round+1,
				p.name, m.perPacket(), m.user.Seconds(), m.system.Seconds(), 100*m.loss())
		}
	}
	report(out, programs)
	return reportIdle(ctx, out, servers, s)
}

// reportIdle prints the cost of rooms in which no frames are sent. The cost is part of
// the figures of the servers, and its share is larger the fewer packets there are.
func reportIdle(ctx context.Context, out io.Writer, servers []*program, s settings) error {
	for _, p := range servers {
		used, err := p.idle(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		perSecond := float64(used.Microseconds()) / s.window.Seconds()
		fmt.Fprintf(out, "%s, room full but silent: %.2f%% of a core; %.2f us per packet that would be forwarded\n",
			p.name, perSecond/1e4, perSecond/(s.fps*float64(s.perFrame*s.subscribers)))
	}
	return nil
}

// floorPrograms are the floors. Each window starts a new process.
func floorPrograms(s settings) ([]*program, func(), error) {
	k, err := openSinks(s.subscribers)
	if err != nil {
		return nil, nil, err
	}
	order := floorOrder{
		Destinations: k.addrs, Window: s.window, FPS: s.fps, PerFrame: s.perFrame, Len: s.payload,
	}
	one := func(offload bool) func(context.Context) (sample, error) {
		return func(ctx context.Context) (sample, error) {
			o := order
			o.Offload = offload
			return runFloorWindow(ctx, o, k)
		}
	}
	return []*program{
		{name: "floor, offload", run: one(true)},
		{name: "floor, plain", run: one(false)},
	}, k.close, nil
}

func runFloorWindow(ctx context.Context, o floorOrder, k *sinks) (m sample, err error) {
	p, err := startFloor(ctx, o)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	received := k.received.Load()
	done, err := meter(p.cmd.Process.Pid)
	if err != nil {
		return m, err
	}
	packets, err := p.send()
	if err != nil {
		return m, err
	}
	time.Sleep(settle)
	m.packets, m.received = int64(packets), k.received.Load()-received
	m.user, m.system, err = done()
	return m, err
}

// meter starts measuring a process's CPU time.
func meter(pid int) (done func() (user, system time.Duration, err error), err error) {
	u0, s0, err := cpuTime(pid)
	return func() (time.Duration, time.Duration, error) {
		u1, s1, err := cpuTime(pid)
		return u1 - u0, s1 - s0, err
	}, err
}

// serverPrograms starts the servers, or uses the running one, and fills their rooms. The
// returned function stops them; it is never nil.
func serverPrograms(ctx context.Context, s settings, dir string, out io.Writer) ([]*program, func(), error) {
	var ends []func()
	end := func() {
		for _, f := range slices.Backward(ends) {
			f()
		}
	}
	if s.floorOnly {
		return nil, end, nil
	}
	servers, err := startServers(ctx, s, dir, out)
	for _, v := range servers {
		ends = append(ends, func() {
			if err := v.stop(); err != nil {
				fmt.Fprintf(out, "%s: %v\n", v.name, err)
			}
		})
	}
	if err != nil {
		return nil, end, err
	}
	var programs []*program
	for _, v := range servers {
		l := &load{settings: s, server: v}
		ends = append(ends, func() { l.close() })
		if err := l.open(ctx); err != nil {
			return nil, end, fmt.Errorf("%s: %w", v.name, err)
		}
		programs = append(programs, &program{name: v.name, run: l.run, idle: l.idle})
	}
	return programs, end, nil
}

func startServers(ctx context.Context, s settings, dir string, out io.Writer) ([]*server, error) {
	if s.url != "" {
		return []*server{{name: "server", url: strings.TrimSuffix(s.url, "/"), pid: s.pid}}, nil
	}
	if len(s.servers) == 0 {
		fmt.Fprintln(out, "building the server")
		binary, err := build(ctx, dir)
		if err != nil {
			return nil, err
		}
		s.servers = serverFlags{"parlor=" + binary}
	}
	var all []*server
	for i, spec := range s.servers {
		name, binary := serverNamed(spec)
		v, err := start(ctx, name, binary, s, filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			return all, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, v)
	}
	return all, nil
}

// serverNamed splits the value of a -server flag.
func serverNamed(spec string) (name, binary string) {
	name, binary, ok := strings.Cut(spec, "=")
	if !ok {
		return filepath.Base(spec), spec
	}
	return name, binary
}

// load is a full room on one server.
type load struct {
	settings
	server   *server
	pub      *publication
	clients  []*client
	received atomic.Int64
}

func (l *load) open(ctx context.Context) (err error) {
	if l.pub, err = newPublication(l.settings); err != nil {
		return err
	}
	stop := l.send(ctx) // subscribers are ready at their first packet
	defer stop()
	l.clients, err = joinAll(ctx, l.settings, l.server.url, l.pub, &l.received)
	return err
}

// send sends frames until the returned function is called, which waits for the sender.
func (l *load) send(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { l.pub.run(ctx) })
	return func() {
		cancel()
		wg.Wait()
	}
}

// run measures one window. Frames flow for a second before it, so that the cost of a
// publisher's return from silence is not measured.
func (l *load) run(ctx context.Context) (m sample, err error) {
	for _, c := range l.clients {
		select {
		case err := <-c.failed:
			return m, fmt.Errorf("%s: %w", c.identity, err)
		default:
		}
	}
	warm := l.send(ctx)
	time.Sleep(time.Second)
	warm()
	time.Sleep(settle)

	sent, received := l.pub.sent.Load(), l.received.Load()
	done, err := meter(l.server.pid)
	if err != nil {
		return m, err
	}
	stop := l.send(ctx)
	select {
	case <-time.After(l.window):
	case <-ctx.Done():
		err = ctx.Err()
	}
	stop()
	time.Sleep(settle)
	m.packets = (l.pub.sent.Load() - sent) * int64(l.subscribers)
	m.received = l.received.Load() - received
	var meterErr error
	m.user, m.system, meterErr = done()
	if m.packets == 0 {
		err = errors.Join(err, errors.New("nothing was sent"))
	}
	return m, errors.Join(err, meterErr)
}

// idle measures the CPU time of a window in which no frames are sent.
func (l *load) idle(ctx context.Context) (time.Duration, error) {
	done, err := meter(l.server.pid)
	if err != nil {
		return 0, err
	}
	select {
	case <-time.After(l.window):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	user, system, err := done()
	return user + system, err
}

func (l *load) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for _, c := range l.clients {
		wg.Go(func() { c.close(ctx) })
	}
	wg.Wait()
}

func report(out io.Writer, programs []*program) {
	fmt.Fprintf(out, "\n%-18s %-24s %-10s %-10s %s\n", "median of rounds", "us CPU/packet [min-max]", "x offload", "x plain", "loss")
	medians := map[string]float64{}
	for _, p := range programs {
		medians[p.name], _, _ = spread(p.samples, sample.perPacket)
	}
	for _, p := range programs {
		mid, low, high := spread(p.samples, sample.perPacket)
		loss, _, _ := spread(p.samples, sample.loss)
		fmt.Fprintf(out, "%-18s %6.2f [%.2f-%.2f]%8s %-10.2f %-10.2f %.3f%%\n", p.name, mid, low, high, "",
			mid/medians["floor, offload"], mid/medians["floor, plain"], 100*loss)
	}
}

// spread is a figure's median, lowest and highest.
func spread(samples []sample, figure func(sample) float64) (median, low, high float64) {
	v := make([]float64, len(samples))
	for i, m := range samples {
		v[i] = figure(m)
	}
	slices.Sort(v)
	return v[len(v)/2], v[0], v[len(v)-1]
}
