package browser_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"github.com/twitchtv/twirp"

	"parlor/server/freeport"
)

// The keys of a development server.
const (
	devKey    = "devkey"
	devSecret = "secret"
)

// built is the program as all tests of a run use it: it is linked once. TestMain removes it.
var built struct {
	once      sync.Once
	dir, path string
	err       error
}

func TestMain(m *testing.M) {
	status := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir) // a temporary folder
	}
	os.Exit(status)
}

// buildServer builds the program as it is released, without cgo, if no test has done so.
// PARLOR_BINARY can name one that is already built.
func buildServer(t *testing.T) string {
	t.Helper()
	if binary := os.Getenv("PARLOR_BINARY"); binary != "" {
		return binary
	}
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "parlor-browser"); built.err != nil {
			return
		}
		built.path = filepath.Join(built.dir, "parlor")
		if runtime.GOOS == "windows" {
			built.path += ".exe"
		}
		build := exec.Command("go", "build", "-o", built.path, "parlor")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if output, err := build.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build the program: %w: %s", err, output)
		}
	})
	require.NoError(t, built.err)
	return built.path
}

// server is the program in another process, which can be killed and started again on the
// same ports and the same database.
type server struct {
	t      *testing.T
	binary string
	flags  []string
	dir    string
	port   string

	cmd    *exec.Cmd
	output sync.WaitGroup // reads what the process writes until it ends
	mu     sync.Mutex     // guards lines
	lines  []string
}

var listening = regexp.MustCompile(`msg=serving .*addresses="?127\.0\.0\.1:(\d+)`)

// startServer starts the program in development mode, or with other flags.
func startServer(t *testing.T, binary string, flags ...string) *server {
	t.Helper()
	if len(flags) == 0 {
		flags = []string{"--dev"}
	}
	s := &server{t: t, binary: binary, flags: flags, dir: t.TempDir(), port: freePort(t)}
	s.start()
	t.Cleanup(func() {
		s.stop(os.Interrupt)
		if t.Failed() {
			t.Logf("the server said:\n%s", s.said())
		}
	})
	return s
}

func freePort(t *testing.T) string {
	t.Helper()
	port, err := freeport.Next()
	require.NoError(t, err)
	return strconv.Itoa(port)
}

// start starts the process, and waits until it prints its address.
func (s *server) start() {
	s.t.Helper()
	s.cmd = exec.Command(s.binary, slices.Concat([]string{"--port", s.port, "--udp-port", "0", "--tcp-port", "0",
		"--database", filepath.Join(s.dir, "parlor.db")}, s.flags)...)
	s.cmd.Dir = s.dir
	s.cmd.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "PARLOR_") || strings.HasPrefix(variable, "LIVEKIT_")
	})
	reader, writer, err := os.Pipe()
	require.NoError(s.t, err)
	s.cmd.Stdout, s.cmd.Stderr = writer, writer
	require.NoError(s.t, s.cmd.Start())
	require.NoError(s.t, writer.Close())

	ports := make(chan string, 1)
	s.output.Go(func() { // until the process closes its end
		defer func() { _ = reader.Close() }()
		for scanner := bufio.NewScanner(reader); scanner.Scan(); {
			line := scanner.Text()
			s.mu.Lock()
			s.lines = append(s.lines, line)
			s.mu.Unlock()
			if match := listening.FindStringSubmatch(line); match != nil {
				select {
				case ports <- match[1]:
				default:
				}
			}
		}
		close(ports)
	})
	select {
	case port, ok := <-ports:
		require.True(s.t, ok, "the server ended:\n%s", s.said())
		s.port = port
	case <-time.After(patience):
		s.t.Fatal("the server does not tell its address")
	}
}

// said is the last output of the process.
func (s *server) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines[max(0, len(s.lines)-200):], "\n")
}

// stop sends a signal, and waits for the process to end.
func (s *server) stop(signal os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(signal); err != nil {
		s.t.Log("stop the server:", err)
	}
	late := time.AfterFunc(20*time.Second, func() { _ = s.cmd.Process.Kill() })
	err := s.cmd.Wait()
	if !late.Stop() {
		s.t.Error("the server did not stop within 20 s")
	}
	if signal != syscall.SIGKILL && err != nil {
		s.t.Error("the server did not stop cleanly:", err)
	}
	s.output.Wait()
}

// page is the address of the page with the given query, in pairs.
func (s *server) page(query ...string) string {
	values := url.Values{}
	for i := 0; i < len(query); i += 2 {
		values.Set(query[i], query[i+1])
	}
	return fmt.Sprintf("http://localhost:%s/?%s", s.port, values.Encode())
}

// token makes an access token as the backend of an application would. LiveKit's library
// refuses to make an expired one.
func (s *server) token(identity string, valid time.Duration, grant auth.VideoGrant) string {
	s.t.Helper()
	now := time.Now()
	claims := struct {
		jwt.RegisteredClaims
		Name  string           `json:"name"`
		Video *auth.VideoGrant `json:"video"`
	}{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: devKey, Subject: identity, ID: identity,
			NotBefore: jwt.NewNumericDate(now.Add(min(0, 2*valid))), ExpiresAt: jwt.NewNumericDate(now.Add(valid)),
		},
		Name: "Guest " + identity, Video: &grant,
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(devSecret))
	require.NoError(s.t, err)
	return token
}

// rest makes a call of the REST API, which must succeed.
func (s *server) rest(method, path, body string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://localhost:"+s.port+path, strings.NewReader(body))
	require.NoError(s.t, err)
	req.SetBasicAuth(devKey, devSecret)
	req.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(req)
	require.NoError(s.t, err)
	require.NoError(s.t, answer.Body.Close())
	require.Less(s.t, answer.StatusCode, 300, "%s %s", method, path)
}

// rooms is the API with every permission, and a context with its token. Participants may
// be moved to the room to.
func (s *server) rooms(room, to string) (livekit.RoomService, context.Context) {
	s.t.Helper()
	header := http.Header{}
	header.Set("Authorization", "Bearer "+s.token("backend", time.Hour, auth.VideoGrant{
		RoomCreate: true, RoomList: true, RoomAdmin: true, Room: room, DestinationRoom: to,
	}))
	ctx, err := twirp.WithHTTPRequestHeaders(s.t.Context(), header)
	require.NoError(s.t, err)
	return livekit.NewRoomServiceProtobufClient("http://localhost:"+s.port, http.DefaultClient), ctx
}
