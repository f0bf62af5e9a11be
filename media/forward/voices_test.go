package forward

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink"
	"parlor/media/downlink/allocate"
)

// speaker is a microphone in a meeting, and the listener's subscription to it.
type speaker struct {
	s     *sender
	r     *receiver
	level int // dBov; 0 = the packets carry no level
}

// meeting is speakers and a listener that is sent the loudest two.
type meeting struct {
	t        *testing.T
	speakers []*speaker
}

// newMeeting makes a meeting of speakers. The first of them have the given voices.
func newMeeting(t *testing.T, speakers int, source livekit.TrackSource, voices ...*Voice) *meeting {
	d := downlink.New(nil)
	d.LimitVoices(2)
	d.Connected()
	m := &meeting{t: t}
	for i := range speakers {
		c := TrackConfig{SID: fmt.Sprint(i), Kind: livekit.TrackType_AUDIO, Codec: opusConfig()}
		if i < len(voices) {
			c.Voice = voices[i]
		}
		track := NewTrack(c)
		t.Cleanup(track.Close)
		track.SetInfo(&livekit.TrackInfo{Source: source})
		m.speakers = append(m.speakers, &speaker{
			s: newSender(track, uint32(i+1), opusConfig(), "", 0), level: -70,
			r: newReceiver(track, opusConfig(), func(c *ForwarderConfig) { c.SSRC, c.Downlink = uint32(5000+i), d }),
		})
	}
	return m
}

// talk lets time pass, and returns the number of packets from each speaker.
func (m *meeting) talk(d time.Duration) (heard []int) {
	for range int(d / (20 * time.Millisecond)) {
		for _, sp := range m.speakers {
			sp.s.at = time.Now()
			raw := sp.s.packet(false, make([]byte, 80))
			if sp.level != 0 {
				p := rtp.Packet{}
				require.NoError(m.t, p.Unmarshal(raw))
				require.NoError(m.t, p.SetExtension(1, []byte{byte(-sp.level)}))
				var err error
				raw, err = p.Marshal()
				require.NoError(m.t, err)
			}
			sp.s.layer.WriteRTP(raw, sp.s.at)
			sp.s.ts += 960
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, sp := range m.speakers {
		got := sp.r.take()
		requireContiguous(m.t, got)
		heard = append(heard, len(slices.DeleteFunc(got, func(p rtp.Packet) bool { return len(p.Payload) < 80 }))) // without substitute frames
	}
	return heard
}

// A listener gets the audio of the loudest participants, up to the limit. A participant
// that begins to speak is heard soon.
func TestTheLoudestAreHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeeting(t, 5, livekit.TrackSource_MICROPHONE)
		require.Equal(t, []int{50, 50, 0, 0, 0}, m.talk(time.Second), "places are taken as they come")
		require.Equal(t, Softer, m.speakers[4].r.f.Stats().Shortfall)

		m.speakers[4].level = -30
		heard := m.talk(200 * time.Millisecond)
		require.GreaterOrEqual(t, heard[4], 8, "after two packets")
		require.Zero(t, heard[2]+heard[3])
		heard = m.talk(time.Second)
		require.Equal(t, 50, heard[4])
		require.Equal(t, 100, heard[0]+heard[1]+heard[4], "not more than two")

		m.speakers[3].level, m.speakers[2].level = -32, -33
		heard = m.talk(time.Second)
		require.Equal(t, 50, heard[4])
		require.GreaterOrEqual(t, heard[3]+heard[2], 48, "one of them has the other place")
		require.Zero(t, min(heard[3], heard[2]), "and keeps it while it speaks")

		first := 3
		if heard[2] > 0 {
			first = 2
		}
		m.speakers[first].level = -70 // the other one is still speaking
		heard = m.talk(time.Second)
		require.GreaterOrEqual(t, heard[5-first], 30)
		require.Equal(t, 50, heard[4])

		m.speakers[4].r.f.Close()
		m.speakers[1].level = 0 // without a level, packets count as speech
		heard = m.talk(time.Second)
		require.GreaterOrEqual(t, heard[1], 45, "a place that is given up is free")
	})
}

