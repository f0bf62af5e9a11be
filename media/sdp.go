package media

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"
)

// Bounds on a client's description. No real conference is this large.
const (
	maxSections    = 1000
	maxDescription = 2 << 20 // bytes
	maxAttributes  = 1000    // of a section; browsers write some 200
	maxFormats     = 128     // of a section; there are no more payload types
	maxSSRCs       = 32      // of a section; the rest is ignored
	maxRIDs        = 8       // of a section; the rest is ignored
)

// offeredSection is one m-line of a client's description.
type offeredSection struct {
	mid      string
	unnamed  bool // the client gave it no mid
	media    string
	protos   []string
	formats  []string
	kind     webrtc.RTPCodecType // 0 for data, and for unknown kinds
	rejected bool                // port 0 (RFC 3264, section 6), or to be answered with port 0
	sends    bool                // the client sends media in it
	receives bool                // the client receives media in it
	streamID string              // msid's stream id
	trackID  string              // msid's track id
	rids     []string            // simulcast layers, in the client's order
	paused   []string            // those of rids that are not sent for now
	ssrcs    []uint32            // without those of repair streams
	repairs  map[uint32]uint32   // SSRC to the SSRC of the stream that repairs it
	codecs   []offeredCodec
}

type offeredCodec struct {
	pt   uint8
	mime string
	rate uint32
	chs  uint16
	fmtp string
}

// parseOffer parses a client's description. It refuses descriptions at which pion would
// fail after a partial change of its state. Rejected sections may have no mid:
// nameSections gives them one, with the mids of the description before.
func parseOffer(text string, before []string) ([]offeredSection, error) {
	if len(text) > maxDescription {
		return nil, fmt.Errorf("session description of %d bytes, limit %d", len(text), maxDescription)
	}
	var d sdp.SessionDescription
	if err := d.UnmarshalString(text); err != nil {
		return nil, fmt.Errorf("parse session description: %w", err)
	}
	if len(d.MediaDescriptions) > maxSections {
		return nil, fmt.Errorf("%d media sections, limit %d", len(d.MediaDescriptions), maxSections)
	}
	if err := checkSize(&d); err != nil {
		return nil, err
	}
	if !hasAnywhere(&d, "ice-ufrag") || !hasAnywhere(&d, "ice-pwd") || !hasAnywhere(&d, "fingerprint") {
		return nil, errors.New("session description without ICE credentials or fingerprint")
	}
	out := make([]offeredSection, 0, len(d.MediaDescriptions))
	for _, m := range d.MediaDescriptions {
		out = append(out, readSection(m, &d))
	}
	return out, nameSections(out, before)
}

// checkSize refuses descriptions that would keep the server busy: the cost of reading a
// section grows with the product of its parts, and we send connectivity checks to each
// candidate.
func checkSize(d *sdp.SessionDescription) error {
	for i, m := range d.MediaDescriptions {
		candidates := 0
		for _, a := range m.Attributes {
			if a.Key == "candidate" {
				candidates++
			}
		}
		switch {
		case len(m.Attributes) > maxAttributes:
			return fmt.Errorf("media section %d has %d attributes, limit %d", i, len(m.Attributes), maxAttributes)
		case len(m.MediaName.Formats) > maxFormats:
			return fmt.Errorf("media section %d has %d formats, limit %d", i, len(m.MediaName.Formats), maxFormats)
		case candidates > maxCandidates:
			return fmt.Errorf("media section %d has %d candidates, limit %d", i, candidates, maxCandidates)
		}
	}
	return nil
}

func hasAnywhere(d *sdp.SessionDescription, key string) bool {
	if _, ok := d.Attribute(key); ok {
		return true
	}
	return slices.ContainsFunc(d.MediaDescriptions, func(m *sdp.MediaDescription) bool {
		_, ok := m.Attribute(key)
		return ok
	})
}

