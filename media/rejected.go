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

// A rejected section has port 0 (RFC 3264, section 6). It stands in no BUNDLE group and
// needs no mid (RFC 9143, section 7.3), and pion writes it without one. Pion cannot read
// such a section, and mistakes the codecs of a section for those of all later sections of
// its kind. So pion never sees a rejected section: rejected sections are removed from the
// offers that it gets, and made inactive in the answers that it gets.

// nameSections gives every section a mid. A rejected section without a mid gets the one
// that it had in the description before (in "before", by m-line), else its index, because
// pion numbers sections by index. A section without a mid that is not rejected is
// rejected here: all sections share a transport, which takes a mid.
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

// reject marks a section as rejected.
func (s *offeredSection) reject() {
	s.rejected, s.sends, s.receives = true, false, false
}

// mids are the mids of the sections by m-line.
func mids(sections []offeredSection) []string {
	out := make([]string, len(sections))
	for i := range sections {
		out[i] = sections[i].mid
	}
	return out
}

// rejectUnusable rejects the sections of a client's offer that the server cannot use:
// those of an unknown kind (m=text), and those without a codec that the server has, or, if
// the client sends in them, without one that it may publish. The other sections can then
// still be negotiated.
func (p *Peer) rejectUnusable(offered []offeredSection) {
	published := p.codecsFor(rolePublisher)
	for i := range offered {
		s := &offered[i]
		codecs := published
		if p.pub.role == roleSingle && !s.sends {
			codecs = p.codecs
		}
		switch {
		case s.kind == 0 && s.media != "application":
			s.reject()
		case s.kind != 0 && len(codecs.supported(s)) == 0:
			s.reject()
		}
	}
}

// supported are the codecs of an offered section that the server has too, without those
// that only repair others.
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

// lacks are the kinds of media that the client offers, but without a codec that the
// server has.
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

// anyRejected reports whether some section is rejected, and whether all are.
func anyRejected(sections []offeredSection) (some, all bool) {
	all = true
	for i := range sections {
		some = some || sections[i].rejected
		all = all && sections[i].rejected
	}
	return some, all
}

// withoutRejected is a client's offer without the rejected sections.
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

// keepBundled takes rejected sections out of the BUNDLE group, because pion looks for the
// transport in the group's first section.
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
// withoutRejected, with the rejected sections in their places. A section that pion itself
// rejects gets its mid back. A section that was offered without a mid gets one in the
// answer only if the client may use pion, which cannot continue without.
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

// rejection answers a section with port 0. Firefox requires the c= line.
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

// rejectAll is the answer to an offer of which all sections are rejected. Pion makes no
// such answer.
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

// asInactive is a client's answer with its rejected sections made inactive. Their codecs
// are those that the client accepts in another section of the kind, or else those of our
// offer, so that the codecs of our next offers do not change.
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
	if live != nil { // pion looks for the credentials in the session and in the first section
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

// inactive is an inactive section with the codecs and the header extensions of another
// section.
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
