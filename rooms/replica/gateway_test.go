package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const gatewayVersion = "v1.8.0"

// gateway is a real S3 server, versitygw, on the loopback: one for all tests, each
// of which has a path of its own in its bucket.
type gateway struct {
	once    sync.Once
	address string
	dir     string
	cmd     *exec.Cmd
	err     error
}

// s3Server is started by the first test that needs it and stopped by TestMain.
var s3Server gateway

// s3URL is a replica of the test's own on the S3 server.
func s3URL(t testing.TB) string { return s3URLAt(t, gatewayAddress(t)) }

// s3URLAt is the same through a proxy.
func s3URLAt(t testing.TB, address string) string {
	return fmt.Sprintf("s3://bucket/%s?endpoint=http://%s&region=us-east-1&forcePathStyle=true", t.Name(), address)
}

func gatewayAddress(t testing.TB) string {
	t.Helper()
	s3Server.once.Do(s3Server.start)
	if s3Server.err != nil && os.Getenv("CI") == "" {
		t.Skipf("no S3 server to test with: versitygw %s cannot be built or started: %v", gatewayVersion, s3Server.err)
	}
	require.NoError(t, s3Server.err, "CI needs the S3 server")
	return s3Server.address
}

func (g *gateway) start() {
	program, err := installed("github.com/versity/versitygw/cmd/versitygw", gatewayVersion)
	if err == nil {
		err = g.run(program)
	}
	g.err = err
}

// installed builds a program once, in a module of its own, and keeps it where
// later runs find it.
func installed(path, version string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	name := filepath.Base(path)
	bin := filepath.Join(cache, "parlor-test", name+"-"+version)
	program := filepath.Join(bin, name)
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	cmd := exec.Command("go", "install", "-trimpath", "-ldflags=-s -w", path+"@"+version)
	cmd.Dir = os.TempDir()
	cmd.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=-mod=mod", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s: %w: %s", path, err, out)
	}
	return program, nil
}

func (g *gateway) run(program string) error {
	dir, err := os.MkdirTemp("", "parlor-s3-")
	if err != nil {
		return err
	}
	g.dir = dir
	if err := os.Mkdir(filepath.Join(dir, "bucket"), 0o755); err != nil {
		return err
	}
	for range 3 { // somebody may take the free port before the server does
		if g.address, err = freeAddress(); err != nil {
			return err
		}
		g.cmd = exec.Command(program, "--port", g.address, "--quiet", "posix", dir)
		g.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+os.Getenv("AWS_ACCESS_KEY_ID"), "ROOT_SECRET_KEY="+os.Getenv("AWS_SECRET_ACCESS_KEY"))
		log, err := os.Create(filepath.Join(dir, ".log"))
		if err != nil {
			return err
		}
		g.cmd.Stdout, g.cmd.Stderr = log, log
		err = g.cmd.Start()
		log.Close() // the child has its own
		if err != nil {
			return err
		}
		if answers(g.address) {
			return nil
		}
		_ = g.cmd.Process.Kill() // it may have ended
		_ = g.cmd.Wait()
		g.cmd = nil
	}
	b, _ := os.ReadFile(filepath.Join(dir, ".log"))
	return fmt.Errorf("versitygw does not answer: %s", b)
}

func answers(address string) bool {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return true
		}
	}
	return false
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (g *gateway) stop() {
	if g.cmd != nil {
		_ = g.cmd.Process.Kill()
		_ = g.cmd.Wait()
	}
	if g.dir != "" {
		_ = os.RemoveAll(g.dir)
	}
}

// objects lists what the replica of the test has under a folder, as the S3 server
// keeps it: names below the folder.
func objects(t testing.TB, folder string) []string {
	t.Helper()
	root := filepath.Join(s3Server.dir, "bucket", t.Name(), folder)
	var names []string
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil && !d.IsDir() {
			names = append(names, strings.TrimPrefix(path, root+"/"))
		}
		return err
	})
	require.NoError(t, err)
	return names
}

// proxy stands between a replica and the S3 server, to take the network away.
type proxy struct {
	listener net.Listener
	to       string
	wg       sync.WaitGroup

	mu    sync.Mutex // guards the following
	conns map[net.Conn]bool
	cut   bool
}

func newProxy(t testing.TB) *proxy {
	t.Helper()
	to := gatewayAddress(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{listener: l, to: to, conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.set(true)
		p.wg.Wait()
	})
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(c) })
	}
}

func (p *proxy) serve(c net.Conn) {
	defer c.Close()
	up, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer up.Close()
	if !p.track(c, up) {
		return
	}
	p.wg.Go(func() { _, _ = io.Copy(up, c); up.Close() }) // ends with either connection
	_, _ = io.Copy(c, up)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	delete(p.conns, up)
}

func (p *proxy) track(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		return false
	}
	for _, c := range conns {
		p.conns[c] = true
	}
	return true
}

// set cuts every connection and refuses new ones, or lets them through again.
func (p *proxy) set(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
	for c := range p.conns {
		if cut {
			c.Close()
		}
	}
}

// within is the test's context with an end.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
