package rooms

import (
	"fmt"
	"slices"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"
)

// Bounds of what a client may announce. Each announcement goes to every participant, and
// goes out again with every change of its publisher.
const (
	mostTracks   = 256 // of a participant
	mostCodecs   = 4   // of a track
	mostLayers   = 8   // of a codec
	mostFeatures = 16  // of a track
	longestName  = 512 // bytes
	longestEcho  = 4 << 10
)

// unreasonable says which bound req exceeds; "" if none.
func unreasonable(req *livekit.AddTrackRequest) string {
	names := []string{req.Cid, req.Name, req.Sid, req.Stream}
	layers := [][]*livekit.VideoLayer{req.Layers} // older clients
	if len(req.SimulcastCodecs) > mostCodecs {
		return fmt.Sprintf("a track can have %d codecs", mostCodecs)
	}
	for _, c := range req.SimulcastCodecs {
		names = append(names, c.GetCodec(), c.GetCid())
		layers = append(layers, c.GetLayers())
	}
	for _, list := range layers {
		if len(list) > mostLayers {
			return fmt.Sprintf("a codec can have %d layers", mostLayers)
		}
		for _, l := range list {
			names = append(names, l.GetRid())
		}
	}
	if len(req.AudioFeatures) > mostFeatures || len(req.PacketTrailerFeatures) > mostFeatures {
		return fmt.Sprintf("a track can have %d features", mostFeatures)
	}
	for _, n := range names {
		if len(n) > longestName {
			return fmt.Sprintf("names of tracks, codecs and layers can have %d bytes", longestName)
		}
	}
	return ""
}

// knownQualities reports whether all layers have qualities that there are, and else the first that
// is none.
func knownQualities(req *livekit.AddTrackRequest) (unknown livekit.VideoQuality, ok bool) {
	layers := req.Layers
	for _, c := range req.SimulcastCodecs {
		layers = slices.Concat(layers, c.GetLayers())
	}
	for _, l := range layers {
		if _, known := livekit.VideoQuality_name[int32(l.GetQuality())]; !known {
			return l.GetQuality(), false
		}
	}
	return 0, true
}

// requestResponse answers a request. A long request is not echoed in the answer, so that
// refusing costs no more than asking.
func requestResponse(resp *livekit.RequestResponse) *livekit.SignalResponse {
	if proto.Size(resp) > longestEcho {
		resp.Request = nil
	}
	return &livekit.SignalResponse{Message: &livekit.SignalResponse_RequestResponse{RequestResponse: resp}}
}
