package media

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"
	"github.com/pion/webrtc/v4/pkg/media/ivfreader"
	"github.com/pion/webrtc/v4/pkg/media/ivfwriter"
	"github.com/pion/webrtc/v4/pkg/media/oggreader"
	"github.com/pion/webrtc/v4/pkg/media/oggwriter"
	"github.com/stretchr/testify/require"
	vp8decoder "golang.org/x/image/vp8"

	"parlor/media/downlink/sent"
	"parlor/media/forward"
	"parlor/rooms"
)

// recorder writes a published track into a file. It uses only Tap.
type recorder struct {
	*forward.Forwarder
	file interface {
		WriteRTP(*rtp.Packet) error
		Close() error
	}
	packets chan *rtp.Packet
	done    chan error // holds the error once the file is closed
}

// record starts writing a VP8 track to an IVF file, or an Opus track to an Ogg file.
func record(t rooms.MediaTrack, name string) (*recorder, error) {
	r := &recorder{packets: make(chan *rtp.Packet, 4096), done: make(chan error, 1)}
	var err error
	if r.Forwarder, err = Tap(t, r, TapConfig{Codecs: []string{webrtc.MimeTypeVP8, webrtc.MimeTypeOpus}}); err != nil {
		return nil, err
	}
	if r.Format().MimeType == webrtc.MimeTypeVP8 {
		r.file, err = ivfwriter.New(name, ivfwriter.WithCodec(webrtc.MimeTypeVP8))
	} else {
		r.file, err = oggwriter.New(name, 48000, 2)
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	go r.run() // ends with the track, or with Close
	return r, nil
}

func (r *recorder) run() {
	var err error
	for p := range r.packets {
		err = errors.Join(err, r.file.WriteRTP(p))
	}
	r.done <- errors.Join(err, r.file.Close())
}

func (r *recorder) Write(h *rtp.Header, payload []byte, _ sent.Kind) error {
	select {
	case r.packets <- &rtp.Packet{Header: h.Clone(), Payload: bytes.Clone(payload)}:
		return nil
	default:
		return errors.New("the disk is too slow")
	}
}

func (r *recorder) Flush() {}

func (r *recorder) WriteRTCP([]rtcp.Packet) error { return nil }

func (r *recorder) End() { close(r.packets) }

// ivfFrames returns the frames in a file.
func ivfFrames(t *testing.T, name string) (frames [][]byte) {
	file, err := os.ReadFile(name)
	require.NoError(t, err)
	in, _, err := ivfreader.NewWith(bytes.NewReader(file))
	require.NoError(t, err)
	last := int64(-1)
	for {
		frame, h, err := in.ParseNextFrame()
		if errors.Is(err, io.EOF) {
			return frames
		}
		require.NoError(t, err)
		require.Greater(t, int64(h.Timestamp), last)
		last = int64(h.Timestamp)
		frames = append(frames, frame)
	}
}

func oggPackets(t *testing.T, name string) (packets [][]byte) {
	file, err := os.ReadFile(name)
	require.NoError(t, err)
	in, _, err := oggreader.NewWith(bytes.NewReader(file))
	require.NoError(t, err)
	for {
		page, _, err := in.ParseNextPage()
		if errors.Is(err, io.EOF) {
			return packets
		}
		require.NoError(t, err)
		if !bytes.HasPrefix(page, []byte("OpusTags")) && len(page) > 0 {
			packets = append(packets, page)
		}
	}
}

// perform publishes samples repeatedly, faster than they are played: it writes one sample
// of length each in each interval pass.
func (c *client) perform(sid string, codec webrtc.RTPCodecCapability, samples [][]byte, each, pass time.Duration) {
	c.t.Helper()
	local, err := webrtc.NewTrackLocalStaticSample(codec, "cid-"+sid, "stream-"+sid)
	require.NoError(c.t, err)
	c.publishLocal(sid, local, codec, nil)
	stop, done := make(chan struct{}), make(chan struct{})
	c.t.Cleanup(func() { close(stop); <-done })
	go func() {
		defer close(done)
		tick := time.NewTicker(pass)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
				_ = local.WriteSample(media.Sample{Data: samples[i%len(samples)], Duration: each})
			}
		}
	}()
}

// follows counts the recorded samples that follow each other as in the published ones.
func follows(recorded, published [][]byte) (n int) {
	at := slices.IndexFunc(published, func(p []byte) bool { return bytes.Equal(p, recorded[0]) })
	if at < 0 {
		return 0
	}
	for n < len(recorded) && bytes.Equal(recorded[n], published[(at+n)%len(published)]) {
		n++
	}
	return n
}

func isKey(frame []byte) bool { return frame[0]&1 == 0 }

