package conformance

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/stretchr/testify/require"
)

// nodeModules installs the modules of the scripts in node/, and agentModules those in
// agents/, once for all tests.
var (
	nodeModules  = sync.OnceValue(func() error { return install("node") })
	agentModules = sync.OnceValue(func() error { return install("agents") })
)

// install installs the modules of the scripts in a folder.
func install(folder string) error {
	there := exec.Command("npm", "ls", "--depth=0") // fails if anything is missing
	there.Dir = folder
	if there.Run() == nil {
		return nil
	}
	install := exec.Command("npm", "ci", "--ignore-scripts")
	install.Dir = folder
	if out, err := install.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w: %s", err, out)
	}
	return nil
}

// TestNode runs the tests in node/ against a server of their own. They use LiveKit's Node
// SDKs, which contain WebRTC's engine and codecs.
func TestNode(t *testing.T) {
	t.Parallel()
	node, err := exec.LookPath("node")
	if err != nil {
		require.NotEqual(t, "true", os.Getenv("CI"), "node is not installed")
		t.Skip("node is not installed")
	}
	dir, err := filepath.Abs("node")
	require.NoError(t, err)
	require.NoError(t, nodeModules())

	ports, err := freePorts(1)
	require.NoError(t, err)
	s := startServer(t, settings{"webhook": map[string]any{
		"api_key": apiKey, "urls": []string{fmt.Sprintf("http://127.0.0.1:%d/", ports[0])},
	}, "room": map[string]any{"enable_remote_unmute": true}, "enable_participant_data_blob": true})
	cmd := exec.CommandContext(t.Context(), node, "main.js")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(),
		"PARLOR_URL="+s.http(), "PARLOR_PLAIN_URL="+env.server.http(),
		"PARLOR_KEY="+apiKey, "PARLOR_SECRET="+apiSecret,
		fmt.Sprintf("PARLOR_WEBHOOK_PORT=%d", ports[0]))
	out, err := cmd.CombinedOutput()
	t.Logf("node:\n%s", out)
	require.NoError(t, err)
	closing := regexp.MustCompile(`(?m)^(\d+) passed, 0 failed$`).FindStringSubmatch(strings.TrimSpace(string(out)))
	require.NotNil(t, closing, "the closing line")
	require.NotEqual(t, "0", closing[1])
}

// TestDataOverAKill: after a kill of the server clients of the Rust SDK have their data
// tracks again, and their data blobs still.
func TestDataOverAKill(t *testing.T) {
	parlorOnly(t)
	t.Parallel()
	node := findProgram(t, "node")
	require.NoError(t, nodeModules())
	for _, connections := range []string{"two", "one"} {
		t.Run(connections, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, settings{"enable_participant_data_blob": true, "restart_grace": "1m"})
			ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, node, "datarestart.js", connections)
			cmd.Dir = "node"
			cmd.Env = append(os.Environ(), "PARLOR_URL="+s.http(), "PARLOR_KEY="+apiKey, "PARLOR_SECRET="+apiSecret, "PARLOR_WEBHOOK_PORT=0")
			in, err := cmd.StdinPipe()
			require.NoError(t, err)
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			var errs logBuffer
			cmd.Stderr = &errs
			require.NoError(t, cmd.Start())
			var lines []string
			for scanner := bufio.NewScanner(out); scanner.Scan(); {
				lines = append(lines, scanner.Text())
				if scanner.Text() == "ready" {
					s.kill()
					require.NoError(t, s.start())
					_, err := io.WriteString(in, "killed\n")
					require.NoError(t, err)
				}
			}
			require.NoError(t, cmd.Wait(), "%v\n%s", lines, &errs)
			require.Contains(t, lines, "1 passed, 0 failed")
		})
	}
}

// TestStockAgent: a worker of LiveKit's agents framework for Node registers and gets a job by
// its name. Its agent joins, is heard, writes in another's name, and goes with its room, and so does the worker when it
// is told to stop.
func TestStockAgent(t *testing.T) {
	t.Parallel()
	node, err := exec.LookPath("node")
	if err != nil {
		require.NotEqual(t, "true", os.Getenv("CI"), "node is not installed")
		t.Skip("node is not installed")
	}
	dir, err := filepath.Abs("agents")
	require.NoError(t, err)
	require.NoError(t, agentModules())

	room := roomName(t)
	ada := single.joinAt(t, env.server.ws(), token(t, "ada", join(room)))
	bob := dual.joinAt(t, env.server.ws(), token(t, "bob", join(room)))
	transcripts := make(chan string, 1)
	require.NoError(t, bob.RegisterTextStreamHandler("lk.transcription", func(r *lksdk.TextStreamReader, from string) {
		transcripts <- from + ": " + r.ReadAll()
	}))
	_, err = lksdk.NewAgentDispatchServiceClient(env.server.http(), apiKey, apiSecret).CreateDispatch(t.Context(),
		&livekit.CreateAgentDispatchRequest{Room: room, AgentName: room, Metadata: "the job"})
	require.NoError(t, err)

	var log logBuffer
	worker := exec.Command(node, "agent.js", "dev", "--log-level", "debug")
	worker.Dir, worker.Stdout, worker.Stderr = dir, &log, &log
	worker.Env = append(os.Environ(), "PARLOR_AGENT_NAME="+room,
		"LIVEKIT_URL="+env.server.ws(), "LIVEKIT_API_KEY="+apiKey, "LIVEKIT_API_SECRET="+apiSecret)
	worker.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it starts a process for each job
	worker.WaitDelay = 10 * time.Second
	require.NoError(t, worker.Start())
	ended, over := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(over)
		ended <- worker.Wait()
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-worker.Process.Pid, syscall.SIGKILL) // they may have ended
		<-over
		if t.Failed() {
			t.Logf("the worker said:\n%s", log.String())
		}
	})

	agent := oneAgent(t, env.server, room)
	require.Equal(t, room, agent.Attributes["lk.agent_name"])
	want := datum{agent.Identity, "", agent.Identity + " heard the job"}
	eventually(t, "the agent is heard", func() bool { return slices.Contains(ada.received(), want) })
	select {
	case got := <-transcripts:
		require.Equal(t, "ada: what ada said", got)
	case <-time.After(patience):
		require.FailNow(t, "no transcript")
	}
	_, err = roomService(env.server).DeleteRoom(t.Context(), &livekit.DeleteRoomRequest{Room: room})
	require.NoError(t, err)
	eventually(t, "the agent's job ends", func() bool { return strings.Contains(log.String(), "the agent has left") })

	require.NoError(t, worker.Process.Signal(syscall.SIGTERM))
	select {
	case <-ended:
	case <-time.After(patience):
		require.FailNow(t, "the worker does not end")
	}
}
