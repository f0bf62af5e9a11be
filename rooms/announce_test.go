package rooms_test

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"parlor/rooms"
)

// TestAnnouncementsAreBounded: announcements go to all participants, so their length is
// bounded. The refusal is not longer than a request may be.
func TestAnnouncementsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		ann := h.join("tea", "ann")
		sid := ann.publish(t, "cam", livekit.TrackSource_CAMERA)
		long := strings.Repeat("n", 513)
		layers := make([]*livekit.VideoLayer, 9)
		for i := range layers {
			layers[i] = &livekit.VideoLayer{Rid: "q"}
		}
		codecs := make([]*livekit.SimulcastCodec, 5)
		for i := range codecs {
			codecs[i] = &livekit.SimulcastCodec{Codec: "vp8"}
		}
		video := livekit.TrackType_VIDEO
		for name, req := range map[string]*livekit.AddTrackRequest{
			"cid":           {Type: video, Cid: long},
			"name":          {Type: video, Name: long},
			"stream":        {Type: video, Stream: strings.Repeat(long, 10)},
			"codec":         {Type: video, SimulcastCodecs: []*livekit.SimulcastCodec{{Codec: long}}},
			"layers":        {Type: video, Layers: layers},
			"codec layers":  {Type: video, SimulcastCodecs: []*livekit.SimulcastCodec{{Codec: "vp8", Layers: layers}}},
			"rid":           {Type: video, Layers: []*livekit.VideoLayer{{Rid: long}}},
			"codecs":        {Type: video, SimulcastCodecs: codecs},
			"features":      {Type: livekit.TrackType_AUDIO, AudioFeatures: make([]livekit.AudioTrackFeature, 17)},
			"added codecs":  {Type: video, Sid: sid, SimulcastCodecs: codecs[:4]},
			"nil and empty": {Type: video, Layers: make([]*livekit.VideoLayer, 9), SimulcastCodecs: make([]*livekit.SimulcastCodec, 1)},
		} {
			ann.AddTrack(req)
			ann.Sync()
			got := ann.refused()
			require.Equal(t, livekit.RequestResponse_LIMIT_EXCEEDED, got.GetReason(), name)
			require.NotEmpty(t, got.GetMessage(), name)
			require.Less(t, proto.Size(got), 5<<10, name)
			require.Equal(t, name != "stream", got.GetAddTrack() != nil, name)
		}
		for _, layers := range [][]*livekit.VideoLayer{{{Quality: -5}}, {{}, {Quality: 4}}} {
			for _, req := range []*livekit.AddTrackRequest{
				{Type: video, Cid: "x", Layers: layers},
				{Type: video, Cid: "x", SimulcastCodecs: []*livekit.SimulcastCodec{nil, {Codec: "vp8", Layers: layers}}},
			} {
				ann.AddTrack(req)
				ann.Sync()
				require.Equal(t, livekit.RequestResponse_UNSUPPORTED_TYPE, ann.refused().GetReason())
			}
		}
		ann.AddTrack(&livekit.AddTrackRequest{Type: video, Sid: sid, SimulcastCodecs: codecs[:3]})
		ann.UpdateLocalAudioTrack(&livekit.UpdateLocalAudioTrack{TrackSid: sid, Features: make([]livekit.AudioTrackFeature, 5000)})
		ann.Sync()
		require.Nil(t, ann.refused().GetUpdateAudioTrack())

		for i := range 300 {
			ann.AddTrack(&livekit.AddTrackRequest{Type: video, Cid: string(rune('a' + i))})
			ann.Sync()
			if tp := find(ann, (*livekit.SignalResponse).GetTrackPublished); tp.GetCid() == string(rune('a'+i)) {
				ann.TrackPublished(fakeTrack(tp.Track.Sid), rooms.TrackFacts{})
			}
		}
		ann.Sync()
		require.Equal(t, livekit.RequestResponse_LIMIT_EXCEEDED, ann.refused().GetReason())
		require.Len(t, h.one("tea").Name, 3) // the room continues
		p, err := h.Participant(t.Context(), "tea", "ann")
		require.NoError(t, err)
		require.Len(t, p.Tracks, 256)
	})
}

