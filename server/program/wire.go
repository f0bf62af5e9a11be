package program

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"parlor/media"
	"parlor/rooms"
	"parlor/rooms/guid"
	"parlor/rooms/replica"
	"parlor/rooms/sqlite"
	"parlor/server"
	"parlor/server/access"
	"parlor/server/acme"
	"parlor/server/admin"
	"parlor/server/agents"
	"parlor/server/api"
	"parlor/server/authorize"
	"parlor/server/config"
	"parlor/server/door"
	"parlor/server/events"
	"parlor/server/signal"
	"parlor/server/unpack"
	"parlor/webhooks"
)

// Shares of [stopBound] for the steps of a stop.
const (
	// clientsBound is for clients and workers to hang up after they were told to reconnect.
	// Most do so within a round trip. One that has lost its network never does, and the others
	// wait for it: LiveKit's SDKs try again at once, after 0.3 s, after 1.5 s and then after
	// 4 s, so the next process should be there in 1.5 s.
	clientsBound  = 700 * time.Millisecond
	requestsBound = 2 * time.Second        // for running requests
	outboxBound   = 500 * time.Millisecond // for webhooks that are due; the next start sends the others
)

// program is the server's parts, built by [open] in the order of the fields and taken
// down by close.
type program struct {
	cfg   *config.Config
	log   *slog.Logger
	began time.Time    // when it was begun to be built
	lines *admin.Lines // the newest of the log

	store            *sqlite.Store
	media            *media.Engine
	hooks            *webhooks.Dispatcher
	agents           *agents.Handler
	rooms            *rooms.Rooms
	asks             *authorize.Hook // nil = there is no authorization hook
	events           *events.Handler // the event log over HTTP
	signal           *signal.Handler
	server           *server.Server
	listeners        []net.Listener // HTTP and WebSocket
	front            *door.Door     // accepts connections for HTTP and others; nil = the listeners do
	plainListeners   []net.Listener // of plain HTTP, which redirects to TLS
	metricsListeners []net.Listener // on the metrics' own port
	adminListeners   []net.Listener // on the dashboard's own port
	debugListeners   []net.Listener // of profiles
	turn             *door.Door     // nil: the TURN server has no TCP port
	verifier         *access.Verifier
	registry         *prometheus.Registry
	guard            *unpack.Guard    // bounds everything that the server decodes
	ring             *admin.Ring      // figures of the last hour
	refusals         *admin.Refusals  // the newest
	replica          *replica.Replica // nil = the database is not replicated
	replication      api.Replica      // the replica in the API's form; nil too
	lost             chan error       // the lease on the replica was lost: stop serving

	tls             *tls.Config  // of the main port; nil = no TLS
	certificate     *certificate // from files; nil = there is none
	keeper          *acme.Keeper // keeps certificates by ACME; nil = there are none
	turnCertificate *certificate // of the TURN server alone; nil = it uses the main port's, or none
	supervisor      *supervisor  // nil = there is no supervisor

	startID    int64          // of the row that tells of this start; 0 = none was written
	upkeep     sync.WaitGroup // goroutines of upkeep; stopUpkeep ends them, close waits
	stopUpkeep context.CancelFunc
	requests   context.CancelFunc // ends every request's context; set by run
}

