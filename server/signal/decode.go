package signal

import (
	"context"
	"errors"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"parlor/rooms"
	"parlor/server/unpack"
)

// freeCost is what any message may unpack to in bytes, beside twice its length: some
// hundred tracks, some thousand ids.
const freeCost = 256 << 10

// decoder unpacks what clients send, within bounds. It may be used concurrently.
type decoder struct {
	guard                  *unpack.Guard
	wrapped, join, request *unpack.Shape
	data                   *unpack.Shape
}

func newDecoder(g *unpack.Guard) *decoder {
	return &decoder{
		guard:   g,
		wrapped: unpack.ShapeOf(&livekit.WrappedJoinRequest{}),
		join:    unpack.ShapeOf(&livekit.JoinRequest{}),
		request: unpack.ShapeOf(&livekit.SignalRequest{}),
		data:    unpack.ShapeOf(&livekit.DataPacket{}),
	}
}

// decode unpacks b, of that shape, into m, unless it would become too much. It
// returns the estimate of what m takes.
func (d *decoder) decode(ctx context.Context, b []byte, json bool, shape *unpack.Shape, m proto.Message) (cost int64, err error) {
	estimate := shape.Binary
	if json {
		estimate = shape.JSON
	}
	if cost, err = estimate(b, 2*int64(len(b))+freeCost); err != nil {
		return cost, err
	}
	leave, err := d.guard.Enter(ctx, cost)
	if err != nil {
		return cost, err
	}
	defer leave()
	if json {
		return cost, protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, m)
	}
	return cost, proto.Unmarshal(b, m)
}

// signalRequest reads one message of a client.
func (d *decoder) signalRequest(ctx context.Context, b []byte, json bool) (req *livekit.SignalRequest, cost int64, err error) {
	req = &livekit.SignalRequest{}
	if cost, err = d.decode(ctx, b, json, d.request, req); err == nil {
		err = descriptions(req.GetOffer(), req.GetAnswer(), req.GetSyncState().GetOffer(), req.GetSyncState().GetAnswer())
	}
	return req, cost, d.guard.Refused("signal", err)
}

// measured tells a participant of what its peer meets, and holds what the client sends
// as data against what it unpacks to: its room decodes that.
type measured struct {
	rooms.PeerEvents
	decoder *decoder
}

// Data implements [rooms.PeerEvents]. A packet that is refused is dropped, since nothing
// can be answered to it, and counted.
func (m measured) Data(kind livekit.DataPacket_Kind, packet []byte) {
	const most = 8 // times its length: a packet of nothing but measurements, or names of receivers
	if _, err := m.decoder.data.Binary(packet, most*int64(len(packet))+64<<10); err != nil {
		_ = m.decoder.guard.Refused("data", err) // it is not answered
		return
	}
	m.PeerEvents.Data(kind, packet)
}

// descriptions checks session descriptions before anybody parses them; nil is none.
func descriptions(all ...*livekit.SessionDescription) error {
	for _, sd := range all {
		if err := unpack.SDP(sd.GetSdp()); err != nil {
			return err
		}
	}
	return nil
}

// excessive tells that err is the failure of a message that is too much, and not that
// of one which cannot be read.
func excessive(err error) bool {
	return errors.Is(err, unpack.ErrTooMuch) || errors.Is(err, unpack.ErrTooLong) || errors.Is(err, unpack.ErrTooDeep) || errors.Is(err, unpack.ErrBusy)
}
