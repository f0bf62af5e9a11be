package rooms

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms/guid"
)

// calls are the server's RPCs to participants of a room that wait for an answer. It may
// be used concurrently.
type calls struct {
	mu      sync.Mutex      // guards the following
	waiting map[string]call // by id
}

// call is an RPC to a participant.
type call struct {
	to    *Participant
	reply answer[*livekit.PerformRpcResponse]
}

func (c *calls) add(id string, to *Participant, reply answer[*livekit.PerformRpcResponse]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		c.waiting = make(map[string]call)
	}
	c.waiting[id] = call{to, reply}
}

func (c *calls) has(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting[id].reply != nil
}

// take removes the call of that id for the caller to answer; nil if there is none.
func (c *calls) take(id string) answer[*livekit.PerformRpcResponse] {
	c.mu.Lock()
	defer c.mu.Unlock()
	reply := c.waiting[id].reply
	delete(c.waiting, id)
	return reply
}

func (c *calls) any() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting) > 0
}

// fail answers all waiting calls with an error, because the room has gone.
func (c *calls) fail() {
	c.mu.Lock()
	waiting := c.waiting
	c.waiting = nil
	c.mu.Unlock()
	for _, call := range waiting {
		call.reply(nil, ErrNoParticipant)
	}
}

// failFor fails the calls to p, which has left.
func (c *calls) failFor(p *Participant) {
	var gone []call
	c.mu.Lock()
	for id, call := range c.waiting {
		if call.to == p {
			gone = append(gone, call)
			delete(c.waiting, id)
		}
	}
	c.mu.Unlock()
	for _, call := range gone {
		call.reply(nil, ErrNoParticipant)
	}
}

// PerformRPC calls a method of a participant, with the server as the caller, and waits
// for the answer: 10 s unless the request says otherwise, at most 5 minutes.
func (rs *Rooms) PerformRPC(ctx context.Context, req *livekit.PerformRpcRequest) (*livekit.PerformRpcResponse, error) {
	if req.DestinationIdentity == "" {
		return nil, Errorf(Invalid, "destination_identity is required")
	}
	const defaultTimeout, longest = 10 * time.Second, 5 * time.Minute
	timeout := defaultTimeout
	if req.ResponseTimeoutMs > 0 {
		timeout = min(time.Duration(req.ResponseTimeoutMs)*time.Millisecond, longest)
	}
	id := guid.New("RPC_")
	dp := &livekit.DataPacket{
		ParticipantIdentity:   "server",
		DestinationIdentities: []string{req.DestinationIdentity},
		Value: &livekit.DataPacket_RpcRequest{RpcRequest: &livekit.RpcRequest{
			Id: id, Method: req.Method, Payload: req.Payload,
			ResponseTimeoutMs: uint32(timeout / time.Millisecond), Version: 1,
		}},
	}
	if err := checkSize(dp); err != nil {
		return nil, err
	}
	type result struct {
		resp *livekit.PerformRpcResponse
		err  error
	}
	ch := make(chan result, 1)
	err := rs.sendTo(ctx, req.Room, func(r *Room) error {
		p := r.receivers.Load().byIdentity[req.DestinationIdentity]
		if p == nil {
			return ErrNoParticipant
		}
		r.calls.add(id, p, func(resp *livekit.PerformRpcResponse, err error) { ch <- result{resp, err} })
		if p.attending() == nil { // checked after add, so that a leave between the two also fails the call
			r.endCall(id)
			return ErrNoParticipant
		}
		r.deliver(nil, nil, livekit.DataPacket_RELIABLE, dp, dp.DestinationIdentities, nil, false)
		return nil
	})
	if errors.Is(err, ErrNoRoom) {
		err = ErrNoParticipant
	}
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case res := <-ch:
		return res.resp, res.err
	case <-timer.C:
		err = Errorf(Unavailable, "participant %q did not answer method %q within %v", req.DestinationIdentity, req.Method, timeout)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if r := rs.peek(req.Room); r != nil {
		r.endCall(id)
	}
	return nil, err
}

// endCall removes the call of that id and returns its answer function; nil if there is
// none. It wakes the room, which the call may have kept live.
func (r *Room) endCall(id string) answer[*livekit.PerformRpcResponse] {
	reply := r.calls.take(id)
	if reply != nil {
		r.post(func() {})
	}
	return reply
}

// answerRPC gives a response to the server's waiting call; false if no call waits for it.
func (r *Room) answerRPC(resp *livekit.RpcResponse) bool {
	reply := r.endCall(resp.RequestId)
	if reply == nil {
		return false
	}
	if e := resp.GetError(); e != nil {
		reply(nil, Errorf(Precondition, "rpc error %d: %s", e.Code, e.Message))
		return true
	}
	reply(&livekit.PerformRpcResponse{Payload: resp.GetPayload()}, nil)
	return true
}
