// Package unpack bounds what untrusted input becomes in memory, before it is decoded: two
// bytes of a protobuf message can become a struct of 300.
//
//   - A [Shape] estimates what a message of one type unpacks to, from its wire bytes
//     or its JSON, without building it.
//   - [JSON] does so for a body that is decoded into maps.
//   - [Gunzip] bounds the output of gzip, and its ratio to the input.
//   - [SDP] bounds a session description.
//   - A [Guard] bounds how much is decoded at one time, and counts refusals.
//
// The order at every entrance is: credentials, the number of bytes, the estimate of what
// they unpack to, a place at the guard, decoding.
package unpack

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
)

// The errors of the checks. Their texts may be shown to the sender.
var (
	// ErrTooMuch: the bytes would unpack to more than the budget.
	ErrTooMuch = errors.New("it has more values than are taken here")
	// ErrTooLong: there are too many bytes.
	ErrTooLong = errors.New("it is too long")
	// ErrTooDeep: messages or values are nested too deeply.
	ErrTooDeep = errors.New("it is nested too deeply")
	// ErrMalformed: the bytes cannot be parsed.
	ErrMalformed = errors.New("it cannot be read")
)

// Memory costs of the parts of a document that is decoded into Go values, in bytes. Each
// is an upper estimate.
const (
	objectCost = 320 // a small map with its first group of entries
	valueCost  = 96  // an interface, a string's header, a place in a list or map
	// maxDepth is how deeply values may be nested. No message here needs half of it.
	maxDepth = 32
)

// JSON estimates what a JSON text takes in memory as maps, lists and strings. It fails
// with [ErrTooMuch] as soon as that exceeds most, or with [ErrTooDeep]. It does not check
// the syntax.
func JSON(b []byte, most int64) (cost int64, err error) { return scanJSON(b, objectCost, most) }

// scanJSON counts values: each opening bracket, comma and colon comes before one.
func scanJSON(b []byte, object, most int64) (int64, error) {
	cost, depth := int64(len(b)), 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			continue
		case '{':
			cost += object
			depth++
		case '[':
			cost += valueCost
			depth++
		case '}', ']':
			depth--
			continue
		case ',', ':':
			cost += valueCost
		default:
			continue
		}
		if depth > maxDepth {
			return cost, ErrTooDeep
		}
		if cost > most {
			return cost, ErrTooMuch
		}
	}
	if cost > most {
		return cost, ErrTooMuch
	}
	return cost, nil
}

// Bounds of gzip's compression ratio. Human text and session descriptions have a ratio of
// about ten; a thousand is possible.
const (
	maxRatio  = 100
	freeRatio = 64 << 10 // bytes of output that may have any ratio
)

// Gunzip unpacks b. It fails with [ErrTooLong] beyond most bytes, [ErrTooMuch] beyond a
// hundred times the input, and [ErrMalformed] if b is not gzip (RFC 1952).
func Gunzip(b []byte, most int64) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, ErrMalformed
	}
	bound, tooMuch := most, ErrTooLong
	if byRatio := max(freeRatio, maxRatio*int64(len(b))); byRatio < bound {
		bound, tooMuch = byRatio, ErrTooMuch
	}
	out, err := io.ReadAll(io.LimitReader(z, bound+1))
	switch {
	case err != nil:
		return nil, ErrMalformed
	case int64(len(out)) > bound:
		return nil, tooMuch
	}
	return out, nil
}

// The bounds of a session description (RFC 8866). A room with a thousand tracks needs a
// thousand sections of about 30 lines.
const (
	maxSDP        = 1 << 20 // bytes
	maxSections   = 2048
	maxLines      = 256 // of one section
	maxCandidates = 64  // of one section
)

// SDP checks the number of bytes, of media sections, and of lines and candidates in each
// section of a session description. It fails with [ErrTooLong] or [ErrTooMuch].
func SDP(text string) error {
	if len(text) > maxSDP {
		return fmt.Errorf("the session description has more than %d bytes: %w", maxSDP, ErrTooLong)
	}
	sections, lines, candidates := 0, 0, 0
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' || r == '\r' }) {
		lines++
		switch {
		case strings.HasPrefix(line, "m="):
			sections++
			lines, candidates = 0, 0
		case strings.HasPrefix(line, "a=candidate:"):
			candidates++
		}
		switch {
		case sections > maxSections:
			return fmt.Errorf("the session description has more than %d media sections: %w", maxSections, ErrTooMuch)
		case lines > maxLines:
			return fmt.Errorf("the session description has a section of more than %d lines: %w", maxLines, ErrTooMuch)
		case candidates > maxCandidates:
			return fmt.Errorf("the session description has more than %d candidates in a section: %w", maxCandidates, ErrTooMuch)
		}
	}
	return nil
}
