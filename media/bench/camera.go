package main

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
)

// The frames of a camera: the bitrate of each layer, its width, the order of its three
// temporal layers, and the size of their frames relative to the mean.
var (
	layerRates  = [3]float64{150_000, 400_000, 800_000}
	layerWidths = [3]int{320, 640, 1280}
	layerOrder  = [4]int{0, 2, 1, 2}
	// layerSyncs says which frames of two rounds of layerOrder depend on the base layer alone,
	// as libwebrtc's encoder makes them: there a receiver may be given a layer more.
	layerSyncs = [8]bool{1: true, 2: true}
	frameSizes = [3]float64{1.6, 0.8, 0.8}
)

const (
	cameraInterval = 33 * time.Millisecond
	// A keyframe has keySize times the size of a mean frame, and is sent keyAfter the
	// request.
	keySize  = 5.0
	keyAfter = 50 * time.Millisecond
	// voiceRate is the bitrate of the voice, with headers.
	voiceRate    = 56_000.0
	voicePayload = 100
	mostPayload  = 1100
)

// cameraRate is the bitrate of the highest layer, with headers.
const cameraRate = 860_000.0

// camera is a participant's camera in simulcast, and its voice.
type camera struct {
	// Set before it is announced: it is a screen share; it has no picture, only a voice.
	screen, silent bool

	layers [3]*webrtc.TrackLocalStaticRTP
	voice  *webrtc.TrackLocalStaticRTP

	unwanted [3]atomic.Bool  // layers that the server does not want
	asked    [3]atomic.Int64 // when a keyframe was asked for, Unix ns; 0: none is wanted
	keys     atomic.Int64    // number of requests
	ended    sync.WaitGroup

	mu         sync.Mutex // guards the following
	sender     *webrtc.RTPSender
	sectionID  string
	mid, rid   uint8 // of the header extensions
	connection *webrtc.PeerConnection

	// The sending goroutine owns the following.
	random  *rand.Rand
	count   int
	seq     [3]uint16
	picture [3]uint16
	tl0     [3]uint8
	key     [3]uint8
	sound   uint16
}

func newCamera(seed uint64) (*camera, error) {
	c := &camera{random: rand.New(rand.NewPCG(seed, 1))}
	var err error
	for i, rid := range []string{"q", "h", "f"} {
		c.layers[i], err = webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{
			MimeType: webrtc.MimeTypeVP8, ClockRate: 90000,
		}, "camera", "stream", webrtc.WithRTPStreamID(rid))
		if err != nil {
			return nil, err
		}
		c.asked[i].Store(1)
	}
	c.voice, err = webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{
		MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2,
	}, "voice", "stream")
	return c, err
}

func (c *camera) requests() []*livekit.AddTrackRequest {
	var layers []*livekit.VideoLayer
	for i, width := range layerWidths {
		layers = append(layers, &livekit.VideoLayer{
			Quality: livekit.VideoQuality(i), Width: uint32(width), Height: uint32(width * 9 / 16), Bitrate: uint32(layerRates[i]),
		})
	}
	source := livekit.TrackSource_CAMERA
	if c.screen {
		source = livekit.TrackSource_SCREEN_SHARE
	}
	voice := &livekit.AddTrackRequest{Cid: "voice", Name: "voice", Type: livekit.TrackType_AUDIO, Source: livekit.TrackSource_MICROPHONE}
	if c.silent {
		return []*livekit.AddTrackRequest{voice}
	}
	return []*livekit.AddTrackRequest{
		{
			Cid: "camera", Name: "camera", Type: livekit.TrackType_VIDEO, Source: source,
			Width: 1280, Height: 720, Layers: layers, SimulcastCodecs: []*livekit.SimulcastCodec{{Codec: "vp8", Cid: "camera"}},
		},
		voice,
	}
}

