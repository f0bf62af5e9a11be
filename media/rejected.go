package media

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"
)

// A section that is rejected has port 0 (RFC 3264, 6). It stands in no BUNDLE group
// and needs no mid (RFC 9143, 7.3), and pion writes it without one. Pion cannot read
// such a section, and takes the codecs of a section for those of all later ones of
// its kind. So pion never sees a rejected section: it gets an offer without those,
// and an answer in which they are inactive.

// nameSections gives every section a mid: a rejected one that has none gets the mid
// that it had in the description before, whose mids are given by m-line; else its
// index, as pion numbers sections. A section that has no mid and is not rejected is
// of no use to us, since all sections share a transport.
func nameSections(sections []offeredSection, before []string) error {
	taken := make(map[string]bool, len(sections))
	for i := range sections {
		s := &sections[i]
		if s.mid == "" {
			continue
		}
		if taken[s.mid] {
			return fmt.Errorf("media section %d: its mid %q is taken", i, s.mid)
		}
		taken[s.mid] = true
	}
	for i := range sections {
		s := &sections[i]
		if s.mid != "" {
			continue
		}
		s.unnamed = true
		s.reject()
		if i < len(before) {
			s.mid = before[i]
		}
		for n := i; s.mid == "" || taken[s.mid]; n += len(sections) {
			s.mid = strconv.Itoa(n)
		}
		taken[s.mid] = true
	}
	return nil
}

// reject takes a section for one of port 0.
func (s *offeredSection) reject() {
	s.rejected, s.sends, s.receives = true, false, false
}

// mids are the mids of sections by m-line.
func mids(sections []offeredSection) []string {
	out := make([]string, len(sections))
	for i := range sections {
		out[i] = sections[i].mid
	}
	return out
}

// rejectUnusable rejects the sections of a client's offer that nothing can come of:
// of an unknown kind (m=text), or in codecs that we do not have. The other
// sections are not to suffer from them.
func (c codecSet) rejectUnusable(offered []offeredSection) {
	for i := range offered {
		s := &offered[i]
		switch {
		case s.kind == 0 && s.media != "application":
			s.reject()
		case s.kind != 0 && len(c.supported(s)) == 0:
			s.reject()
		}
	}
}

// supported is those of an offered section's codecs that we have, without those that
// only protect others.
func (c codecSet) supported(s *offeredSection) []webrtc.RTPCodecParameters {
	ours := c.audio
	if s.kind == webrtc.RTPCodecTypeVideo {
		ours = c.video
	}
	var out []webrtc.RTPCodecParameters
	for _, o := range s.codecs {
		has := slices.ContainsFunc(ours, func(our webrtc.RTPCodecParameters) bool { return strings.EqualFold(our.MimeType, o.mime) })
		if has && isPrimary(o.mime) {
			out = append(out, codec(webrtc.PayloadType(o.pt), o.mime, o.rate, o.chs, o.fmtp))
		}
	}
	return out
}

// lacks is the kinds of media for which a client has no codec that we have: sections
// of that kind are offered, but none with one.
func (c codecSet) lacks(offered []offeredSection) map[webrtc.RTPCodecType]bool {
	out := map[webrtc.RTPCodecType]bool{}
	for i := range offered {
		if s := &offered[i]; s.kind != 0 {
			has := len(c.supported(s)) > 0
			lacked, seen := out[s.kind]
			out[s.kind] = !has && (lacked || !seen)
		}
	}
	maps.DeleteFunc(out, func(_ webrtc.RTPCodecType, lacks bool) bool { return !lacks })
	return out
}

// anyRejected reports whether a section is rejected, and whether all are.
func anyRejected(sections []offeredSection) (some, all bool) {
	all = true
	for i := range sections {
		some = some || sections[i].rejected
		all = all && sections[i].rejected
	}
	return some, all
}

// withoutRejected is a client's offer without the sections that are rejected.
func withoutRejected(text string, sections []offeredSection) (string, error) {
	if some, _ := anyRejected(sections); !some {
		return text, nil
	}
	var d sdp.SessionDescription
	if err := d.UnmarshalString(text); err != nil {
		return "", fmt.Errorf("parse session description: %w", err)
	}
	kept := d.MediaDescriptions[:0]
	for i, m := range d.MediaDescriptions {
		if !sections[i].rejected {
			kept = append(kept, m)
		}
	}
	d.MediaDescriptions = kept
	keepBundled(&d, sections)
	return write(&d)
}

// keepBundled takes rejected sections out of the BUNDLE group: pion looks for the
// transport in its first.
func keepBundled(d *sdp.SessionDescription, sections []offeredSection) {
	for i, a := range d.Attributes {
		f := strings.Fields(a.Value)
		if a.Key != "group" || len(f) == 0 || f[0] != "BUNDLE" {
			continue
		}
		f = slices.DeleteFunc(f, func(mid string) bool {
			return slices.ContainsFunc(sections, func(s offeredSection) bool { return s.rejected && s.mid == mid })
		})
		d.Attributes[i].Value = strings.Join(f, " ")
	}
}

