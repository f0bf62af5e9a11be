package agents

import (
	"context"
	"errors"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"parlor/server/unpack"
)

// freeCost is what any message may unpack to, in bytes, besides twice its length.
const freeCost = 256 << 10

// decoder decodes workers' messages, within bounds.
type decoder struct {
	guard *unpack.Guard
	shape *unpack.Shape
}

func newDecoder(g *unpack.Guard) *decoder {
	return &decoder{guard: g, shape: unpack.ShapeOf(&livekit.WorkerMessage{})}
}

// message decodes one message of a worker.
func (d *decoder) message(ctx context.Context, b []byte, json bool) (*livekit.WorkerMessage, error) {
	estimate := d.shape.Binary
	if json {
		estimate = d.shape.JSON
	}
	cost, err := estimate(b, 2*int64(len(b))+freeCost)
	if err != nil {
		return nil, d.guard.Refused("agent", err)
	}
	leave, err := d.guard.Enter(ctx, cost)
	if err != nil {
		return nil, d.guard.Refused("agent", err)
	}
	defer leave()
	m := &livekit.WorkerMessage{}
	if json {
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, m)
	} else {
		err = proto.Unmarshal(b, m)
	}
	return m, err
}

// excessive reports whether err means that a message exceeds the bounds.
func excessive(err error) bool {
	return errors.Is(err, unpack.ErrTooMuch) || errors.Is(err, unpack.ErrTooLong) || errors.Is(err, unpack.ErrTooDeep) || errors.Is(err, unpack.ErrBusy)
}