func readSection(m *sdp.MediaDescription, d *sdp.SessionDescription) offeredSection {
	s := offeredSection{
		kind: webrtc.NewRTPCodecType(m.MediaName.Media), repairs: map[uint32]uint32{},
		media: m.MediaName.Media, protos: m.MediaName.Protos, formats: m.MediaName.Formats,
	}
	s.mid, _ = m.Attribute("mid")
	_, bundleOnly := m.Attribute("bundle-only")
	s.rejected = m.MediaName.Port.Value == 0 && !bundleOnly
	if s.kind != 0 && !s.rejected {
		s.sends, s.receives = direction(m, d)
	}
	var repairing []uint32
	for _, a := range m.Attributes {
		switch a.Key {
		case "msid":
			s.streamID, s.trackID = splitMSID(a.Value)
		case "rid":
			if f := strings.Fields(a.Value); len(f) >= 2 && f[1] == "send" && len(s.rids) < maxRIDs {
				s.rids = append(s.rids, f[0])
			}
		case "simulcast":
			s.paused = pausedLayers(a.Value)
		case "ssrc-group":
			if f := strings.Fields(a.Value); len(f) == 3 && (f[0] == "FID" || f[0] == "FEC-FR") {
				primary, repair := parseSSRC(f[1]), parseSSRC(f[2])
				repairing = append(repairing, repair)
				if f[0] == "FID" {
					s.repairs[primary] = repair
				}
			}
		case "ssrc":
			s.readSSRC(a.Value)
		}
	}
	s.ssrcs = slices.DeleteFunc(s.ssrcs, func(v uint32) bool { return v == 0 || slices.Contains(repairing, v) })
	s.codecs = readCodecs(m)
	return s
}

// pausedLayers are the rids that an a=simulcast line marks as not sent for now (RFC 8853,
// section 5.1).
func pausedLayers(value string) (rids []string) {
	f := strings.Fields(value)
	for i := 0; i+1 < len(f); i += 2 {
		if f[i] != "send" {
			continue
		}
		for _, rid := range strings.FieldsFunc(f[i+1], func(r rune) bool { return r == ';' || r == ',' }) {
			if rid, ok := strings.CutPrefix(rid, "~"); ok && len(rids) < maxRIDs {
				rids = append(rids, rid)
			}
		}
	}
	return rids
}

// announces reports whether the section says that the client sends a stream.
func (s *offeredSection) announces(ssrc uint32, rid string) bool {
	if rid == "" {
		return slices.Contains(s.ssrcs, ssrc)
	}
	return slices.Contains(s.rids, rid) && !slices.Contains(s.paused, rid)
}

// readSSRC reads an a=ssrc line. In older clients it carries the msid too.
func (s *offeredSection) readSSRC(value string) {
	id, rest, _ := strings.Cut(value, " ")
	if ssrc := parseSSRC(id); len(s.ssrcs) < maxSSRCs && !slices.Contains(s.ssrcs, ssrc) {
		s.ssrcs = append(s.ssrcs, ssrc)
	}
	if v, ok := strings.CutPrefix(rest, "msid:"); ok && s.trackID == "" {
		s.streamID, s.trackID = splitMSID(v)
	}
}

func parseSSRC(text string) uint32 {
	v, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0
	}
	return uint32(v)
}

// iceUfrag is the first ICE username fragment of a description; "" if there is none.
func iceUfrag(text string) string { return firstAttribute(text, "ice-ufrag") }

// firstAttribute is the value of the first attribute of that name in a description, be it
// the session's or a section's; "" if there is none.
func firstAttribute(text, name string) string {
	_, after, _ := strings.Cut(text, "a="+name+":")
	line, _, _ := strings.Cut(after, "\n")
	return strings.TrimSpace(line)
}

func splitMSID(value string) (stream, track string) {
	f := strings.Fields(value)
	if len(f) > 0 {
		stream = f[0]
	}
	if len(f) > 1 {
		track = f[1]
	}
	return stream, track
}

// direction resolves the direction of a section (RFC 8866, section 6.7): the section's
// attribute, else the session's, else both ways.
func direction(m *sdp.MediaDescription, d *sdp.SessionDescription) (sends, receives bool) {
	for _, list := range [][]sdp.Attribute{m.Attributes, d.Attributes} {
		for _, a := range list {
			switch a.Key {
			case "sendrecv":
				return true, true
			case "sendonly":
				return true, false
			case "recvonly":
				return false, true
			case "inactive":
				return false, false
			}
		}
	}
	return true, true
}