func (c *camera) addTo(pc *webrtc.PeerConnection) error {
	if c.silent {
		return c.addVoice(pc)
	}
	tr, err := pc.AddTransceiverFromTrack(c.layers[0], webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
	if err != nil {
		return err
	}
	for _, l := range c.layers[1:] {
		if err := tr.Sender().AddEncoding(l); err != nil {
			return err
		}
	}
	for i, l := range c.layers {
		c.ended.Go(func() { c.listen(tr.Sender(), i, l.RID()) })
	}
	c.mu.Lock()
	c.sender, c.connection = tr.Sender(), pc
	c.mu.Unlock()
	return c.addVoice(pc)
}

func (c *camera) addVoice(pc *webrtc.PeerConnection) error {
	voice, err := pc.AddTransceiverFromTrack(c.voice, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
	if err != nil {
		return err
	}
	c.ended.Go(func() {
		for {
			if _, _, err := voice.Sender().ReadRTCP(); err != nil {
				return
			}
		}
	})
	return nil
}

// want implements layered.
func (c *camera) want(u *livekit.SubscribedQualityUpdate) {
	for _, codec := range u.GetSubscribedCodecs() {
		for _, q := range codec.GetQualities() {
			if i := int(q.GetQuality()); i < len(c.unwanted) {
				c.unwanted[i].Store(!q.GetEnabled())
			}
		}
	}
}

// listen notes keyframe requests for a layer until the connection is closed.
func (c *camera) listen(sender *webrtc.RTPSender, layer int, rid string) {
	for {
		packets, _, err := sender.ReadSimulcastRTCP(rid)
		if err != nil {
			return
		}
		for _, p := range packets {
			switch p.(type) {
			case *rtcp.PictureLossIndication, *rtcp.FullIntraRequest:
				c.keys.Add(1)
				c.asked[layer].CompareAndSwap(0, time.Now().UnixNano())
			}
		}
	}
}

// run sends until ctx ends.
func (c *camera) run(ctx context.Context) {
	pictures, voice := time.NewTicker(cameraInterval), time.NewTicker(20*time.Millisecond)
	defer pictures.Stop()
	defer voice.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pictures.C:
			c.picturesNow()
		case <-voice.C:
			c.sound++
			p := make([]byte, voicePayload)
			stamp(p)
			_ = c.voice.WriteRTP(&rtp.Packet{ // fails before the connection is up
				Header:  rtp.Header{Version: 2, SequenceNumber: c.sound, Timestamp: uint32(c.sound) * 960},
				Payload: p,
			})
		}
	}
}

// negotiated reads the ids by which streams are distinguished; false: they are not known
// yet.
func (c *camera) negotiated() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sender == nil || c.connection.ConnectionState() != webrtc.PeerConnectionStateConnected {
		return false
	}
	if c.sectionID != "" {
		return true
	}
	for _, e := range c.sender.GetParameters().HeaderExtensions {
		switch e.URI {
		case "urn:ietf:params:rtp-hdrext:sdes:mid":
			c.mid = uint8(e.ID)
		case "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id":
			c.rid = uint8(e.ID)
		}
	}
	for _, tr := range c.connection.GetTransceivers() {
		if tr.Sender() == c.sender {
			c.sectionID = tr.Mid()
		}
	}
	return c.sectionID != ""
}

// picturesNow sends a frame of each layer.
func (c *camera) picturesNow() {
	if !c.negotiated() {
		return
	}
	temporal, layerSync := layerOrder[c.count%len(layerOrder)], layerSyncs[c.count%len(layerSyncs)]
	c.count++
	now := time.Now().UnixNano()
	for layer := range c.layers {
		if c.unwanted[layer].Load() {
			continue
		}
		mean := layerRates[layer] / 8 * cameraInterval.Seconds()
		size, t := mean*frameSizes[temporal]*(0.85+0.3*c.random.Float64()), temporal
		asked := c.asked[layer].Load()
		key := asked != 0 && now-asked >= int64(keyAfter)
		if key {
			size, t = keySize*mean, 0
			c.asked[layer].Store(0)
			c.key[layer]++
		}
		if t == 0 {
			c.tl0[layer]++
		}
		c.frame(layer, t, key, layerSync && !key, int(size))
	}
}

func (c *camera) frame(layer, temporal int, key, layerSync bool, size int) {
	c.picture[layer] = (c.picture[layer] + 1) & 0x7fff
	packets := max((size+mostPayload-1)/mostPayload, 1)
	for i := range packets {
		c.seq[layer]++
		p := &rtp.Packet{
			Header: rtp.Header{
				Version: 2, Marker: i == packets-1, SequenceNumber: c.seq[layer], Timestamp: uint32(c.count) * 2970,
			},
			Payload: c.payload(layer, temporal, key, layerSync, i == 0, max(size/packets, 20+stampSize)),
		}
		stamp(p.Payload)
		if c.mid != 0 && c.rid != 0 {
			_ = p.SetExtension(c.mid, []byte(c.sectionID))
			_ = p.SetExtension(c.rid, []byte(c.layers[layer].RID()))
		}
		_ = c.layers[layer].WriteRTP(p) // fails while not connected
	}
}

// payload is a payload whose descriptor has all fields (RFC 7741, section 4.2). In the
// first packet of a frame it has the frame's tag and size (RFC 6386, section 9.1).
func (c *camera) payload(layer, temporal int, key, layerSync, first bool, size int) []byte {
	b := make([]byte, size)
	b[0], b[1] = 0x80, 0xf0
	binary.BigEndian.PutUint16(b[2:], 0x8000|c.picture[layer])
	b[4] = c.tl0[layer]
	b[5] = byte(temporal)<<6 | c.key[layer]&0x1f
	if layerSync {
		b[5] |= 0x20
	}
	if !first {
		return b
	}
	b[0] |= 0x10
	b[6] = 0x11
	if key {
		copy(b[6:], []byte{0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a})
		binary.LittleEndian.PutUint16(b[12:], uint16(layerWidths[layer]))
		binary.LittleEndian.PutUint16(b[14:], uint16(layerWidths[layer]*9/16))
	}
	return b
}
