package api

import (
	"context"

	"github.com/livekit/protocol/livekit"

	"parlor/server/access"
)

// dispatchService is livekit.AgentDispatchService.
type dispatchService struct{ s *roomService }

var _ livekit.AgentDispatchService = (*dispatchService)(nil)

func (d *dispatchService) CreateDispatch(ctx context.Context, req *livekit.CreateAgentDispatchRequest) (*livekit.AgentDispatch, error) {
	return call(ctx, d.s, "CreateDispatch", access.EnsureAdmin(ctx, req.Room), func() (*livekit.AgentDispatch, error) {
		return d.s.c.Dispatches.CreateDispatch(ctx, req)
	})
}

func (d *dispatchService) DeleteDispatch(ctx context.Context, req *livekit.DeleteAgentDispatchRequest) (*livekit.AgentDispatch, error) {
	return call(ctx, d.s, "DeleteDispatch", access.EnsureAdmin(ctx, req.Room), func() (*livekit.AgentDispatch, error) {
		return d.s.c.Dispatches.DeleteDispatch(ctx, req)
	})
}

func (d *dispatchService) ListDispatch(ctx context.Context, req *livekit.ListAgentDispatchRequest) (*livekit.ListAgentDispatchResponse, error) {
	return call(ctx, d.s, "ListDispatch", access.EnsureAdmin(ctx, req.Room), func() (*livekit.ListAgentDispatchResponse, error) {
		return d.s.c.Dispatches.ListDispatch(ctx, req)
	})
}

// dispatchMethods are the methods of AgentDispatchService by name.
func dispatchMethods() map[string]*method {
	return shaped(map[string]*method{
		"CreateDispatch": {grant: access.EnsureSomeAdmin, body: bodySize{metadata: true, attributes: true}},
		"DeleteDispatch": {grant: access.EnsureSomeAdmin},
		"ListDispatch":   {grant: access.EnsureSomeAdmin},
	}, livekit.File_livekit_agent_dispatch_proto.Services().ByName("AgentDispatchService"))
}
