package media

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	"parlor/media/forward"
	"parlor/rooms"
)

// ErrNoCodec is the error of [Tap] if the track is available in no codec that the output
// takes.
var ErrNoCodec = errors.New("the track is in no codec that the output takes")

// TapConfig says what an output wants of a track. The zero value takes the track as it is
// sent, and of a video the best layer.
type TapConfig struct {
	// Codecs are the MIME types that the output takes ("video/VP8"), the best first. An
	// empty list takes the codec that is sent, but Opus without the RED around it.
	Codecs []string
	// Ext are the ids of the header extensions that the packets should have.
	Ext forward.Extensions
	// Settings are those of a video; nil is the best layer.
	Settings *forward.Settings
}

// Tap begins to write a published track to an output that is not a subscriber, such as a
// recorder. The output gets one continuous stream, as a subscriber does: it begins with a
// keyframe, and continues over changes of layer and of source. While the track is muted
// the output gets nothing. The stream ends with [forward.Output.End], when the track ends
// or when the returned forwarder is closed. The forwarder also changes the settings, asks
// for keyframes, and reports the codec.
//
// While the output writes, the publisher's packets and its other subscribers wait. An
// output that may block must copy the packets to a goroutine of its own. The server itself
// does not call Tap: it is for recorders and gateways that are built on this package.
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

// codec chooses among the codecs in which a track is available.
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

// complete fills in the parameters of a codec that are unknown before it is sent.
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
