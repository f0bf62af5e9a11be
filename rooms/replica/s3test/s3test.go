// Package s3test gives tests a real S3 server, and a proxy that can cut the network to
// it.
package s3test

import (
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

const version = "v1.8.0"

// Server is a real S3 server, versitygw, on the loopback: one for all tests of a package.
// The zero value starts on first use; TestMain stops it.
type Server struct {
	once    sync.Once
	address string
	dir     string
	cmd     *exec.Cmd
	err     error

	mu    sync.Mutex // guards users
	users map[string]bool
}

// Environment sets the credentials of Server in this process's environment, and clears
// the variables that would lead the AWS library elsewhere. It is for TestMain.
func Environment() {
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "parlor", "AWS_SECRET_ACCESS_KEY": "parlor-secret", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_REGION": "", "AWS_CA_BUNDLE": "",
	} {
		_ = os.Setenv(name, value) // fails only for impossible names
	}
}

// URL is a replica for the test on the server at address, which may be a proxy's.
func URL(t testing.TB, address string) string {
	return fmt.Sprintf("s3://bucket/%s?endpoint=http://%s&region=us-east-1&forcePathStyle=true", t.Name(), address)
}

// Address returns where the server listens. It starts the server if need be. What the test
// leaves there is removed as it ends, so that it can run again.
func (g *Server) Address(t testing.TB) string {
	t.Helper()
	g.once.Do(g.start)
	if g.err != nil && os.Getenv("CI") == "" {
		t.Skipf("no S3 server to test with: versitygw %s cannot be built or started: %v", version, g.err)
	}
	require.NoError(t, g.err, "CI needs the S3 server")
	g.clean(t)
	return g.address
}

// clean removes the test's replicas after whatever the test begins from now on has ended.
func (g *Server) clean(t testing.TB) {
	name := t.Name()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.users[name] {
		return
	}
	if g.users == nil {
		g.users = make(map[string]bool)
	}
	g.users[name] = true
	t.Cleanup(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.users, name)
		_ = os.RemoveAll(filepath.Join(g.dir, "bucket", name)) // else Stop does it
	})
}

func (g *Server) start() {
	program, err := Install("github.com/versity/versitygw/cmd/versitygw", version)
	if err == nil {
		err = g.run(program)
	}
	g.err = err
}

// Install builds a program once, in a module of its own, and keeps it for later runs.
func Install(path, version string) (string, error) {
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

func (g *Server) run(program string) error {
	dir, err := os.MkdirTemp("", "parlor-s3-")
	if err != nil {
		return err
	}
	g.dir = dir
	if err := os.Mkdir(filepath.Join(dir, "bucket"), 0o755); err != nil {
		return err
	}
	for range 3 { // another process may take the free port first
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
		_ = g.cmd.Process.Kill() // it may have ended already
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

// Stop ends the server and removes its files.
func (g *Server) Stop() {
	if g.cmd != nil {
		_ = g.cmd.Process.Kill()
		_ = g.cmd.Wait()
	}
	if g.dir != "" {
		_ = os.RemoveAll(g.dir)
	}
}

// Objects lists the objects of the test's replica under a folder, relative to it.
func (g *Server) Objects(t testing.TB, folder string) []string {
	t.Helper()
	root := filepath.Join(g.dir, "bucket", t.Name(), folder)
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

// Proxy stands between a replica and the S3 server, to cut the network.
type Proxy struct {
	listener net.Listener
	to       string
	wg       sync.WaitGroup

	mu    sync.Mutex // guards the following
	conns map[net.Conn]bool
	cut   bool
}

// NewProxy starts a proxy to that address, until the test ends.
func NewProxy(t testing.TB, to string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &Proxy{listener: l, to: to, conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.Cut(true)
		p.wg.Wait()
	})
	return p
}

// Address is where the proxy listens.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(c) })
	}
}

func (p *Proxy) serve(c net.Conn) {
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

func (p *Proxy) track(conns ...net.Conn) bool {
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

// Cut cuts every connection and refuses new ones, or lets them through again.
func (p *Proxy) Cut(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
	for c := range p.conns {
		if cut {
			c.Close()
		}
	}
}