// A recorder needs only a track and Tap. It writes exactly the published frames, from a
// keyframe on, and the file can be played.
func TestARecorderIsAnOutput(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	picture, voice := ivfFrames(t, "testdata/picture.ivf"), oggPackets(t, "testdata/voice.ogg")
	a.perform("TR_v", vp8, picture, time.Second/15, 5*time.Millisecond)
	a.perform("TR_a", opus, voice, 20*time.Millisecond, 5*time.Millisecond)
	dir := t.TempDir()
	film, sound := filepath.Join(dir, "film.ivf"), filepath.Join(dir, "sound.ogg")
	camera, err := record(a.published("TR_v").track, film)
	require.NoError(t, err)
	microphone, err := record(a.published("TR_a").track, sound)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		return camera.Stats().Packets > 250 && microphone.Stats().Packets > 150
	}, patience, time.Millisecond)
	a.peer.RemoveTrack("TR_v") // the recording ends by itself
	microphone.Close()
	require.NoError(t, <-camera.done)
	require.NoError(t, <-microphone.done)

	frames := ivfFrames(t, film)
	require.True(t, isKey(frames[0]))
	require.Greater(t, len(frames), 50)
	require.Equal(t, len(frames), follows(frames, picture))
	for _, f := range frames {
		if !isKey(f) {
			continue
		}
		d := vp8decoder.NewDecoder()
		d.Init(bytes.NewReader(f), len(f))
		h, err := d.DecodeFrameHeader()
		require.NoError(t, err)
		require.Equal(t, []int{320, 180}, []int{h.Width, h.Height})
		_, err = d.DecodeFrame()
		require.NoError(t, err)
	}
	packets := oggPackets(t, sound)
	require.Greater(t, len(packets), 100)
	require.Equal(t, len(packets), follows(packets, voice))
	require.Zero(t, e.Stats().Video.Sent.Packets, "a recorder is no subscriber")

	if ffprobe, err := exec.LookPath("ffprobe"); err == nil {
		for _, name := range []string{film, sound} {
			said, err := exec.Command(ffprobe, "-loglevel", "warning", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv", name).CombinedOutput()
			require.NoError(t, err)
			require.Regexp(t, `^stream,\d+\s*$`, string(said))
		}
	}
}

// kept is an output that keeps all packets.
type kept struct {
	mu      sync.Mutex // guards the following
	packets []rtp.Packet
	ends    int
}

func (s *kept) Write(h *rtp.Header, payload []byte, _ sent.Kind) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packets = append(s.packets, rtp.Packet{Header: h.Clone(), Payload: bytes.Clone(payload)})
	return nil
}
func (s *kept) Flush()                        {}
func (s *kept) WriteRTCP([]rtcp.Packet) error { return nil }

func (s *kept) End() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends++
}

func (s *kept) ended() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ends
}

// layer is the layer of publishSimulcast that came last; -1 before the first.
func (s *kept) layer() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range slices.Backward(s.packets) {
		if i := strings.Index(string(p.Payload), "\x9d\x01\x2a"); i > 0 && i+7 < len(p.Payload) {
			return int(p.Payload[i+7])
		}
	}
	return -1
}

// An output gets one continuous stream, whatever its settings and whatever the publisher
// does.
func TestTapIsOneStream(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	a.publishSimulcast("TR_s")
	track := a.published("TR_s").track
	_, err := Tap(track, &kept{}, TapConfig{Codecs: []string{webrtc.MimeTypeH264}})
	require.ErrorIs(t, err, ErrNoCodec)
	out := &kept{}
	f, err := Tap(track, out, TapConfig{})
	require.NoError(t, err)
	require.Equal(t, "video/VP8", f.Format().MimeType)
	for _, q := range []livekit.VideoQuality{livekit.VideoQuality_HIGH, livekit.VideoQuality_LOW, livekit.VideoQuality_MEDIUM} {
		f.SetSettings(forward.Settings{Quality: q})
		require.Eventually(t, func() bool { return out.layer() == int(q) }, patience, time.Millisecond, "%v", q)
	}
	a.setMuted("TR_s", true)
	a.setMuted("TR_s", false)
	before := f.Stats().Packets
	require.Eventually(t, func() bool { return f.Stats().Packets > before+20 }, patience, time.Millisecond)
	a.peer.RemoveTrack("TR_s")
	require.Eventually(t, func() bool { return out.ended() == 1 }, patience, time.Millisecond)
	out.mu.Lock()
	for i := 1; i < len(out.packets); i++ {
		p, q := &out.packets[i-1], &out.packets[i]
		require.Equal(t, p.SSRC, q.SSRC)
		require.Equal(t, p.SequenceNumber+1, q.SequenceNumber, "packet %d", i)
		require.GreaterOrEqual(t, int32(q.Timestamp-p.Timestamp), int32(0), "packet %d", i)
	}
	out.mu.Unlock()
	f.Close()
	require.Equal(t, 1, out.ended(), "once")

	late := &kept{}
	_, err = Tap(track, late, TapConfig{})
	require.NoError(t, err)
	require.Equal(t, 1, late.ended(), "a track that has ended")
}
