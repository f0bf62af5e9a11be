package api

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms"
	"parlor/server/problem"
)

// agentKind is what a worker takes jobs of, and what a job is for.
type agentKind struct {
	AgentName  string `json:"agent_name" doc:"Empty: agents for every room."`
	Namespace  string `json:"namespace"`
	Deployment string `json:"deployment"`
	Type       string `json:"type" enum:"room,publisher,participant" doc:"Whether a job is for a room, for a publisher or for a participant."`
}

func showKind(k rooms.AgentKind) agentKind {
	return agentKind{
		AgentName: k.AgentName, Namespace: k.Namespace, Deployment: k.Deployment,
		Type: strings.ToLower(strings.TrimPrefix(k.Type.String(), "JT_")),
	}
}

// agentWorker is a connected worker.
type agentWorker struct {
	ID          string     `json:"id"`
	Kind        agentKind  `json:"kind"`
	Key         string     `json:"key" doc:"Its API key."`
	Load        float64    `json:"load" doc:"As it says, from 0 to 1."`
	Full        bool       `json:"full" doc:"It gets no more jobs now."`
	Jobs        int        `json:"jobs" doc:"How many it has."`
	ConnectedAt *timestamp `json:"connected_at"`
}

type agentWorkerPage struct {
	Workers    []agentWorker `json:"workers"`
	NextCursor string        `json:"next_cursor,omitempty" doc:"The cursor of the next page; without it this is the last."`
}

// agentJob is a job that waits or runs.
type agentJob struct {
	ID        string     `json:"id"`
	Room      string     `json:"room"`
	RoomSID   string     `json:"room_sid"`
	Kind      agentKind  `json:"kind"`
	Dispatch  string     `json:"dispatch" doc:"The id of its dispatch; empty: its worker simulates it."`
	State     string     `json:"state" enum:"waiting,running"`
	Worker    string     `json:"worker" doc:"The id of the worker that has it; empty while it waits."`
	Identity  string     `json:"identity" doc:"Its agent's in the room; empty while it waits."`
	CreatedAt *timestamp `json:"created_at"`
	DueAt     *timestamp `json:"due_at" doc:"When workers may be asked for it."`
}

type agentJobPage struct {
	Jobs       []agentJob `json:"jobs"`
	NextCursor string     `json:"next_cursor,omitempty" doc:"The cursor of the next page; without it this is the last."`
}

// agentDispatch is a dispatch in force.
type agentDispatch struct {
	ID        string     `json:"id"`
	Room      string     `json:"room"`
	RoomSID   string     `json:"room_sid"`
	AgentName string     `json:"agent_name" doc:"Empty: agents for every room."`
	Metadata  string     `json:"metadata"`
	Jobs      int        `json:"jobs" doc:"How many of it wait or run."`
	CreatedAt *timestamp `json:"created_at"`
}

type agentDispatchPage struct {
	Dispatches []agentDispatch `json:"dispatches"`
	NextCursor string          `json:"next_cursor,omitempty" doc:"The cursor of the next page; without it this is the last."`
}

func (s *rest) agentOperations() []operation {
	const tag = "agents"
	return []operation{
		{
			method: get, path: "/agents/workers", id: "listWorkers", tag: tag, grant: toOperate,
			summary: "The connected workers of agents, by agent name and id.",
			query:   pageParameters(), status: http.StatusOK, answer: agentWorkerPage{}, handle: s.listWorkers,
		},
		{
			method: get, path: "/agents/jobs", id: "listJobs", tag: tag, grant: toOperate,
			summary: "The jobs of agents in all open rooms that wait for a worker or run, by the rooms' ids and their own. Those that ended are events.",
			query:   pageParameters(), status: http.StatusOK, answer: agentJobPage{}, handle: s.listJobs,
		},
		{
			method: get, path: "/agents/dispatches", id: "listDispatches", tag: tag, grant: toOperate,
			summary: "The dispatches in force in all open rooms, by agent name, by the rooms' ids and their own.",
			query:   pageParameters(), status: http.StatusOK, answer: agentDispatchPage{}, handle: s.listDispatches,
		},
		{
			method: del, path: onRoom + "/dispatches/{id}", id: "deleteDispatch", tag: tag, grant: toAdmin,
			summary: "Delete a dispatch of an open room. Its jobs end, and agents that do not leave by themselves are sent away.",
			status:  http.StatusNoContent, handle: s.deleteDispatch,
		},
	}
}

// cursorOf reads the cursor of a page into after, which stays as it is without one.
func cursorOf[T any](r *http.Request, after *T) error {
	c := r.URL.Query().Get("cursor")
	if c == "" {
		return nil
	}
	b, err := base64.RawURLEncoding.DecodeString(c)
	if err != nil || json.Unmarshal(b, after) != nil {
		return problem.Fields(badCursor)
	}
	return nil
}

