package program

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms/replica/s3test"
	"parlor/server/freeport"
)

func freePort(t *testing.T) int {
	t.Helper()
	port, err := freeport.Next()
	require.NoError(t, err)
	return port
}

// s3Server is started by the first test that needs it, and stopped by TestMain.
var s3Server s3test.Server

// executable is a build of the program under test. The first test that needs it makes it, and
// TestMain removes it.
type executable struct {
	once      sync.Once
	dir, path string
	err       error
}

var raced, plain executable // with the race detector, and without it

// binary is the path of the program, built with the race detector if these tests are.
func binary(t testing.TB) string {
	t.Helper()
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return raced.make(t, "-race")
	}
	return plainBinary(t)
}

// plainBinary is the path of the program as it is released. It starts several times faster
// than with the race detector.
func plainBinary(t testing.TB) string {
	t.Helper()
	return plain.make(t)
}

func (b *executable) make(t testing.TB, args ...string) string {
	t.Helper()
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "parlor-program"); b.err != nil {
			return
		}
		b.path = filepath.Join(b.dir, "parlor")
		cmd := exec.Command("go", append(append([]string{"build", "-o", b.path}, args...), "parlor")...)
		if len(args) == 0 {
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("build the program: %w: %s", err, out)
		}
	})
	require.NoError(t, b.err)
	return b.path
}

func (b *executable) remove() {
	if b.dir != "" {
		_ = os.RemoveAll(b.dir) // a temporary folder
	}
}

// process is the real program in another process.
type process struct {
	t     testing.TB
	cmd   *exec.Cmd
	url   string
	log   *transcript
	ended chan struct{} // closed when it has ended, and err is set
	err   error
}

// transcript is the log of a process. It may be used concurrently.
type transcript struct {
	mu  sync.Mutex // guards b
	buf bytes.Buffer
}

func (l *transcript) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *transcript) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// machine is the folder of a process's database.
func machine(t testing.TB) string {
	dir := filepath.Join(t.TempDir(), "machine")
	require.NoError(t, os.Mkdir(dir, 0o755))
	return dir
}

// spawn starts the program on the database in dir, with a configuration in YAML.
func spawn(t testing.TB, dir, config string, args ...string) *process {
	t.Helper()
	file := filepath.Join(t.TempDir(), "parlor.yaml")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	p := &process{t: t, log: &transcript{}, ended: make(chan struct{})}
	p.cmd = exec.Command(binary(t), append([]string{
		"--dev", "--config", file, "--port", "0", "--bind", "127.0.0.1", "--database", filepath.Join(dir, "parlor.db"),
	}, args...)...)
	p.cmd.Dir, p.cmd.Stderr = dir, p.log
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	urls := make(chan string, 1)
	go func() { // ends with the process
		defer close(p.ended)
		for s := bufio.NewScanner(out); s.Scan(); {
			if fields := strings.Fields(s.Text()); len(fields) == 2 && fields[0] == "page" {
				urls <- strings.TrimSuffix(fields[1], "/")
			}
		}
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("the log of the process in %s:\n%s", dir, p.log)
		}
	})
	select {
	case p.url = <-urls:
	case <-p.ended: // it failed to start; the caller sees that it has no URL
	case <-time.After(time.Minute):
		require.Fail(t, "the server does not come up", p.log)
	}
	return p
}

// kill kills the process, like a crash.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

// exit waits until the process has ended by itself, and returns its exit status.
func (p *process) exit(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(within):
		require.Fail(p.t, "the process goes on", "after %v: %s", within, p.log)
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) roomService() livekit.RoomService {
	return livekit.NewRoomServiceProtobufClient(p.url, &http.Client{Timeout: 20 * time.Second})
}

// get makes a request to the REST API, and parses the answer into out unless that is nil.
func (p *process) get(path string, out any) int {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.url+path, nil)
	require.NoError(p.t, err)
	req.SetBasicAuth("devkey", "secret")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(p.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(p.t, err)
	if out != nil && resp.StatusCode == http.StatusOK {
		require.NoError(p.t, json.Unmarshal(body, out), string(body))
	}
	return resp.StatusCode
}
