package conformance

import (
	"strings"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/stretchr/testify/require"
)

const (
	mic    = livekit.TrackSource_MICROPHONE
	camera = livekit.TrackSource_CAMERA
	screen = livekit.TrackSource_SCREEN_SHARE
)

func TestCall(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		alice, bob := m.join(t, room, "alice"), m.join(t, room, "bob")
		require.True(t, strings.HasPrefix(alice.SID(), "RM_"))
		require.Equal(t, alice.SID(), bob.SID())
		require.True(t, strings.HasPrefix(alice.LocalParticipant.SID(), "PA_"))
		alice.sees(t, "bob")

		audio, video := alice.publishMicrophone(t), alice.publishCamera(t)
		bob.await(t, "published alice MICROPHONE")
		bob.await(t, "published alice CAMERA")
		bob.awaitMedia(t, audio.SID(), 50)
		bob.awaitMedia(t, video.SID(), 30)
		bob.inbound(audio.SID()).checkAudio(t, 960)
		bob.inbound(video.SID()).checkVideo(t)
		alice.await(t, "someone subscribed to MICROPHONE")
		alice.await(t, "someone subscribed to CAMERA")
		info := bob.remote(t, "alice", camera).TrackInfo()
		require.Equal(t, "camera", info.Name)
		require.Equal(t, uint32(320), info.Width)
		require.Equal(t, "video/vp8", strings.ToLower(info.MimeType))

		// A second publisher, and media in the other direction.
		answer := bob.publishMicrophone(t)
		alice.awaitMedia(t, answer.SID(), 20)

		// A participant that joins late finds the existing tracks.
		carol := m.join(t, room, "carol")
		require.NotNil(t, carol.find("alice", mic), "the join response lists alice's tracks")
		carol.awaitMedia(t, audio.SID(), 20)
		carol.awaitMedia(t, video.SID(), 20)
		carol.awaitMedia(t, answer.SID(), 20)

		// A second video track at the same time.
		share := alice.publish(t, newSource(t, vp8), screen)
		bob.awaitMedia(t, share.SID(), 20)
		bob.awaitMedia(t, video.SID(), 20)

		// Unpublish one, publish it again.
		require.NoError(t, alice.LocalParticipant.UnpublishTrack(video.SID()))
		bob.await(t, "unpublished alice CAMERA")
		carol.await(t, "unpublished alice CAMERA")
		again := alice.publishCamera(t)
		require.NotEqual(t, video.SID(), again.SID())
		bob.awaitMedia(t, again.SID(), 20)
		carol.awaitMedia(t, again.SID(), 20)
		bob.awaitMedia(t, share.SID(), 20)
		bob.awaitMedia(t, audio.SID(), 20)

		alice.Disconnect()
		bob.await(t, "left alice")
		carol.await(t, "left alice")
		require.Nil(t, bob.GetParticipantByIdentity("alice"))
	})
}

// An audio track exists and can be subscribed to from its negotiation on. For video, the
// SDK does not say in which of the negotiated codecs it will send, so only the first
// packet shows it.
func TestAnnouncedBeforeMedia(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		alice, bob := m.join(t, room, "alice"), m.join(t, room, "bob")
		source := newIdleSource(t, opus, 'f')
		pub := alice.publish(t, source, mic)
		bob.await(t, "published alice MICROPHONE")
		alice.await(t, "someone subscribed to MICROPHONE")
		require.Nil(t, bob.inbound(pub.SID()), "nothing has been sent")
		second := newIdleSource(t, opus, 'f')
		other := alice.publish(t, second, livekit.TrackSource_SCREEN_SHARE_AUDIO)
		bob.await(t, "published alice SCREEN_SHARE_AUDIO")
		alice.await(t, "someone subscribed to SCREEN_SHARE_AUDIO")
		source.start(t)
		bob.awaitMedia(t, pub.SID(), 20)
		require.Nil(t, bob.inbound(other.SID()), "nothing has been sent of the second")
		carol := m.join(t, room, "carol")
		require.NotNil(t, carol.find("alice", livekit.TrackSource_SCREEN_SHARE_AUDIO), "it is there for who joins late")
		second.start(t)
		bob.awaitMedia(t, other.SID(), 20)
		carol.awaitMedia(t, other.SID(), 20)

		silent := newIdleSource(t, vp8, 'f')
		video := alice.publish(t, silent, camera)
		silent.start(t)
		bob.awaitMedia(t, video.SID(), 20)
	})
}