func readCodecs(m *sdp.MediaDescription) []offeredCodec {
	var out []offeredCodec
	for _, f := range m.MediaName.Formats {
		pt, err := strconv.ParseUint(f, 10, 7)
		if err != nil {
			continue
		}
		c := offeredCodec{pt: uint8(pt)}
		prefix := f + " "
		for _, a := range m.Attributes {
			value, ok := strings.CutPrefix(a.Value, prefix)
			switch {
			case !ok:
			case a.Key == "rtpmap":
				c.readMap(m.MediaName.Media, value)
			case a.Key == "fmtp":
				c.fmtp = value
			}
		}
		switch {
		case m.MediaName.Media != "audio":
		case c.mime == "" && pt == 0:
			c.mime, c.rate = webrtc.MimeTypePCMU, 8000 // static payload types need no rtpmap (RFC 3551)
		case c.mime == "" && pt == 8:
			c.mime, c.rate = webrtc.MimeTypePCMA, 8000
		}
		if c.mime != "" {
			out = append(out, c)
		}
	}
	return out
}

func (c *offeredCodec) readMap(kind, value string) {
	parts := strings.Split(value, "/")
	c.mime = kind + "/" + parts[0]
	if len(parts) > 1 {
		rate, _ := strconv.ParseUint(parts[1], 10, 32) // a bad rate matches no codec
		c.rate = uint32(rate)
	}
	if len(parts) > 2 {
		chs, _ := strconv.ParseUint(parts[2], 10, 16)
		c.chs = uint16(chs)
	}
}

func (s *offeredSection) has(mime string) bool {
	return slices.ContainsFunc(s.codecs, func(c offeredCodec) bool { return strings.EqualFold(c.mime, mime) })
}

// reactivate changes the named inactive sections to recvonly: the client receives in
// them.
func reactivate(text string, mids []string) (string, error) {
	if len(mids) == 0 {
		return text, nil
	}
	var d sdp.SessionDescription
	if err := d.UnmarshalString(text); err != nil {
		return "", fmt.Errorf("parse session description: %w", err)
	}
	for _, m := range d.MediaDescriptions {
		if mid, _ := m.Attribute("mid"); !slices.Contains(mids, mid) {
			continue
		}
		m.Attributes = slices.DeleteFunc(m.Attributes, func(a sdp.Attribute) bool { return a.Key == "inactive" })
		m.Attributes = append(m.Attributes, sdp.Attribute{Key: "recvonly"})
	}
	out, err := d.Marshal()
	if err != nil {
		return "", fmt.Errorf("write session description: %w", err)
	}
	return string(out), nil
}

// audioShape is the format parameters and feedback for audio in one section of our
// descriptions.
type audioShape struct {
	dtx, stereo, nack bool
	sends             bool // the server sends in the section
}

// shapeAnswer changes pion's parameters of Opus in the named sections: usedtx and stereo
// (RFC 7587), which differ by track, and NACK, which clients understand without offering
// it. It also chooses one kind of congestion control feedback for each section (see
// chooseFeedback). The client gets the result; pion keeps its own description.
func shapeAnswer(text string, shapes map[string]audioShape) string {
	if len(shapes) == 0 && !strings.Contains(text, streamFeedback.Parameter) {
		return text
	}
	shaped, _ := shape(text, shapes, false, true)
	return shaped
}

// shapeOffer does the same as shapeAnswer, but it keeps all kinds of feedback. With
// guardIdle it also names an SSRC in each section in which we send nothing. It returns the
// mids too, by m-line.
//
// The SSRC is for clients built on pion. Media and signalling go separate ways, so
// packets of a track may arrive after the offer that ends it. No section names their SSRC
// any more, so pion takes them for a new stream of the first section with that payload
// type: it makes a transceiver and reports a nameless track. If the next offer comes in
// between, pion never starts the stream of the next track. If the section names an SSRC,
// pion drops such packets.
func shapeOffer(text string, shapes map[string]audioShape, guardIdle bool) (shaped string, mids []string) {
	return shape(text, shapes, guardIdle, false)
}

func shape(text string, shapes map[string]audioShape, guardIdle, answers bool) (shaped string, mids []string) {
	sections := cutSections(text)
	mids = make([]string, 0, len(sections)-1)
	for i, s := range sections[1:] {
		mid := s.value("mid")
		mids = append(mids, mid)
		if shape, ok := shapes[mid]; ok {
			s = shapeOpus(s, shape)
		}
		s = chooseFeedback(s, answers)
		if guardIdle && s.has("recvonly") {
			s = append(s[:len(s):len(s)], "a=ssrc:1 cname:idle")
		}
		sections[1+i] = s
	}
	return joinSections(sections), mids
}

