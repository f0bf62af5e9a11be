package media

import (
	"hash/maphash"
	"slices"
	"strings"
)

// textSection is one m-line of a description and the lines that belong to it, without their
// ends. What is changed of a description that pion has made, or is to read, is changed line
// by line, because parsing and writing a description costs more than all that is done to it
// here. A section is never changed in place, since the sections of a description share
// memory.
type textSection []string

// cutSections cuts a description into its sections. The first one is what comes before the
// first m-line.
func cutSections(text string) []textSection {
	lines := make([]string, 0, strings.Count(text, "\n")+1)
	starts := make([]int, 1, 16)
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "m=") {
			starts = append(starts, len(lines))
		}
		lines = append(lines, strings.TrimRight(line, "\r\n"))
	}
	sections := make([]textSection, len(starts))
	for i, start := range starts {
		end := len(lines)
		if i+1 < len(starts) {
			end = starts[i+1]
		}
		sections[i] = lines[start:end:end]
	}
	return sections
}

// joinSections is the description of those sections.
func joinSections(sections []textSection) string {
	size := 0
	for _, s := range sections {
		for _, line := range s {
			size += len(line) + 2
		}
	}
	var b strings.Builder
	b.Grow(size)
	for _, s := range sections {
		for _, line := range s {
			b.WriteString(line)
			b.WriteString("\r\n")
		}
	}
	return b.String()
}

// has reports whether the section has an attribute without a value.
func (s textSection) has(property string) bool {
	return slices.ContainsFunc(s, func(line string) bool {
		name, ok := strings.CutPrefix(line, "a=")
		return ok && name == property
	})
}

// value is the value of the first attribute of that name; "" if there is none.
func (s textSection) value(name string) string {
	for _, line := range s {
		if value, ok := attribute(line, name); ok {
			return value
		}
	}
	return ""
}

// attribute is the value of a line, if the line is an attribute of that name.
func attribute(line, name string) (value string, ok bool) {
	line, ok = strings.CutPrefix(line, "a=")
	if !ok {
		return "", false
	}
	line, ok = strings.CutPrefix(line, name)
	if !ok {
		return "", false
	}
	return strings.CutPrefix(line, ":")
}

// without is s less the lines for which drop is true.
func (s textSection) without(drop func(line string) bool) textSection {
	return slices.DeleteFunc(slices.Clone(s), drop)
}

// codecLines are the attributes that describe codecs.
var codecLines = []string{"rtpmap", "fmtp", "rtcp-fb"}

// ofCodec is the payload type of a line that describes a codec; "*" is all of them, "" is
// none.
func ofCodec(line string) string {
	for _, name := range codecLines {
		if value, ok := attribute(line, name); ok {
			pt, _, _ := strings.Cut(value, " ")
			return pt
		}
	}
	return ""
}

var codecSeed = maphash.MakeSeed()

// codecList tells the codecs of a section of audio or video from those of others; 0: it has
// none.
func (s textSection) codecList() uint64 {
	kind, ok := strings.CutPrefix(s[0], "m=")
	media, formats, _ := strings.Cut(kind, " ")
	if !ok || media != "audio" && media != "video" {
		return 0
	}
	var h maphash.Hash
	h.SetSeed(codecSeed)
	add := func(line string) {
		_, _ = h.WriteString(line) // never fails
		_ = h.WriteByte('\n')
	}
	add(media)
	_, formats, _ = strings.Cut(formats, " ") // the port does not matter
	add(formats)
	for _, line := range s {
		if ofCodec(line) != "" {
			add(line)
		}
	}
	return max(h.Sum64(), 1)
}

// withFirstCodec is s with its first codec alone; s itself if the first format is no codec.
func (s textSection) withFirstCodec() textSection {
	f := strings.Fields(s[0])
	if len(f) < 4 || s.value("rtpmap") == "" {
		return s
	}
	first := f[3]
	mapped := slices.ContainsFunc(s, func(line string) bool {
		value, ok := strings.CutPrefix(line, "a=rtpmap:"+first+" ")
		return ok && !strings.HasPrefix(strings.ToLower(value), "rtx/")
	})
	if !mapped {
		return s
	}
	short := s.without(func(line string) bool {
		pt := ofCodec(line)
		return pt != "" && pt != "*" && pt != first
	})
	short[0] = strings.Join(f[:4], " ")
	return short
}

// withoutTransport are the sections of a client's description without what they say about
// the transport, the session's and the bundle's tagged section excepted. Pion takes the
// credentials, the fingerprint and the candidates from there alone, and would keep the text
// and its parse for each section. The sections stay as they are if there is no such section,
// or if it does not say all.
func withoutTransport(sections []textSection) []textSection {
	group := sections[0].value("group") // pion looks at the first group alone
	mids := strings.Split(group, " ")
	if !strings.Contains(group, "BUNDLE") || len(mids) < 2 {
		return sections
	}
	tagged := slices.IndexFunc(sections[1:], func(s textSection) bool { return s.value("mid") == mids[1] }) + 1
	if tagged == 0 || sections[tagged].value("setup") == "" {
		return sections
	}
	for _, name := range []string{"ice-ufrag", "ice-pwd", "fingerprint"} {
		if sections[0].value(name) == "" && sections[tagged].value(name) == "" {
			return sections
		}
	}
	short := slices.Clone(sections)
	for i, s := range short {
		if i != 0 && i != tagged {
			short[i] = s.without(ofTransport)
		}
	}
	return short
}

// transportLines are the attributes that a bundle's sections have in common (RFC 8859,
// TRANSPORT and IDENTICAL), of those that clients write.
var transportLines = []string{
	"candidate", "end-of-candidates", "fingerprint", "ice-options", "ice-pwd", "ice-ufrag", "rtcp", "rtcp-mux", "rtcp-rsize", "setup",
}

// ofTransport reports whether a line of a section is about its transport.
func ofTransport(line string) bool {
	if strings.HasPrefix(line, "c=") {
		return true
	}
	name, ok := strings.CutPrefix(line, "a=")
	name, _, _ = strings.Cut(name, ":")
	return ok && slices.Contains(transportLines, name)
}
