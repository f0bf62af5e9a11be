package media

import (
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
