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

// freeCost is the unpacked size, in bytes, that any message may have in addition to twice
// its length: some hundred tracks, or some thousand ids.
const freeCost = 256 << 10

// decoder unpacks clients' messages within bounds. It may be used concurrently.
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

// decode unpacks b into m, unless m would become too large. It returns an estimate of the
// memory that m needs, in bytes.
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
	// What is not known here is kept by nobody: it would go round with what was understood.
	return cost, proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, m)
}

// signalRequest decodes one message of a client.
func (d *decoder) signalRequest(ctx context.Context, b []byte, json bool) (req *livekit.SignalRequest, cost int64, err error) {
	req = &livekit.SignalRequest{}
	if cost, err = d.decode(ctx, b, json, d.request, req); err == nil {
		err = descriptions(req.GetOffer(), req.GetAnswer(), req.GetSyncState().GetOffer(), req.GetSyncState().GetAnswer())
	}
	return req, cost, d.guard.Refused("signal", err)
}

// measured passes the events of a peer to its participant. It drops data packets whose
// unpacked size is too large, because the room unpacks them.
type measured struct {
	rooms.PeerEvents
	decoder *decoder
}

// Data implements [rooms.PeerEvents]. A refused packet is dropped and counted, because no
// answer to it exists.
func (m measured) Data(kind livekit.DataPacket_Kind, packet []byte) {
	const most = 8 // times its length: a packet of only measurements, or of names of receivers
	if _, err := m.decoder.data.Binary(packet, most*int64(len(packet))+64<<10); err != nil {
		_ = m.decoder.guard.Refused("data", err) // no answer exists
		return
	}
	m.PeerEvents.Data(kind, packet)
}

// descriptions checks session descriptions before they are parsed; nil entries are
// skipped.
func descriptions(all ...*livekit.SessionDescription) error {
	for _, sd := range all {
		if err := unpack.SDP(sd.GetSdp()); err != nil {
			return err
		}
	}
	return nil
}

// excessive reports whether err is due to the size of a message, and not to a malformed
// one.
func excessive(err error) bool {
	return errors.Is(err, unpack.ErrTooMuch) || errors.Is(err, unpack.ErrTooLong) || errors.Is(err, unpack.ErrTooDeep) || errors.Is(err, unpack.ErrBusy)
}
