package forward

import "github.com/livekit/protocol/livekit"

// layerSizes are the sizes of a track's qualities, in pixels; 0 = unknown.
type layerSizes struct {
	width, height [livekit.VideoQuality_HIGH + 1]uint32
	known         bool
}

// longestSide bounds what is believed of a size, in pixels: no codec has larger pictures.
const longestSide = 1 << 16

// sizesOf reads the sizes that the publisher announced. If it announced no layers, each
// is taken to be half the size of the next, as in libwebrtc's simulcast.
func sizesOf(info *livekit.TrackInfo) *layerSizes {
	s := &layerSizes{}
	layers := info.GetLayers()
	if len(layers) == 0 && len(info.GetCodecs()) > 0 {
		layers = info.GetCodecs()[0].GetLayers()
	}
	for _, l := range layers {
		q := l.GetQuality()
		if q < livekit.VideoQuality_LOW || q > livekit.VideoQuality_HIGH || l.GetWidth() == 0 || l.GetHeight() == 0 {
			continue
		}
		s.width[q], s.height[q], s.known = min(l.GetWidth(), longestSide), min(l.GetHeight(), longestSide), true
	}
	if w, h := min(info.GetWidth(), longestSide), min(info.GetHeight(), longestSide); !s.known && w > 0 && h > 0 {
		for q := range s.width {
			shift := uint(len(s.width) - 1 - q)
			s.width[q], s.height[q] = w>>shift, h>>shift
		}
		s.known = true
	}
	return s
}

// of is the size of a quality in pixels; 0 = unknown.
func (s *layerSizes) of(q livekit.VideoQuality) (width, height uint32) {
	if q < livekit.VideoQuality_LOW || q > livekit.VideoQuality_HIGH {
		return 0, 0
	}
	return s.width[q], s.height[q]
}

// has reports whether a quality may be sent: the publisher announced it, or no sizes.
func (s *layerSizes) has(q livekit.VideoQuality) bool {
	width, height := s.of(q)
	return !s.known || width != 0 && height != 0
}

// pixels is the size of the largest quality; 0 = unknown.
func (s *layerSizes) pixels() (largest uint64) {
	for q := range s.width {
		largest = max(largest, uint64(s.width[q])*uint64(s.height[q]))
	}
	return largest
}

// fit is the lowest quality whose picture is at least as large as shown. It compares the
// shorter sides, because a picture may be rotated, or cropped to its frame.
func (s *layerSizes) fit(width, height uint32) livekit.VideoQuality {
	if !s.known {
		return livekit.VideoQuality_HIGH
	}
	shown := min(width, height)
	if shown == 0 {
		shown = max(width, height)
	}
	best := livekit.VideoQuality_HIGH
	for q := livekit.VideoQuality_HIGH; q >= livekit.VideoQuality_LOW; q-- {
		side := min(s.width[q], s.height[q])
		if side != 0 && side >= shown {
			best = q
		}
	}
	return best
}