// open builds the program. When it returns, the database is open, rooms that were
// occupied expect their participants back, and the ports are bound. inherited are
// listeners for HTTP to use instead of the port, if there are any.
func open(ctx context.Context, cfg *config.Config, log *slog.Logger, inherited ...net.Listener) (_ *program, err error) {
	p := &program{began: time.Now(), lines: linesOf(log), cfg: cfg, listeners: inherited, log: log, registry: prometheus.NewRegistry(), lost: make(chan error, 1)}
	defer func() {
		if err != nil {
			bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopBound)
			defer cancel()
			err = errors.Join(err, p.close(bounded))
		}
	}()
	p.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := p.openStore(ctx); err != nil {
		return nil, err
	}
	if p.media, err = media.NewEngine(mediaConfig(cfg, p.present(cfg.RTC.BindAddresses), log)); err != nil {
		return nil, portHint(err, "--udp-port and --tcp-port")
	}
	p.openWebhooks()
	node := guid.New("ND_")
	if err := p.openRooms(node); err != nil {
		return nil, err
	}
	if err := p.openServer(node); err != nil {
		return nil, err
	}
	if err := p.listen(ctx); err != nil {
		return nil, err
	}
	p.registry.MustRegister(&partsCollector{p.store, p.media, p.rooms, p.replication, p.front, p.turn}, p.hooks.Collector())
	// The endpoints of webhooks must be known before the first event is written.
	if err := p.hooks.Start(ctx); err != nil {
		return nil, err
	}
	if err := p.rooms.Open(ctx); err != nil {
		return nil, err
	}
	p.startUpkeep()
	p.noteStart(ctx)
	return p, nil
}

// run serves until ctx ends, and then returns nil; or until serving fails.
func (p *program) run(ctx context.Context) error {
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.requests = cancel
	failed := make(chan error, 1)
	p.upkeep.Go(func() { failed <- p.server.Serve(requests, p.serveOn()) }) // ends by close
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	case err := <-p.lost:
		if errors.Is(err, replica.ErrRemoved) {
			return fmt.Errorf("stopping: %w", err)
		}
		return fmt.Errorf("stopping, another machine may have the rooms: %w", err)
	}
}

// close stops in order the parts that were opened: clients are told to reconnect,
// requests finish, rooms are written, due webhooks are sent, the database closes. Rooms
// stay open. ctx bounds the waits.
func (p *program) close(ctx context.Context) error {
	var errs []error
	began := time.Now()
	for _, l := range p.listeners {
		if l, ok := l.(*inherited); ok {
			l.leave() // before clients are told to come back
		}
	}
	if p.rooms != nil {
		p.rooms.Stop()
	}
	if p.events != nil {
		p.events.Close()
	}
	var hangingUp sync.WaitGroup
	if p.agents != nil {
		hangingUp.Go(func() { _ = within(ctx, clientsBound, p.agents.Close) }) // the rest is cut off
	}
	if p.signal != nil {
		// A client that has not hung up by then is cut off with its request's context.
		hangingUp.Go(func() { _ = within(ctx, clientsBound, p.signal.Wait) })
	}
	hangingUp.Wait()
	if p.requests != nil {
		p.requests()
	}
	if p.server != nil {
		errs = append(errs, within(ctx, requestsBound, p.server.Shutdown))
	}
	for _, l := range slices.Concat(p.listeners, p.metricsListeners, p.plainListeners, p.adminListeners, p.debugListeners) {
		_ = l.Close() // if nothing was served; else it is closed already
	}
	for _, d := range []*door.Door{p.front, p.turn} {
		if d != nil {
			_ = d.Close() // its listeners may be closed by now
		}
	}
	if p.asks != nil {
		p.asks.Close()
	}
	if p.stopUpkeep != nil {
		p.stopUpkeep()
	}
	p.upkeep.Wait()
	if p.rooms != nil {
		errs = append(errs, p.rooms.Close(ctx))
	}
	if p.hooks != nil {
		if err := within(ctx, outboxBound, p.hooks.Drain); err != nil {
			p.log.Info("webhooks that are due are sent after the next start", "error", err)
		}
		p.hooks.Close()
	}
	if p.media != nil {
		errs = append(errs, p.media.Close())
	}
	if p.store != nil {
		p.noteStop(ctx, began)
		errs = append(errs, p.store.Close(ctx))
	}
	if p.replica != nil {
		errs = append(errs, p.replica.Close(ctx))
	}
	return errors.Join(errs...)
}

func within(ctx context.Context, bound time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	return f(ctx)
}