func TestAudioOnly(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		alice, bob := m.join(t, room, "alice"), m.join(t, room, "bob")
		hers, his := alice.publishMicrophone(t), bob.publishMicrophone(t)
		alice.awaitMedia(t, his.SID(), 20)
		bob.awaitMedia(t, hers.SID(), 20)
		carol := m.join(t, room, "carol") // sends no media
		carol.awaitMedia(t, his.SID(), 20)
		carol.awaitMedia(t, hers.SID(), 20)
	})
}

func TestMute(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		alice, bob := m.join(t, room, "alice"), m.join(t, room, "bob")
		for _, pub := range []*lksdk.LocalTrackPublication{alice.publishMicrophone(t), alice.publishCamera(t)} {
			kind := pub.Source().String()
			bob.awaitMedia(t, pub.SID(), 10)
			pub.SetMuted(true)
			bob.await(t, "muted alice "+kind)
			bob.awaitSilence(t, pub.SID())
			late := m.join(t, room, "late")
			require.True(t, late.remote(t, "alice", pub.Source()).IsMuted())
			late.Disconnect()
			pub.SetMuted(false)
			bob.await(t, "unmuted alice "+kind)
			bob.awaitMedia(t, pub.SID(), 10)
		}
	})
}

func TestCodecs(t *testing.T) {
	for _, c := range []struct {
		name  string
		codec codec
		kind  livekit.TrackSource
	}{
		{"opus", opus, mic},
		{"PCMU", pcmu, mic},
		{"PCMA", pcma, mic},
		{"VP8", vp8, camera},
		{"VP9", vp9, camera},
		{"H264", h264, camera},
		{"AV1", av1, camera},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, m mode) {
				if m.name == single.name && (c.name == "PCMU" || c.name == "PCMA") {
					parlorOnly(t) // stock does not deliver G.711 over a single connection
				}
				room := roomName(t)
				alice, bob := m.join(t, room, "alice"), m.join(t, room, "bob")
				pub := alice.publish(t, newSource(t, c.codec), c.kind)
				bob.awaitMedia(t, pub.SID(), 25)
				in := bob.inbound(pub.SID())
				require.Equal(t, strings.ToLower(c.codec.capability.MimeType), strings.ToLower(in.codec))
				if c.codec.audio() {
					in.checkAudio(t, c.codec.capability.ClockRate/50)
				} else {
					in.checkVideo(t)
				}
			})
		})
	}
}

func TestSimulcast(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		publisher := m
		if env.reference {
			publisher = dual // over a single connection stock takes all three for the lowest layer
		}
		alice, bob := publisher.join(t, room, "alice"), m.join(t, room, "bob")
		layers := simulcast(t, vp8)
		pub, err := alice.LocalParticipant.PublishSimulcastTrack(
			[]*lksdk.LocalTrack{layers[0].track, layers[1].track, layers[2].track},
			&lksdk.TrackPublicationOptions{Name: "camera", Source: camera})
		require.NoError(t, err)

		remote := bob.remote(t, "alice", camera)
		require.Len(t, remote.TrackInfo().Layers, 3)
		awaitLayer := func(layer byte) {
			t.Helper()
			defer func() {
				if t.Failed() {
					t.Logf("layers: %s", bob.inbound(pub.SID()).layers())
				}
			}()
			eventually(t, "bob receives only layer "+string(layer), func() bool {
				packets := bob.inbound(pub.SID()).all()
				if len(packets) < 20 {
					return false
				}
				for _, p := range packets[len(packets)-20:] {
					if p.stamp.layer != layer {
						return false
					}
				}
				return true
			})
		}
		awaitLayer('f')
		require.NoError(t, remote.SetVideoQuality(livekit.VideoQuality_LOW))
		awaitLayer('q')
		require.NoError(t, remote.SetVideoQuality(livekit.VideoQuality_MEDIUM))
		awaitLayer('h')
		require.NoError(t, remote.SetVideoQuality(livekit.VideoQuality_HIGH))
		awaitLayer('f')
		remote.SetVideoDimensions(300, 170)
		awaitLayer('q')

		// The switches appear to the receiver as one stream.
		packets := bob.inbound(pub.SID()).all()
		for n := 1; n < len(packets); n++ {
			// Neighbours may arrive in the other order.
			require.InDelta(t, 0, int16(packets[n].seq-packets[n-1].seq), 100, "sequence numbers go on")
			require.InDelta(t, 0, int32(packets[n].ts-packets[n-1].ts), 5*90000, "timestamps go on")
		}

		remote.SetEnabled(false)
		bob.awaitSilence(t, pub.SID())
		remote.SetEnabled(true)
		bob.awaitMedia(t, pub.SID(), 20)
	})
}

