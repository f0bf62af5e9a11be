package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/stretchr/testify/require"
)

// TestAcrossClients: a browser, Node and Go work together. Each checks RPC, streams and
// data with each of the others, and those that decode media see and hear each other. The
// page and its script are in static/browser.
func TestAcrossClients(t *testing.T) {
	t.Parallel()
	room := roomName(t)
	me := single.join(t, room, "go")
	startPage(t, room)
	startNode(t, room)
	for _, identity := range []string{"page", "node"} {
		for _, kind := range []livekit.TrackSource{mic, camera} {
			remote := me.remote(t, identity, kind)
			eventually(t, fmt.Sprintf("%s of %s arrives", kind, identity), func() bool {
				in := me.inbound(remote.SID())
				return in != nil && time.Since(in.newest()) < time.Second
			})
		}
	}
	answers := me.answer(t)
	ask := func(who, method, about string) string {
		t.Helper()
		answer, err := me.LocalParticipant.PerformRpc(lksdk.PerformRpcParams{
			DestinationIdentity: who, Method: method, Payload: about, ResponseTimeout: ptr(patience),
		})
		require.NoError(t, err, "%s %s %s", who, method, about)
		return *answer
	}
	for who, others := range map[string][]string{"page": {"node", "go"}, "node": {"page", "go"}} {
		for _, other := range others {
			t.Run(who+" tries "+other, func(t *testing.T) {
				require.Equal(t, "ok", ask(who, "check", other))
				if other != "go" { // the Go client's media cannot be decoded
					require.Equal(t, "ok", ask(who, "media", other))
				}
			})
		}
		t.Run("go tries "+who, func(t *testing.T) { me.check(t, who, answers, ask) })
	}
	t.Run("data", func(t *testing.T) { me.exchangeData(t, ask) })
}

// answer makes p answer like the other participants, and returns their answers to it.
func (p *peer) answer(t *testing.T) <-chan string {
	t.Helper()
	answers := make(chan string, 4)
	require.NoError(t, p.RegisterRpcMethod("echo", func(d lksdk.RpcInvocationData) (string, error) {
		return d.CallerIdentity + ": " + d.Payload, nil
	}))
	require.NoError(t, p.RegisterTextStreamHandler("ask", func(r *lksdk.TextStreamReader, from string) {
		p.LocalParticipant.SendText(r.ReadAll()+"!", lksdk.StreamTextOptions{Topic: "answer", DestinationIdentities: []string{from}})
	}))
	require.NoError(t, p.RegisterTextStreamHandler("answer", func(r *lksdk.TextStreamReader, _ string) { answers <- r.ReadAll() }))
	require.NoError(t, p.RegisterByteStreamHandler("ask", func(r *lksdk.ByteStreamReader, from string) {
		p.sendBytes(*r.Info.Name, "answer", from, r.ReadAll())
	}))
	require.NoError(t, p.RegisterByteStreamHandler("answer", func(r *lksdk.ByteStreamReader, _ string) {
		answers <- *r.Info.Name + string(r.ReadAll())
	}))
	return answers
}

func (p *peer) sendBytes(name, topic, to string, content []byte) {
	w := p.LocalParticipant.StreamBytes(lksdk.StreamBytesOptions{Topic: topic, FileName: &name, DestinationIdentities: []string{to}})
	w.Write(content, ptr(func() { w.Close() }))
}

// check checks another participant.
func (p *peer) check(t *testing.T, who string, answers <-chan string, ask func(who, method, about string) string) {
	t.Helper()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-answers:
			require.Equal(t, want, got)
		case <-time.After(patience):
			t.Fatal("no answer")
		}
	}
	require.Equal(t, "go: grüezi", ask(who, "echo", "grüezi"))
	text := strings.Repeat("zwölf Boxkämpfer ", 3000)
	p.LocalParticipant.SendText(text, lksdk.StreamTextOptions{Topic: "ask", DestinationIdentities: []string{who}})
	expect(text + "!")
	content := bytes.Repeat([]byte{0, 1, 255}, 10_000)
	p.sendBytes("numbers", "ask", who, content)
	expect("numbers" + string(content))
}