// byStream is streamFeedback as a description writes it.
var byStream = streamFeedback.Type + " " + streamFeedback.Parameter

// chooseFeedback writes feedback by stream (RFC 8888, section 6) as one line for all payload
// types of a section, where pion writes one for each. An answer accepts it only in sections
// in which only the server sends, because the server makes no such reports, and only if the
// client does not offer transport-wide feedback. That is preferred: its times are finer, and
// it reports the packets of all streams in the order in which they were sent.
func chooseFeedback(s textSection, answers bool) textSection {
	wide, streams := false, 0
	kindOf := func(line string) string {
		value, _ := attribute(line, "rtcp-fb")
		_, kind, _ := strings.Cut(value, " ")
		return kind
	}
	for _, line := range s {
		switch kindOf(line) {
		case "transport-cc":
			wide = true
		case byStream:
			streams++
		}
	}
	if streams == 0 {
		return s
	}
	takes, both := s.has("recvonly"), s.has("sendrecv")
	s = s.without(func(line string) bool { return kindOf(line) == byStream })
	if !answers || !wide && !takes && !both {
		s = append(s, "a=rtcp-fb:* "+byStream)
	}
	return s
}

// withoutEstimate is a section that a client offers, without REMB and the send times that it
// needs, if the client offers transport-wide feedback too, which is better.
func withoutEstimate(s textSection) textSection {
	reports := slices.ContainsFunc(s, func(line string) bool { return isFeedbackLine(line, "transport-cc") })
	numbers := slices.ContainsFunc(s, func(line string) bool { return isExtension(line, uriTransportCC) })
	if !reports || !numbers {
		return s
	}
	return s.without(func(line string) bool { return isFeedbackLine(line, remb.Type) || isExtension(line, uriAbsSendTime) })
}

// isExtension reports whether a line offers that header extension.
func isExtension(line, uri string) bool {
	value, _ := attribute(line, "extmap")
	f := strings.Fields(value)
	return len(f) >= 2 && f[1] == uri
}

// isFeedbackLine reports whether a line offers that feedback for a codec.
func isFeedbackLine(line, kind string) bool {
	value, _ := attribute(line, "rtcp-fb")
	_, offered, _ := strings.Cut(value, " ")
	return strings.EqualFold(offered, kind)
}

func shapeOpus(s textSection, shape audioShape) textSection {
	pt := opusPayloadType(s)
	if pt == "" {
		return s
	}
	nack := "a=rtcp-fb:" + pt + " nack"
	hasNack, hasFmtp := slices.Contains(s, nack), false
	s = s.without(func(line string) bool { return line == nack && !shape.nack })
	for i, line := range s {
		if value, ok := strings.CutPrefix(line, "a=fmtp:"+pt+" "); ok {
			s[i] = "a=fmtp:" + pt + " " + shape.fmtp(value)
			hasFmtp = true
		}
	}
	if !hasFmtp {
		if v := shape.fmtp(""); v != "" {
			s = append(s, "a=fmtp:"+pt+" "+v)
		}
	}
	if shape.nack && !hasNack {
		s = append(s, nack)
	}
	return s
}

func opusPayloadType(s textSection) string {
	for _, line := range s {
		value, _ := attribute(line, "rtpmap")
		if pt, name, ok := strings.Cut(value, " "); ok && len(name) >= len("opus/") && strings.EqualFold(name[:len("opus/")], "opus/") {
			return pt
		}
	}
	return ""
}

// fmtp is the format parameters of Opus: those of have, with the ones that this shape
// decides.
func (s audioShape) fmtp(have string) string {
	var out []string
	for part := range strings.SplitSeq(have, ";") {
		switch key, _, _ := strings.Cut(strings.TrimSpace(part), "="); key {
		case "", "usedtx", "stereo", "sprop-stereo", "maxaveragebitrate":
		default:
			out = append(out, strings.TrimSpace(part))
		}
	}
	if s.dtx {
		out = append(out, "usedtx=1")
	}
	if s.stereo {
		out = append(out, "stereo=1", "maxaveragebitrate="+stereoMaxBitrate)
		if s.sends {
			out = append(out, "sprop-stereo=1")
		}
	}
	return strings.Join(out, ";")
}