func TestSubscriptions(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		alice := m.join(t, room, "alice")
		audio, video := alice.publishMicrophone(t), alice.publishCamera(t)

		// Without automatic subscription, a participant gets no tracks.
		bob := m.join(t, room, "bob", lksdk.WithAutoSubscribe(false))
		remote := bob.remote(t, "alice", camera)
		steadily(t, time.Second, "bob receives nothing unasked", func() bool {
			return bob.inbound(audio.SID()) == nil && bob.inbound(video.SID()) == nil
		})
		require.NoError(t, remote.SetSubscribed(true))
		bob.awaitMedia(t, video.SID(), 10)
		require.Nil(t, bob.inbound(audio.SID()))

		require.NoError(t, remote.SetSubscribed(false))
		bob.awaitSilence(t, video.SID())
		require.NoError(t, remote.SetSubscribed(true))
		bob.awaitMedia(t, video.SID(), 10)

		// An automatic subscription can be ended too.
		carol := m.join(t, room, "carol")
		carol.awaitMedia(t, audio.SID(), 10)
		carol.awaitMedia(t, video.SID(), 10)
		require.NoError(t, carol.remote(t, "alice", mic).SetSubscribed(false))
		carol.awaitSilence(t, audio.SID())
		carol.awaitMedia(t, video.SID(), 10)
		require.NoError(t, carol.remote(t, "alice", mic).SetSubscribed(true))
		carol.awaitMedia(t, audio.SID(), 10)
	})
}

// TestTwoVideos: a camera and a screen are independent.
func TestTwoVideos(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		alice, bob := m.join(t, room, "alice"), m.join(t, room, "bob")
		sids := func(pubs ...*lksdk.LocalTrackPublication) (sids []string) {
			for _, pub := range pubs {
				sids = append(sids, pub.SID())
			}
			return sids
		}
		see := func(p *peer, sids ...string) {
			t.Helper()
			for _, sid := range sids {
				p.awaitMedia(t, sid, 10)
				p.inbound(sid).checkVideo(t)
			}
		}
		face, slides := alice.publishCamera(t), alice.publish(t, newSource(t, vp8), screen)
		see(bob, sids(face, slides)...)
		carol := m.join(t, room, "carol")
		see(carol, sids(face, slides)...)
		choosy := m.join(t, room, "choosy", lksdk.WithAutoSubscribe(false))
		require.NoError(t, choosy.remote(t, "alice", screen).SetSubscribed(true))
		see(choosy, slides.SID())
		require.Nil(t, choosy.inbound(face.SID()), "the camera was not asked for")

		for _, c := range []struct {
			pub, other *lksdk.LocalTrackPublication
		}{{slides, face}, {face, slides}} {
			remote := bob.remote(t, "alice", c.pub.Source())
			require.NoError(t, remote.SetSubscribed(false))
			bob.awaitSilence(t, c.pub.SID())
			see(bob, c.other.SID())
			require.NoError(t, remote.SetSubscribed(true))
			see(bob, sids(c.pub, c.other)...)

			c.pub.SetMuted(true)
			bob.await(t, "muted alice "+c.pub.Source().String())
			bob.awaitSilence(t, c.pub.SID())
			see(bob, c.other.SID())
			c.pub.SetMuted(false)
			see(bob, sids(c.pub, c.other)...)
		}

		require.NoError(t, alice.LocalParticipant.UnpublishTrack(slides.SID()))
		for _, p := range []*peer{bob, carol} {
			p.await(t, "unpublished alice SCREEN_SHARE")
			see(p, face.SID())
		}
		again := alice.publish(t, newSource(t, vp8), screen)
		require.NotEqual(t, slides.SID(), again.SID())
		for _, p := range []*peer{bob, carol} {
			see(p, sids(face, again)...)
		}
	})
}

func TestSubscriptionPermissions(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		alice, bob, carol := m.join(t, room, "alice"), m.join(t, room, "bob"), m.join(t, room, "carol")
		audio, video := alice.publishMicrophone(t), alice.publishCamera(t)
		bob.awaitMedia(t, audio.SID(), 5)
		carol.awaitMedia(t, audio.SID(), 5)
		carol.awaitMedia(t, video.SID(), 5)

		alice.LocalParticipant.SetSubscriptionPermission(&livekit.SubscriptionPermission{
			TrackPermissions: []*livekit.TrackPermission{
				{ParticipantIdentity: "bob", AllTracks: true},
				{ParticipantIdentity: "carol", TrackSids: []string{audio.SID()}},
			},
		})
		carol.awaitSilence(t, video.SID())
		carol.awaitMedia(t, audio.SID(), 10)
		bob.awaitMedia(t, video.SID(), 10)

		alice.LocalParticipant.SetSubscriptionPermission(&livekit.SubscriptionPermission{AllParticipants: true})
		carol.awaitMedia(t, video.SID(), 10)
	})
}