// exchangeData makes all participants send a reliable and a lossy packet until all have
// those of all others. Lossy packets may be lost.
func (p *peer) exchangeData(t *testing.T, ask func(who, method, about string) string) {
	t.Helper()
	lines := func(who string) (got []string) {
		if who == "go" {
			for _, d := range p.received() {
				got = append(got, d.from+" "+d.topic+" "+d.payload)
			}
			return got
		}
		require.NoError(t, json.Unmarshal([]byte(ask(who, "received", "")), &got))
		return got
	}
	everybody := []string{"go", "page", "node"}
	eventually(t, "everybody gets everybody's packets", func() bool {
		for _, reliable := range []bool{true, false} {
			topic := map[bool]string{true: "reliable", false: "lossy"}[reliable]
			require.NoError(t, p.LocalParticipant.PublishDataPacket(lksdk.UserData([]byte("hello")),
				lksdk.WithDataPublishReliable(reliable), lksdk.WithDataPublishTopic(topic)))
		}
		for _, who := range everybody[1:] {
			require.Equal(t, "ok", ask(who, "send", ""))
		}
		for _, who := range everybody {
			got := lines(who)
			for _, from := range everybody {
				for _, topic := range []string{"reliable", "lossy"} {
					if slices.Contains(got, from+" "+topic+" hello") == (from == who) {
						return false
					}
				}
			}
		}
		return true
	})
}

// startNode starts a participant with the Node SDK.
func startNode(t *testing.T, room string) {
	t.Helper()
	node := findProgram(t, "node")
	require.NoError(t, nodeModules())
	cmd := exec.Command(node, "across.js")
	cmd.Dir = "node"
	cmd.Env = append(os.Environ(), "PARLOR_URL="+env.server.http(), "PARLOR_KEY="+apiKey, "PARLOR_SECRET="+apiSecret,
		"PARLOR_WEBHOOK_PORT=0", "PARLOR_ROOM="+room)
	runBeside(t, cmd)
}

// startPage starts a participant with livekit-client in headless Chromium.
func startPage(t *testing.T, room string) {
	t.Helper()
	chromium := findProgram(t, os.Getenv("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir("../../static/browser/testdata/client")))
	mux.HandleFunc("/vendor/livekit-client.js", func(w http.ResponseWriter, r *http.Request) {
		found, err := filepath.Glob("../../static/vendor/livekit-client-*.umd.js.gz")
		if err != nil || len(found) != 1 {
			http.Error(w, fmt.Sprint(found, err), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
		w.Header().Set("Content-Encoding", "gzip")
		http.ServeFile(w, r, found[0])
	})
	harness := httptest.NewServer(mux)
	t.Cleanup(harness.Close)
	query := url.Values{"list": {"across"}, "room": {room}, "url": {env.server.ws()}, "keys": {apiKey + ":" + apiSecret}}
	runBeside(t, exec.Command(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
		"--user-data-dir="+t.TempDir(), "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required",
		"--allow-loopback-in-peer-connection", "--disable-features=WebRtcHideLocalIpsWithMdns",
		"--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
		"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
		"--remote-debugging-port=0", harness.URL+"/?"+query.Encode()))
}

// findProgram finds the first of the programs that is installed.
func findProgram(t *testing.T, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	require.NotEqual(t, "true", os.Getenv("CI"), "none of %v is installed", names)
	t.Skipf("none of %v is installed", names)
	return ""
}

// runBeside runs a program until the test ends.
func runBeside(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	input, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, input.Close())
		late := time.AfterFunc(2*time.Second, func() { _ = cmd.Process.Signal(os.Interrupt) })
		defer late.Stop()
		err := cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %v\n%s", cmd.Args[0], err, output.String())
		}
	})
}