// withRejected is our answer to an offer with those sections: pion's answer to
// withoutRejected, with the rejected sections in their places. A section that pion
// itself rejects gets its mid back. A section that was offered without a mid has one
// in the answer if the client may be pion, which cannot go on without.
func withRejected(answer string, offered []offeredSection, mayBePion bool) (string, error) {
	if some, _ := anyRejected(offered); !some && !strings.Contains(answer, " 0 UDP/") {
		return answer, nil
	}
	var d sdp.SessionDescription
	if err := d.UnmarshalString(answer); err != nil {
		return "", fmt.Errorf("parse our own session description: %w", err)
	}
	rest := d.MediaDescriptions
	d.MediaDescriptions = make([]*sdp.MediaDescription, 0, len(offered))
	for i := range offered {
		s := &offered[i]
		if s.rejected {
			d.MediaDescriptions = append(d.MediaDescriptions, rejection(s, mayBePion))
			continue
		}
		if len(rest) == 0 {
			return "", fmt.Errorf("our answer lacks the section %q", s.mid)
		}
		if _, named := rest[0].Attribute("mid"); !named {
			rest[0].WithValueAttribute("mid", s.mid)
		}
		d.MediaDescriptions = append(d.MediaDescriptions, rest[0])
		rest = rest[1:]
	}
	return write(&d)
}

// rejection answers a section with port 0. Firefox wants the c= line.
func rejection(s *offeredSection, mayBePion bool) *sdp.MediaDescription {
	m := &sdp.MediaDescription{
		MediaName: sdp.MediaName{Media: s.media, Protos: s.protos, Formats: s.formats},
		ConnectionInformation: &sdp.ConnectionInformation{
			NetworkType: "IN", AddressType: "IP4", Address: &sdp.Address{Address: "0.0.0.0"},
		},
	}
	if !s.unnamed || mayBePion {
		m.WithValueAttribute("mid", s.mid)
	}
	if s.kind != 0 {
		m.WithPropertyAttribute("inactive")
	}
	return m
}

// rejectAll is the answer to an offer of which nothing is left: pion makes none.
func rejectAll(offered []offeredSection, mayBePion bool) (string, error) {
	d, err := sdp.NewJSEPSessionDescription(false)
	if err != nil {
		return "", fmt.Errorf("make a session description: %w", err)
	}
	for i := range offered {
		d.WithMedia(rejection(&offered[i], mayBePion))
	}
	return write(d)
}

// asInactive is a client's answer in which the sections that it rejects are inactive
// instead, in the codecs that it takes elsewhere, or else in those of our offer: then
// the codecs of our next offers stay as they are.
func asInactive(answer, offer string, answered []offeredSection) (string, error) {
	if some, _ := anyRejected(answered); !some {
		return answer, nil
	}
	var d, ours sdp.SessionDescription
	if err := d.UnmarshalString(answer); err != nil {
		return "", fmt.Errorf("parse session description: %w", err)
	}
	if err := ours.UnmarshalString(offer); err != nil {
		return "", fmt.Errorf("parse our own session description: %w", err)
	}
	if len(d.MediaDescriptions) > len(ours.MediaDescriptions) {
		return "", fmt.Errorf("%d sections in the answer to an offer of %d", len(d.MediaDescriptions), len(ours.MediaDescriptions))
	}
	taken := map[webrtc.RTPCodecType]*sdp.MediaDescription{}
	var live *sdp.MediaDescription
	for i, m := range d.MediaDescriptions {
		if s := &answered[i]; !s.rejected {
			taken[s.kind] = m
			if live == nil {
				live = m
			}
		}
	}
	for i := range answered {
		s := &answered[i]
		if !s.rejected || s.kind == 0 {
			continue
		}
		codecs := taken[s.kind]
		if codecs == nil {
			codecs = ours.MediaDescriptions[i]
		}
		d.MediaDescriptions[i] = inactive(s.mid, codecs)
	}
	if live != nil { // pion looks for them in the first section
		for _, key := range []string{"ice-ufrag", "ice-pwd"} {
			if _, has := d.Attribute(key); has {
				continue
			}
			if value, has := live.Attribute(key); has {
				d.WithValueAttribute(key, value)
			}
		}
	}
	return write(&d)
}

// inactive is a section in the codecs and with the header extensions of another, in
// which nobody sends.
func inactive(mid string, of *sdp.MediaDescription) *sdp.MediaDescription {
	m := &sdp.MediaDescription{
		MediaName:             of.MediaName,
		ConnectionInformation: of.ConnectionInformation,
	}
	m.MediaName.Port = sdp.RangedPort{Value: 9}
	m.WithValueAttribute("mid", mid)
	for _, a := range of.Attributes {
		switch a.Key {
		case "rtpmap", "fmtp", "rtcp-fb", "extmap", "rtcp-mux", "rtcp-rsize":
			m.Attributes = append(m.Attributes, a)
		}
	}
	return m.WithPropertyAttribute("inactive")
}

func write(d *sdp.SessionDescription) (string, error) {
	out, err := d.Marshal()
	if err != nil {
		return "", fmt.Errorf("write session description: %w", err)
	}
	return string(out), nil
}
