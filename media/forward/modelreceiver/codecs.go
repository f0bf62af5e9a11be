package modelreceiver

// hasPictureID reports whether a VP8 payload has a picture id. Chromium omits it when
// there are dependency descriptors.
func hasPictureID(b []byte) bool { return len(b) > 1 && b[0]&0x80 != 0 && b[1]&0x80 != 0 }

// unwrap extends the frame's numbers once. A frame may be related several times, and the
// later ones may be far behind the newest numbers.
func (f *Frame) unwrap(pictures *unwrapper, picture int64, tl0s *unwrapper, tl0 int64) {
	if f.unwrapped {
		return
	}
	f.unwrapped, f.picture = true, pictures.unwrap(picture)
	if tl0s != nil && tl0 >= 0 {
		f.period = tl0s.unwrap(tl0)
	}
}

// relateVP8 finds the frames that f depends on by picture id and TL0PICIDX (RFC 7741,
// section 4.2); false if they are unknown.
func (r *Receiver) relateVP8(f *Frame, b []byte) bool {
	picture, tl0, temporal, sync, n := int64(-1), int64(-1), -1, false, 1
	if len(b) > 1 && b[0]&0x80 != 0 {
		x := b[1]
		n = 2
		if x&0x80 != 0 && len(b) > n+1 {
			picture = int64(b[n] & 0x7f)
			if b[n]&0x80 != 0 {
				picture = picture<<8 | int64(b[n+1])
				n++
			}
			n++
		}
		if x&0x40 != 0 && len(b) > n {
			tl0 = int64(b[n])
			n++
		}
		if x&0x30 != 0 && len(b) > n {
			if x&0x20 != 0 {
				temporal, sync = int(b[n]>>6), b[n]&0x20 != 0
			}
			n++
		}
	}
	if len(b) <= n || picture < 0 {
		f.Why = "no picture id"
		return false
	}
	f.Key = b[n]&1 == 0
	f.unwrap(&r.pictures, picture, &r.tl0, tl0)
	f.id = f.picture
	if tl0 < 0 || temporal < 0 {
		if !f.Key {
			f.refs = []int64{f.id - 1}
		}
		return true
	}
	f.Temporal = temporal
	period := f.period
	if f.Key {
		r.vp8[period] = map[int]int64{0: f.id}
		return true
	}
	base := r.vp8[period]
	if temporal == 0 {
		base = r.vp8[period-1]
	}
	if base == nil {
		f.Why = "the base layer's frame before it never came"
		return false
	}
	if temporal == 0 {
		f.refs = []int64{base[0]}
		layers := map[int]int64{0: f.id}
		// Higher layers may still refer to their former frames.
		for layer, id := range base {
			if layer > 0 {
				layers[layer] = id
			}
		}
		r.vp8[period] = layers
		return true
	}
	f.refs = []int64{base[0]}
	if !sync {
		for layer := 1; layer <= temporal; layer++ {
			if id, ok := base[layer]; ok {
				f.refs = append(f.refs, id)
			}
		}
	}
	base[temporal] = f.id
	return true
}

// vp9State is the group of pictures, by which VP9 frames in non-flexible mode refer to
// others.
type vp9State struct {
	diffs [][]int // by picture of the group
	start int64   // picture id of the group's first picture
	has   bool
}

// vp9Layers is more than the number of spatial layers.
const vp9Layers = 8

// relateVP9 finds the frames that f depends on by picture id (RFC 9628, section 4.2).
// Frame ids are id*vp9Layers+spatial.
func (r *Receiver) relateVP9(f *Frame, b []byte) bool {
	if len(b) < 3 || b[0]&0x80 == 0 {
		f.Why = "no picture id"
		return false
	}
	predicted, layered, flexible, structured := b[0]&0x40 != 0, b[0]&0x20 != 0, b[0]&0x10 != 0, b[0]&0x02 != 0
	n, id := 2, int64(b[1]&0x7f)
	if b[1]&0x80 != 0 {
		id, n = id<<8|int64(b[2]), 3
	}
	interLayer := false
	if layered && len(b) > n+1 {
		f.Temporal, f.Spatial, interLayer = int(b[n]>>5), int(b[n]>>1&7), b[n]&1 != 0
		if n++; !flexible {
			n++
		}
	}
	f.unwrap(&r.pictures, id, nil, 0)
	picture := f.picture
	f.id = picture*vp9Layers + int64(f.Spatial)
	if interLayer {
		f.refs = append(f.refs, f.id-1)
	}
	if flexible && predicted {
		for more := true; more && len(b) > n; n++ {
			f.refs = append(f.refs, (picture-int64(b[n]>>1))*vp9Layers+int64(f.Spatial))
			more = b[n]&1 != 0
		}
	}
	f.Key = !predicted && !interLayer
	if structured {
		r.vp9.parse(b[n:], picture)
	}
	if predicted && !flexible {
		if !r.vp9.has {
			f.Why = "no scalability structure came before it"
			return false
		}
		group := r.vp9.diffs[int((picture-r.vp9.start)%int64(len(r.vp9.diffs)))]
		for _, diff := range group {
			f.refs = append(f.refs, (picture-int64(diff))*vp9Layers+int64(f.Spatial))
		}
	}
	return true
}

// parse reads a scalability structure (RFC 9628, section 4.2.1).
func (s *vp9State) parse(b []byte, picture int64) {
	if len(b) == 0 {
		return
	}
	layers, sizes, group := int(b[0]>>5)+1, b[0]&0x10 != 0, b[0]&0x08 != 0
	n := 1
	if sizes {
		n += 4 * layers
	}
	s.start, s.has, s.diffs = picture, true, [][]int{{1}}
	if !group || len(b) <= n || b[n] == 0 {
		return
	}
	s.diffs = nil
	count := int(b[n])
	n++
	for range count {
		if len(b) <= n {
			break
		}
		refs := int(b[n] >> 2 & 3)
		n++
		var diffs []int
		for range refs {
			if len(b) > n {
				diffs = append(diffs, int(b[n]))
			}
			n++
		}
		s.diffs = append(s.diffs, diffs)
	}
	if len(s.diffs) == 0 {
		s.diffs = [][]int{{1}}
	}
}

// startsKey reports whether a keyframe of H.264 or AV1 certainly begins with a payload:
// with a sequence parameter set, or a new coded video sequence.
func startsKey(codec string, b []byte) bool {
	switch {
	case len(b) < 4:
		return false
	case codec == "video/h264":
		return b[0]&0x1f == 7 || b[0]&0x1f == 24 && b[3]&0x1f == 7
	}
	return codec == "video/av1" && b[0]&0x08 != 0
}

// keyPayload reports whether a payload belongs to a keyframe: of H.264, of AV1, or of VP8
// without an extended descriptor.
func keyPayload(codec string, b []byte) bool {
	if len(b) < 2 {
		return false
	}
	switch codec {
	case "video/vp8":
		return b[0]&0x90 == 0x10 && b[1]&1 == 0
	case "video/h264":
		switch t := b[0] & 0x1f; t {
		case 24: // aggregated
			for n := 1; n+2 < len(b); n += 2 + int(b[n])<<8 + int(b[n+1]) {
				if t := b[n+2] & 0x1f; t == 5 {
					return true
				}
			}
			return false
		case 28: // a fragment
			return b[1]&0x80 != 0 && b[1]&0x1f == 5
		default:
			return t == 5
		}
	case "video/av1":
		return b[0]&0x08 != 0 // a new coded video sequence
	}
	return false
}
