package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"parlor/server/freeport"
)

// ticksPerSecond is USER_HZ, which Linux fixes at 100 for /proc.
const ticksPerSecond = 100

// cpuTime is a process's user and system time, from /proc/PID/stat (proc(5)). The kernel
// scales the two to the measured total, so only their sum is exact to a tick.
func cpuTime(pid int) (user, system time.Duration, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("read a process's CPU time: %w", err)
	}
	_, rest, ok := strings.Cut(string(b), ") ") // the name before it may contain any character
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, 0, fmt.Errorf("read a process's CPU time: unexpected %q", b)
	}
	utime, err1 := strconv.ParseInt(fields[11], 10, 64)
	stime, err2 := strconv.ParseInt(fields[12], 10, 64)
	tick := time.Second / ticksPerSecond
	return time.Duration(utime) * tick, time.Duration(stime) * tick, errors.Join(err1, err2)
}

// server is a server process.
type server struct {
	name string
	url  string // ws://
	pid  int
	cmd  *exec.Cmd // nil if the process was not started here
	log  *os.File
}

// build builds the server into dir. Its module is two folders up.
func build(ctx context.Context, dir string) (string, error) {
	mod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	path := filepath.Join(dir, "parlor")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, ".")
	cmd.Dir = filepath.Join(filepath.Dir(strings.TrimSpace(string(mod))), "..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the server: %w\n%s", err, out)
	}
	return path, nil
}

// start starts a server in its own directory, and waits until it answers.
func start(ctx context.Context, name, binary string, s settings, dir string) (*server, error) {
	binary, err := filepath.Abs(binary)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	port, err := freeport.Next()
	if err != nil {
		return nil, err
	}
	udpPort, err := freeport.Next()
	if err != nil {
		return nil, err
	}
	tcpPort, err := freeport.Next()
	if err != nil {
		return nil, err
	}
	args := []string{
		"--dev", "--port", strconv.Itoa(port), "--udp-port", strconv.Itoa(udpPort), "--tcp-port", strconv.Itoa(tcpPort),
	}
	cmd := exec.Command(binary, append(args, strings.Fields(s.serverArgs)...)...)
	cmd.Dir = dir
	v := &server{name: name, url: fmt.Sprintf("ws://127.0.0.1:%d", port), cmd: cmd}
	if s.serverLogFile != "" {
		if v.log, err = os.OpenFile(s.serverLogFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
			return nil, err
		}
		cmd.Stdout, cmd.Stderr = v.log, v.log
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", binary, err)
	}
	v.pid = cmd.Process.Pid
	if err := v.wait(ctx); err != nil {
		return nil, errors.Join(err, v.stop())
	}
	return v, nil
}

func (v *server) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http"+strings.TrimPrefix(v.url, "ws")+"/", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = res.Body.Close() // any answer will do
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stop asks the server to end, and waits for it.
func (v *server) stop() error {
	if v.cmd == nil {
		return nil
	}
	_ = v.cmd.Process.Signal(os.Interrupt) // it may have ended already
	kill := time.AfterFunc(10*time.Second, func() { _ = v.cmd.Process.Kill() })
	err := v.cmd.Wait()
	kill.Stop()
	if v.log != nil {
		err = errors.Join(err, v.log.Close())
	}
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return nil // its exit status is not measured
	}
	return err
}

// sinks are plain sockets that count received packets, for the floor.
type sinks struct {
	conns    []*net.UDPConn
	addrs    []netip.AddrPort
	received atomic.Int64
}

func openSinks(n int) (*sinks, error) {
	k := &sinks{}
	for range n {
		pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			k.close()
			return nil, err
		}
		u := pc.(*net.UDPConn)
		k.conns = append(k.conns, u)
		k.addrs = append(k.addrs, u.LocalAddr().(*net.UDPAddr).AddrPort())
		go k.count(u) // ends when close closes u
	}
	return k, nil
}

func (k *sinks) count(u *net.UDPConn) {
	buf := make([]byte, 2048)
	for {
		if _, _, err := u.ReadFromUDPAddrPort(buf); err != nil {
			return
		}
		k.received.Add(1)
	}
}

func (k *sinks) close() {
	for _, u := range k.conns {
		_ = u.Close() // no data is lost
	}
}

// floorProcess is one floor program, ready to send.
type floorProcess struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startFloor(ctx context.Context, o floorOrder) (*floorProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, floorCommand)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &floorProcess{cmd: cmd, in: in, out: bufio.NewReader(out)}
	if err := json.NewEncoder(in).Encode(o); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	if _, err := p.out.ReadBytes('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("the floor program is not ready: %w", err), p.stop())
	}
	return p, nil
}

// send makes the process send its window.
func (p *floorProcess) send() (packets int, err error) {
	if _, err := io.WriteString(p.in, "go\n"); err != nil {
		return 0, err
	}
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		return 0, fmt.Errorf("the floor program: %w", err)
	}
	var r floorResult
	err = json.Unmarshal(line, &r)
	return r.Packets, err
}

func (p *floorProcess) stop() error {
	_ = p.in.Close() // Wait reports the error
	return p.cmd.Wait()
}
