package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/logger"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/stretchr/testify/require"
)

const (
	apiKey    = "conformance"
	apiSecret = "a-secret-that-is-long-enough-for-hs256"

	// inNamespace is the environment variable that names the part of a test's own network
	// that a process of the test is.
	inNamespace = "TEST_IN_NAMESPACE"

	// patience bounds every wait for an event that should happen at once. It is long
	// because the race detector and two busy cores are slow.
	patience = 60 * time.Second
)

// environment is shared by all tests of the run. TestMain fills it before the first test,
// and it does not change later.
type environment struct {
	binary    string
	reference bool
	hooks     *receiver
	server    *server
}

var env environment

func TestMain(m *testing.M) {
	lksdk.SetLogger(logger.GetDiscardLogger())
	if os.Getenv(inNamespace) != "" { // it starts the servers that it needs itself
		env.binary = os.Getenv("PARLOR_BINARY")
		os.Exit(m.Run())
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if env.binary, env.reference, err = findBinary(dir); err != nil {
		return 1, err
	}
	env.hooks = newReceiver()
	defer env.hooks.Close()
	if env.server, err = launch(dir, settings{"webhook": map[string]any{
		"api_key": apiKey, "urls": []string{env.hooks.URL},
	}}); err != nil {
		return 1, err
	}
	code := m.Run()
	err = env.server.end()
	if code != 0 {
		fmt.Fprintf(os.Stderr, "last of the shared server's log:\n%s\n", env.server.log.tail(40))
	}
	return code, err
}

// findBinary finds or builds the server to test.
func findBinary(dir string) (path string, reference bool, err error) {
	if path = os.Getenv("PARLOR_REF"); path != "" {
		return path, true, nil
	}
	if path = os.Getenv("PARLOR_BINARY"); path != "" {
		return path, false, nil
	}
	path = filepath.Join(dir, "parlor")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		return "", false, fmt.Errorf("build the server: %w\n%s", err, out)
	}
	return path, false, nil
}

// settings are top-level keys of the configuration file.
type settings map[string]any

// server is one server process, with all that is needed to start it again on the same
// ports and the same database.
type server struct {
	dir    string
	config string
	port   int
	log    *logBuffer

	socket *os.File // of the HTTP port, which is passed to the process; nil = it binds the port itself

	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has been waited for
}

func (s *server) http() string { return "http://127.0.0.1:" + strconv.Itoa(s.port) }
func (s *server) ws() string   { return "ws://127.0.0.1:" + strconv.Itoa(s.port) }

// launch starts a server with a configuration that a stock server reads too,
// and waits until it answers.
func launch(dir string, extra settings) (*server, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir, port: ports[0], log: &logBuffer{}, config: filepath.Join(dir, "config.yaml")}
	rtc := map[string]any{
		"udp_port": ports[1], "tcp_port": ports[2],
		"use_external_ip": false, "enable_loopback_candidate": true,
	}
	conf := settings{
		"port": s.port, "bind_addresses": []string{"127.0.0.1"}, "rtc": rtc,
		"keys":    map[string]string{apiKey: apiSecret},
		"logging": map[string]any{"level": "info"},
	}
	if env.reference {
		// Without this, stock announces public STUN servers. This address has no server.
		rtc["stun_servers"] = []string{"127.0.0.1:9"}
		conf["logging"] = map[string]any{"level": "warn"}
	} else {
		conf["database"] = filepath.Join(dir, "parlor.db")
	}
	maps.Copy(conf, extra)
	// JSON is YAML.
	data, err := json.MarshalIndent(conf, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.config, data, 0o600); err != nil {
		return nil, err
	}
	return s, s.start()
}

// The ports of servers lie below those from which a system takes the ports of connections
// and of ":0" (RFC 6335, section 6). One of these can be taken before the server binds it,
// and again while the server is restarted.
const firstPort, portCount = 12_000, 20_000

// portsGiven counts the ports that freePorts returned.
var portsGiven atomic.Uint32

// freePorts returns ports without listeners for TCP and UDP, each once.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range portCount {
		if len(ports) == n {
			break
		}
		port := firstPort + (os.Getpid()*199+int(portsGiven.Add(1)))%portCount
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		defer l.Close()
		u, err := net.ListenPacket("udp", ":"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		defer u.Close()
		ports = append(ports, port)
	}
	if len(ports) < n {
		return nil, errors.New("no free ports")
	}
	return ports, nil
}

