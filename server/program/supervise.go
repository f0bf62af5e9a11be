package program

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// firstInherited is the first file descriptor that systemd passes on (sd_listen_fds(3)).
const firstInherited = 3

// supervisor is the service manager that started the process, such as systemd. It is told
// about the process's state over a socket (sd_notify(3)), and may have opened the
// process's sockets.
type supervisor struct {
	socket   string        // "" = there is nobody to tell
	watchdog time.Duration // the longest time without a WATCHDOG=1; 0 = any
	sockets  []string      // names of the inherited sockets, from firstInherited on
	log      *slog.Logger
}

// newSupervisor reads the environment of a process.
func newSupervisor(environ []string, pid int, log *slog.Logger) *supervisor {
	get := func(name string) string {
		for _, e := range environ {
			if value, ok := strings.CutPrefix(e, name+"="); ok {
				return value
			}
		}
		return ""
	}
	mine := func(name string) bool { return get(name) == strconv.Itoa(pid) }
	s := &supervisor{socket: get("NOTIFY_SOCKET"), log: log}
	if usec, err := strconv.ParseInt(get("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 && (get("WATCHDOG_PID") == "" || mine("WATCHDOG_PID")) {
		s.watchdog = time.Duration(usec) * time.Microsecond
	}
	if n, err := strconv.Atoi(get("LISTEN_FDS")); err == nil && n > 0 && mine("LISTEN_PID") {
		s.sockets = make([]string, n)
		copy(s.sockets, strings.Split(get("LISTEN_FDNAMES"), ":"))
	}
	return s
}

// tell sends state to the supervisor, if there is one.
func (s *supervisor) tell(state string) {
	if s == nil || s.socket == "" {
		return
	}
	name := s.socket
	if after, ok := strings.CutPrefix(name, "@"); ok { // in the abstract namespace (unix(7))
		name = "\x00" + after
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err == nil {
		_, err = c.Write([]byte(state))
		err = errors.Join(err, c.Close())
	}
	if err != nil {
		s.log.Warn("the supervisor cannot be told", "socket", s.socket, "state", strings.ReplaceAll(state, "\n", " "), "error", err)
	}
}

// listeners are the inherited sockets of HTTP; none if there are none.
func (s *supervisor) listeners() (all []net.Listener, err error) {
	for i := range s.sockets {
		fd := firstInherited + i
		closeOnExec(fd)
		f := os.NewFile(uintptr(fd), s.sockets[i])
		l, listenErr := net.FileListener(f) // it has a descriptor of its own
		err = errors.Join(err, f.Close())
		if listenErr == nil {
			if _, ok := l.Addr().(*net.TCPAddr); !ok {
				listenErr = errors.Join(fmt.Errorf("it is of %s, and should be of tcp", l.Addr().Network()), l.Close())
			}
		}
		if listenErr != nil {
			err = errors.Join(err, fmt.Errorf("socket %d that was handed over cannot be listened on: %w", i+1, listenErr))
			continue
		}
		all = append(all, &inherited{Listener: l, closed: make(chan struct{})})
	}
	if err != nil {
		for _, l := range all {
			_ = l.Close() // nothing was accepted on it
		}
		return nil, err
	}
	return all, nil
}

// inherited is a listener whose socket the supervisor keeps open. A stop leaves it before
// anything else: who connects from then on waits for the next process, where this one would
// only send it away.
type inherited struct {
	net.Listener
	once   sync.Once
	closed chan struct{} // closed by Close
}

// Accept implements [net.Listener]. Between leave and Close it waits, as if nobody connected.
func (l *inherited) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if errors.Is(err, net.ErrClosed) {
		<-l.closed
	}
	return conn, err
}

// leave accepts no more connections.
func (l *inherited) leave() { _ = l.Listener.Close() } // the socket stays the supervisor's

// Close implements [net.Listener].
func (l *inherited) Close() error {
	l.once.Do(func() { close(l.closed) })
	if err := l.Listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil // leave has closed it
}

// watch sends WATCHDOG=1 to the supervisor as long as alive succeeds, until ctx ends. If
// the process hangs, the supervisor notices the silence and ends it.
func (s *supervisor) watch(ctx context.Context, alive func(context.Context) error) {
	if s.socket == "" || s.watchdog == 0 {
		return
	}
	tick := time.NewTicker(s.watchdog / 3)
	defer tick.Stop()
	for {
		bounded, cancel := context.WithTimeout(ctx, s.watchdog)
		err := alive(bounded)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.log.Error("a part of the server does not answer", "error", err)
		default:
			s.tell("WATCHDOG=1")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// alive checks that the parts on which everything depends answer: the database's writer,
// and the rooms. A failing disk does not count, because calls go on without it.
func (p *program) alive(ctx context.Context) error {
	if err := p.store.Between(ctx, func(context.Context) error { return nil }); err != nil {
		return fmt.Errorf("the database's writer: %w", err)
	}
	if err := p.rooms.Answer(ctx); err != nil {
		return fmt.Errorf("the rooms: %w", err)
	}
	return nil
}