func TestDuplicateIdentity(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		bob := m.join(t, room, "bob")
		first := m.join(t, room, "alice")
		bob.sees(t, "alice")
		second := m.join(t, room, "alice")
		first.await(t, "disconnected DUPLICATE_IDENTITY")
		require.NotEqual(t, first.LocalParticipant.SID(), second.LocalParticipant.SID())
		audio := second.publishMicrophone(t)
		bob.awaitMedia(t, audio.SID(), 10)
		require.Equal(t, second.LocalParticipant.SID(), bob.GetParticipantByIdentity("alice").SID())
		require.Equal(t, lksdk.ConnectionStateConnected, second.ConnectionState())
	})
}

func TestGrants(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		alice := m.join(t, room, "alice")
		audio := alice.publishMicrophone(t)
		bystander := m.join(t, room, "bystander")
		bystander.awaitMedia(t, audio.SID(), 5)

		t.Run("cannot publish", func(t *testing.T) {
			p := m.joinAs(t, "listener", &auth.VideoGrant{RoomJoin: true, Room: room, CanPublish: ptr(false)})
			p.awaitMedia(t, audio.SID(), 10)
			_, err := p.LocalParticipant.PublishTrack(newSource(t, opus).track, nil)
			require.ErrorIs(t, err, lksdk.ErrTrackPublishTimeout)
			require.Nil(t, bystander.find("listener", mic))
		})
		t.Run("cannot subscribe", func(t *testing.T) {
			p := m.joinAs(t, "speaker", &auth.VideoGrant{RoomJoin: true, Room: room, CanSubscribe: ptr(false)})
			pub := p.publishMicrophone(t)
			bystander.awaitMedia(t, pub.SID(), 10)
			require.Nil(t, p.inbound(audio.SID()))
		})
		t.Run("cannot publish data", func(t *testing.T) {
			p := m.joinAs(t, "quiet", &auth.VideoGrant{RoomJoin: true, Room: room, CanPublishData: ptr(false)})
			pub := p.publishMicrophone(t)
			require.NoError(t, p.LocalParticipant.PublishDataPacket(lksdk.UserData([]byte("forbidden")), lksdk.WithDataPublishReliable(true)))
			bystander.awaitMedia(t, pub.SID(), 10)
			steadily(t, time.Second, "no data arrives", func() bool { return len(bystander.received()) == 0 })
		})
		t.Run("sources", func(t *testing.T) {
			grant := join(room)
			grant.SetCanPublishSources([]livekit.TrackSource{mic})
			p := m.joinAs(t, "voice", grant)
			_, err := p.LocalParticipant.PublishTrack(newSource(t, vp8).track, &lksdk.TrackPublicationOptions{Source: camera})
			require.ErrorIs(t, err, lksdk.ErrTrackPublishTimeout)
			q := m.joinAs(t, "voice", grant)
			bystander.awaitMedia(t, q.publishMicrophone(t).SID(), 10)
		})
		t.Run("hidden", func(t *testing.T) {
			p := m.joinAs(t, "ghost", &auth.VideoGrant{RoomJoin: true, Room: room, Hidden: true})
			p.awaitMedia(t, audio.SID(), 10)
			steadily(t, time.Second, "nobody sees who is hidden", func() bool {
				return bystander.GetParticipantByIdentity("ghost") == nil && alice.GetParticipantByIdentity("ghost") == nil
			})
		})
		require.Equal(t, 0, bystander.count("joined ghost"))
	})
}

func TestActiveSpeakers(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		alice, bob := m.join(t, room, "alice"), m.join(t, room, "bob")
		source := newSource(t, opus)
		alice.publish(t, source, mic)
		bob.await(t, "speaking [alice]")
		alice.await(t, "speaking [alice]")
		source.stop()
		bob.await(t, "speaking []")
	})
}

func TestConnectionQuality(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		alice, bob := m.join(t, room, "alice"), m.join(t, room, "bob")
		alice.publishMicrophone(t)
		bob.await(t, "quality alice EXCELLENT")
	})
}