// A participant has one place, whatever the number of its tracks: it can neither take
// places of others nor lose a track for having two.
func TestATrackMoreTakesNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		loud := NewVoice()
		m := newMeeting(t, 4, livekit.TrackSource_MICROPHONE, loud, loud, loud)
		for _, s := range m.speakers {
			s.level = -30
		}
		require.Equal(t, []int{50, 50, 50, 50}, m.talk(time.Second))
	})
}

// The audio of a shared screen is not a voice.
func TestSharedSoundIsNotLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeeting(t, 4, livekit.TrackSource_SCREEN_SHARE_AUDIO)
		require.Equal(t, []int{50, 50, 50, 50}, m.talk(time.Second))
	})
}

// Clients learn of a track by its first packet. They also learn of one that is not heard
// yet.
func TestWhoIsNotHeardYetIsStillSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeeting(t, 3, livekit.TrackSource_MICROPHONE)
		time.Sleep(2 * time.Second)
		require.NotEmpty(t, m.speakers[2].r.take())
	})
}

// For some time, the video of a speaker comes before that of others.
func TestSpeakersAreShownFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		voice := NewVoice()
		sound := NewTrack(TrackConfig{SID: "TR_a", Kind: livekit.TrackType_AUDIO, Codec: opusConfig(), Voice: voice})
		t.Cleanup(sound.Close)
		camera := NewTrack(TrackConfig{SID: "TR_v", Kind: livekit.TrackType_VIDEO, Codec: vp8Config(), Voice: voice})
		t.Cleanup(camera.Close)
		r := newReceiver(camera, vp8Config(), nil)
		require.Equal(t, allocate.Rest, r.f.describe(time.Now()).Class)
		m := &meeting{t: t, speakers: []*speaker{{s: newSender(sound, 1, opusConfig(), "", 0), r: &receiver{}, level: -30}}}
		m.talk(100 * time.Millisecond)
		require.Equal(t, allocate.Speaker, r.f.describe(time.Now()).Class)
		m.speakers[0].level = -70
		m.talk(4 * time.Second)
		require.Equal(t, allocate.Rest, r.f.describe(time.Now()).Class)
	})
}

// If participants begin and stop speaking, join and leave concurrently, no place stays
// taken, and there is no deadlock.
func TestVoicesComeAndGoAtOnce(t *testing.T) {
	d := downlink.New(nil)
	d.LimitVoices(3)
	d.Connected()
	var wg sync.WaitGroup
	for i := range 8 {
		track := newTestTrack(t, livekit.TrackType_AUDIO, opusConfig())
		m := &meeting{t: t, speakers: []*speaker{{s: newSender(track, uint32(i+1), opusConfig(), "", 0), r: &receiver{}}}}
		wg.Go(func() {
			sp := m.speakers[0]
			for n := range 60 {
				r := newReceiver(track, opusConfig(), func(c *ForwarderConfig) { c.SSRC, c.Downlink = uint32(5000+i), d })
				for k := range 10 {
					p := rtp.Packet{}
					_ = p.Unmarshal(sp.s.packet(false, make([]byte, 80)))
					_ = p.SetExtension(1, []byte{byte(20 + (n*7+k*i)%60)})
					raw, _ := p.Marshal()
					sp.s.at = sp.s.at.Add(20 * time.Millisecond)
					sp.s.layer.WriteRTP(raw, sp.s.at)
				}
				r.f.Close()
			}
		})
	}
	wg.Wait()
	var heard []bool
	for i := range 4 {
		track := newTestTrack(t, livekit.TrackType_AUDIO, opusConfig())
		r := newReceiver(track, opusConfig(), func(c *ForwarderConfig) { c.SSRC, c.Downlink = uint32(6000+i), d })
		heard = append(heard, !r.f.heldBack.Load())
	}
	require.Equal(t, []bool{true, true, true, false}, heard)
}
