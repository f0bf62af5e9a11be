// Package recording reads and writes recordings of the RTP packets that a browser
// published, for tests. The program in record makes them.
//
// A recording is gzip of a line of JSON, the [Header], and then records, each
//
//	uvarint  microseconds since the record before
//	byte     kind: 0 RTP, 1 RTCP
//	uvarint  size of the packet as it came
//	uvarint  size of what is stored of it
//	bytes    the packet's beginning
//
// Of an RTP packet, the header with its extensions is stored, and the first [Payload]
// bytes of the payload: the forwarder and its receivers read no further. Padding is not
// stored. Read replaces the missing bytes by zeros.
package recording

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Payload is the number of bytes that are stored of each RTP payload.
const Payload = 64

// maxSize bounds the packets of a file, in bytes.
const maxSize = 2000

// Header describes the recording.
type Header struct {
	MimeType     string  `json:"mime"`
	PayloadType  uint8   `json:"payload_type"`
	Fmtp         string  `json:"fmtp"`
	DescriptorID uint8   `json:"descriptor_id"`   // of the dependency descriptor's extension
	CaptureID    uint8   `json:"capture_time_id"` // of abs-capture-time
	Layers       []Layer `json:"layers"`          // lowest quality first
	Browser      string  `json:"browser"`
	What         string  `json:"what"` // what the publisher did
}

// Layer is one stream of packets.
type Layer struct {
	RID  string `json:"rid"`
	SSRC uint32 `json:"ssrc"`
}

// Packet is one packet.
type Packet struct {
	At   time.Duration // since the first
	RTCP bool
	Raw  []byte
}

// Recording is the packets that one browser published.
type Recording struct {
	Header
	Packets []Packet
}

// Read reads a file.
func Read(name string) (*Recording, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	r := &Recording{}
	if err := r.read(file); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}

func (r *Recording) read(from io.Reader) error {
	z, err := gzip.NewReader(from)
	if err != nil {
		return err
	}
	in := bufio.NewReader(z)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, &r.Header); err != nil {
		return err
	}
	var at time.Duration
	for {
		gap, err := binary.ReadUvarint(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		at += time.Duration(gap) * time.Microsecond
		kind, err := in.ReadByte()
		if err != nil {
			return err
		}
		size, err := binary.ReadUvarint(in)
		if err != nil {
			return err
		}
		stored, err := binary.ReadUvarint(in)
		if err != nil {
			return err
		}
		if size > maxSize || stored > size {
			return errors.New("a packet that is too large")
		}
		p := Packet{At: at, RTCP: kind == 1, Raw: make([]byte, size)}
		if _, err := io.ReadFull(in, p.Raw[:stored]); err != nil {
			return err
		}
		r.Packets = append(r.Packets, p)
	}
}

// Stored is the beginning of a packet.
type Stored struct {
	Packet
	Size int // of the whole packet, in bytes
}

// Write writes a recording.
func Write(to io.Writer, h Header, packets []Stored) error {
	z, err := gzip.NewWriterLevel(to, gzip.BestCompression)
	if err != nil {
		return err
	}
	line, err := json.Marshal(h)
	if err != nil {
		return err
	}
	b := append(line, '\n')
	var at time.Duration
	for _, p := range packets {
		gap := max(p.At-at, 0).Truncate(time.Microsecond)
		at += gap
		kind := byte(0)
		if p.RTCP {
			kind = 1
		}
		b = binary.AppendUvarint(b, uint64(gap/time.Microsecond))
		b = append(b, kind)
		b = binary.AppendUvarint(b, uint64(p.Size))
		b = binary.AppendUvarint(b, uint64(len(p.Raw)))
		b = append(b, p.Raw...)
	}
	if _, err := z.Write(b); err != nil {
		return err
	}
	return z.Close()
}
