package media

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	"parlor/media/forward"
	"parlor/rooms"
)

// ErrNoCodec is given where a track cannot be had in any codec that an output takes.
var ErrNoCodec = errors.New("the track is in no codec that the output takes")

// TapConfig is what an output wants of a track. The zero value takes what there is, the
// best layer of a video.
type TapConfig struct {
	// Codecs are the MIME types that the output takes ("video/VP8"), the best first. None:
	// what is sent, but Opus without the RED around it.
	Codecs []string
	// Ext are the ids of the header extensions that the packets are to have.
	Ext forward.Extensions
	// Settings of video; nil is the best layer.
	Settings *forward.Settings
}

// Tap begins to write a published track to an output that is no subscriber, such as a
// recorder. The output gets one stream, as a subscriber does, that begins with a key
// frame and goes on over changes of layer and of source; while the track is muted it
// gets nothing. It ends, with [forward.Output.End], when the track does or when the
// forwarder that is returned is closed, which also changes what is wanted, asks for key
// frames, and tells the codec.
//
// The output holds the publisher's packets up while it writes: one that may wait takes
// copies of them to a goroutine of its own.
func Tap(t rooms.MediaTrack, out forward.Output, cfg TapConfig) (*forward.Forwarder, error) {
	source, ok := t.(*track)
	if !ok {
		return nil, fmt.Errorf("tap %s: it is not a track of this package", t.SID())
	}
	codec, err := cfg.codec(*source.codecs.Load())
	if err != nil {
		return nil, fmt.Errorf("tap %s: %w", t.SID(), err)
	}
	f := source.AddForwarder(forward.ForwarderConfig{
		SSRC: rand.Uint32(), Codec: codec, Ext: cfg.Ext, Output: out, Aside: true, CNAME: t.SID(),
	})
	if cfg.Settings != nil {
		f.SetSettings(*cfg.Settings)
	}
	return f, nil
}

// codec chooses among those that a track can be had in.
func (c *TapConfig) codec(source []forward.Codec) (forward.Codec, error) {
	takes := c.Codecs
	if len(takes) == 0 && len(source) > 0 {
		takes = []string{source[0].MimeType}
		if strings.EqualFold(takes[0], mimeRED) {
			takes = []string{mimeOpus}
		}
	}
	for _, mime := range takes {
		for _, s := range source {
			switch {
			case strings.EqualFold(s.MimeType, mime):
				return complete(s), nil
			case strings.EqualFold(s.MimeType, mimeRED) && strings.EqualFold(mime, mimeOpus):
				return forward.Codec{MimeType: mimeOpus, PayloadType: 111, ClockRate: 48000, Channels: 2}, nil
			}
		}
	}
	return forward.Codec{}, ErrNoCodec
}

// complete is a codec with what is not known of it before it is sent.
func complete(c forward.Codec) forward.Codec {
	if c.ClockRate == 0 {
		c.PayloadType, c.ClockRate = 96, 48000
		if strings.HasPrefix(strings.ToLower(c.MimeType), "video/") {
			c.ClockRate = 90000
		}
	}
	c.RTXPayloadType = 0
	return c
}