// start starts the process, and waits until it serves.
func (s *server) start() error {
	s.cmd = exec.Command(env.binary, "--config", s.config)
	if s.socket != nil { // only the child knows its process id, which LISTEN_PID must be
		s.cmd = exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, env.binary, "--config", s.config)
		s.cmd.ExtraFiles, s.cmd.Env = []*os.File{s.socket}, append(os.Environ(), "LISTEN_FDS=1")
	}
	s.cmd.Dir = s.dir
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	s.done = done
	go func(cmd *exec.Cmd) {
		defer close(done)
		_ = cmd.Wait() // its exit status is in cmd.ProcessState
	}(s.cmd)

	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		select {
		case <-s.done:
			return fmt.Errorf("the server ended at start: %v\n%s", s.cmd.ProcessState, s.log.tail(40))
		case <-time.After(20 * time.Millisecond):
		}
		if status, _, err := fetch(context.Background(), s.http()+"/"); err == nil && status == http.StatusOK {
			return nil
		}
	}
	s.kill()
	return fmt.Errorf("the server did not answer within %v\n%s", patience, s.log.tail(40))
}

// kill kills the process, as a crash would, and waits for its end.
func (s *server) kill() {
	_ = s.cmd.Process.Kill() // an error means that it has ended already
	<-s.done
}

// stop asks the process to end, waits, and returns the time that it took.
func (s *server) stop(within time.Duration) (time.Duration, error) {
	began := time.Now()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return 0, err
	}
	select {
	case <-s.done:
		return time.Since(began), nil
	case <-time.After(within):
		s.kill()
		return within, fmt.Errorf("the server was still running %v after SIGTERM", within)
	}
}

// end stops the process for good, and reports lines that must not be in its log.
func (s *server) end() error {
	select {
	case <-s.done:
	default:
		if env.reference {
			s.kill() // after SIGTERM stock waits for its participants without limit
		} else if _, err := s.stop(patience); err != nil {
			return err
		}
	}
	return s.log.verdict()
}

// startServer runs a server for the test alone, which ends with the test.
func startServer(t *testing.T, extra settings) *server {
	t.Helper()
	s, err := launch(t.TempDir(), extra)
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := s.end(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("last of the server's log:\n%s", s.log.tail(60))
		}
	})
	return s
}

// parlorOnly skips a test for a feature that stock is known to lack.
func parlorOnly(t *testing.T) {
	t.Helper()
	if env.reference {
		t.Skip("stock does not do this")
	}
}

// logBuffer keeps the output of a server.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logBuffer) tail(lines int) string {
	all := strings.Split(strings.TrimSpace(l.String()), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// verdict is an error if the log has a data race or a crash.
func (l *logBuffer) verdict() error {
	text := l.String()
	for _, bad := range []string{"WARNING: DATA RACE", "\npanic: ", "fatal error: ", "goroutine 1 ["} {
		if i := strings.Index(text, bad); i >= 0 {
			return fmt.Errorf("the server's log has %q:\n%s", bad, text[i:min(len(text), i+4000)])
		}
	}
	return nil
}

// roomName is a room that no other test uses.
func roomName(t *testing.T) string {
	return strings.NewReplacer("/", "-", " ", "_").Replace(t.Name()) +
		"-" + strconv.FormatInt(time.Now().UnixNano(), 36)
}

// token signs what a client needs to join with the given grant.
func token(t *testing.T, identity string, grant *auth.VideoGrant) string {
	t.Helper()
	jwt, err := auth.NewAccessToken(apiKey, apiSecret).
		SetIdentity(identity).SetValidFor(time.Hour).SetVideoGrant(grant).ToJWT()
	require.NoError(t, err)
	return jwt
}

// join is the grant of an ordinary participant.
func join(room string) *auth.VideoGrant { return &auth.VideoGrant{RoomJoin: true, Room: room} }

func ptr[T any](v T) *T { return &v }

// eventually waits until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	eventuallyWithin(t, patience, what, ok)
}

func eventuallyWithin(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(15 * time.Millisecond) {
		if time.Now().After(deadline) {
			require.FailNow(t, "this did not happen within "+within.String()+": "+what)
		}
	}
}

// steadily fails if ok stops holding within the given time. Only a wait can show that an
// event does not happen.
func steadily(t *testing.T, during time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(15 * time.Millisecond) {
		if !ok() {
			require.FailNow(t, "this did not hold for "+during.String()+": "+what)
		}
	}
}

// fetch does a GET and returns status and body.
func fetch(ctx context.Context, url string, headers ...string) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body), err
}