// TestAnnouncedCodec: a codec that is announced first and sent later is listed once.
func TestAnnouncedCodec(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ann := newHouse(t).join("tea", "ann")
		video := livekit.TrackType_VIDEO
		answer := func(req *livekit.AddTrackRequest) *livekit.TrackInfo {
			ann.AddTrack(req)
			ann.Sync()
			return find(ann, (*livekit.SignalResponse).GetTrackPublished).GetTrack()
		}
		cids := func(info *livekit.TrackInfo) (out []string) {
			for _, c := range info.Codecs {
				out = append(out, c.MimeType+" "+c.Cid)
			}
			return out
		}
		for codec, want := range map[string][]string{
			"vp8":  {"video/av1 first", "video/vp8 second"},
			"h264": {"video/av1 first", "video/vp8 ", "video/h264 second"},
		} {
			info := answer(&livekit.AddTrackRequest{Cid: "first", Type: video, SimulcastCodecs: []*livekit.SimulcastCodec{{Codec: "av1", Cid: "first"}, {Codec: "vp8"}}})
			require.Equal(t, []string{"video/av1 first", "video/vp8 "}, cids(info))
			ann.TrackPublished(fakeTrack(info.Sid), rooms.TrackFacts{})
			got := answer(&livekit.AddTrackRequest{Sid: info.Sid, Cid: "second", Type: video, SimulcastCodecs: []*livekit.SimulcastCodec{{Codec: codec, Cid: "second"}}})
			require.Equal(t, want, cids(got))
			ann.TrackUnpublished(info.Sid)
		}
	})
}

// TestFurtherCodecSaysNoMoreThanItsTrack: when the Go SDK sends a further codec, it
// announces it again under the cid that it had named, and leaves out kind and source.
func TestFurtherCodecSaysNoMoreThanItsTrack(t *testing.T) {
	for _, c := range []struct {
		kind          livekit.TrackType
		source        livekit.TrackSource
		first, backup string
		policy        livekit.BackupCodecPolicy
	}{
		{livekit.TrackType_AUDIO, microphone, "audio/PCMU", "opus", livekit.BackupCodecPolicy_SIMULCAST},
		{livekit.TrackType_VIDEO, camera, "video/AV1", "vp8", livekit.BackupCodecPolicy_PREFER_REGRESSION},
	} {
		t.Run(c.kind.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				ann := h.join("tea", "ann", func(r *rooms.JoinRequest) {
					r.Info.Permission = &livekit.ParticipantPermission{CanPublish: true, CanPublishSources: []livekit.TrackSource{c.source}}
				})
				kind, _, _ := strings.Cut(c.first, "/")
				ann.AddTrack(&livekit.AddTrackRequest{Cid: "first", Type: c.kind, Source: c.source, SimulcastCodecs: []*livekit.SimulcastCodec{
					{Codec: c.first, Cid: "first"}, {Codec: kind + "/" + c.backup, Cid: "second"},
				}})
				ann.Sync()
				info := ann.announced("first")
				require.NotNil(t, info)
				require.Equal(t, c.policy, info.BackupCodecPolicy, "sound is sent side by side by default")
				ann.TrackPublished(fakeTrack(info.Sid), rooms.TrackFacts{})
				ann.AddTrack(&livekit.AddTrackRequest{Sid: info.Sid, Cid: "second", SimulcastCodecs: []*livekit.SimulcastCodec{{Codec: c.backup, Cid: "second"}}})
				ann.Sync()
				again := ann.announced("second")
				require.NotNil(t, again, "%v", ann.refused())
				require.Equal(t, info.Sid, again.Sid)
				require.Len(t, again.Codecs, 2, "one that was announced is not another")
				require.Equal(t, kind+"/"+c.backup, again.Codecs[1].MimeType)

				ann.AddTrack(&livekit.AddTrackRequest{Sid: info.Sid, Cid: "third", Source: livekit.TrackSource_SCREEN_SHARE, Type: c.kind})
				ann.Sync()
				require.Nil(t, ann.announced("third"), "another source is not permitted")
			})
		})
	}
}

func (c *client) refused() *livekit.RequestResponse {
	return find(c, (*livekit.SignalResponse).GetRequestResponse)
}