// workerCursor is where a page of workers ended.
type workerCursor struct{ AgentName, ID string }

func (s *rest) listWorkers(w http.ResponseWriter, r *http.Request) error {
	limit, bad := pageSize(r.URL.Query())
	if bad != nil {
		return problem.Fields(*bad)
	}
	var after workerCursor
	if err := cursorOf(r, &after); err != nil {
		return err
	}
	var all []rooms.AgentWorker
	if s.Dashboard.Workers != nil {
		all = s.Dashboard.Workers()
	}
	from, _ := slices.BinarySearchFunc(all, after, func(one rooms.AgentWorker, after workerCursor) int {
		if order := cmp.Or(cmp.Compare(one.Kind.AgentName, after.AgentName), cmp.Compare(one.ID, after.ID)); order != 0 {
			return order
		}
		return -1 // the page begins behind it
	})
	all = all[from:]
	page := agentWorkerPage{Workers: []agentWorker{}}
	if len(all) > limit {
		all = all[:limit]
		page.NextCursor = writeCursor(workerCursor{all[limit-1].Kind.AgentName, all[limit-1].ID})
	}
	for _, one := range all {
		page.Workers = append(page.Workers, agentWorker{
			ID: one.ID, Kind: showKind(one.Kind), Key: one.APIKey, Load: one.Load, Full: one.Full, Jobs: one.Jobs, ConnectedAt: at(one.ConnectedMs),
		})
	}
	return sendJSON(w, http.StatusOK, page)
}

func (s *rest) listJobs(w http.ResponseWriter, r *http.Request) error {
	limit, bad := pageSize(r.URL.Query())
	if bad != nil {
		return problem.Fields(*bad)
	}
	var after rooms.JobCursor
	if err := cursorOf(r, &after); err != nil {
		return err
	}
	list, err := s.Records.ListJobs(r.Context(), after, limit+1)
	if err != nil {
		return err
	}
	page := agentJobPage{Jobs: []agentJob{}}
	if len(list) > limit {
		list = list[:limit]
		page.NextCursor = writeCursor(rooms.JobCursor{RoomSID: list[limit-1].RoomSID, ID: list[limit-1].ID})
	}
	now := s.Rooms.Now()
	for i := range list {
		one := &list[i]
		job := agentJob{
			ID: one.ID, Room: one.Room, RoomSID: one.RoomSID, Kind: showKind(one.Kind), Dispatch: one.DispatchID, State: "running",
			Worker: one.Info.GetState().GetWorkerId(), Identity: one.Agent(), CreatedAt: at(one.CreatedMs), DueAt: at(now.Shown(now.SinceMs, one.DueMs)),
		}
		if one.Status() == livekit.JobStatus_JS_PENDING {
			job.State = "waiting"
		}
		page.Jobs = append(page.Jobs, job)
	}
	return sendJSON(w, http.StatusOK, page)
}

func (s *rest) listDispatches(w http.ResponseWriter, r *http.Request) error {
	limit, bad := pageSize(r.URL.Query())
	if bad != nil {
		return problem.Fields(*bad)
	}
	var after rooms.DispatchCursor
	if err := cursorOf(r, &after); err != nil {
		return err
	}
	list, err := s.Records.ListDispatches(r.Context(), after, limit+1)
	if err != nil {
		return err
	}
	page := agentDispatchPage{Dispatches: []agentDispatch{}}
	if len(list) > limit {
		list = list[:limit]
		last := &list[limit-1]
		page.NextCursor = writeCursor(rooms.DispatchCursor{AgentName: last.AgentName, RoomSID: last.RoomSID, ID: last.ID})
	}
	for i := range list {
		one := &list[i]
		page.Dispatches = append(page.Dispatches, agentDispatch{
			ID: one.ID, Room: one.Room, RoomSID: one.RoomSID, AgentName: one.AgentName, Metadata: one.Info.GetMetadata(),
			Jobs: one.OpenJobs, CreatedAt: at(one.CreatedMs),
		})
	}
	return sendJSON(w, http.StatusOK, page)
}

func (s *rest) deleteDispatch(w http.ResponseWriter, r *http.Request) error {
	at, err := pathValues(r, "name", "id")
	if err != nil {
		return err
	}
	if _, err := s.Dispatches.DeleteDispatch(r.Context(), &livekit.DeleteAgentDispatchRequest{Room: at[0], DispatchId: at[1]}); err != nil {
		return err
	}
	return sendNothing(w)
}
