package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"

	"parlor/rooms"
	"parlor/rooms/log"
)

// dispatchRow is a dispatch encoded for writing.
type dispatchRow struct {
	*rooms.Dispatch
	info []byte
}

// jobRow is a job encoded for writing.
type jobRow struct {
	*rooms.Job
	info []byte
}

// encodeAgents encodes a change's dispatches and jobs.
func (r *changeRow) encodeAgents() error {
	for i := range r.Dispatches {
		d := &r.Dispatches[i]
		info, err := proto.Marshal(d.Info)
		if err != nil {
			return fmt.Errorf("marshal dispatch %s: %w", d.ID, err)
		}
		r.dispatches = append(r.dispatches, dispatchRow{d, info})
	}
	for i := range r.Jobs {
		j := &r.Jobs[i]
		info, err := proto.Marshal(j.Info)
		if err != nil {
			return fmt.Errorf("marshal job %s: %w", j.ID, err)
		}
		r.jobs = append(r.jobs, jobRow{j, info})
	}
	return nil
}

// putAgents writes a change's dispatches and jobs, and deletes the dispatches of a room
// that ends.
func (t *tx) putAgents(c *changeRow) error {
	for i := range c.dispatches {
		d := &c.dispatches[i]
		_, err := t.exec(`INSERT INTO dispatch (id, room_sid, agent_name, created_ms, deleted_ms, info) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET deleted_ms = excluded.deleted_ms, info = excluded.info`,
			d.ID, d.RoomSID, d.AgentName, d.CreatedMs, d.DeletedMs, d.info)
		if err != nil {
			return err
		}
	}
	for i := range c.jobs {
		if err := t.putJob(c.jobs[i].Job, c.jobs[i].info); err != nil {
			return err
		}
	}
	if c.Kind == rooms.ChangeEnd {
		return t.endDispatches(c.Room.SID, c.Room.EndedMs)
	}
	return nil
}

func (t *tx) putJob(j *rooms.Job, info []byte) error {
	_, err := t.exec(`INSERT INTO job (id, dispatch_id, room_sid, agent_name, deployment, namespace, type, status,
			api_key, created_ms, due_ms, ended_ms, info) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET status = excluded.status, api_key = excluded.api_key, due_ms = excluded.due_ms,
			ended_ms = excluded.ended_ms, info = excluded.info`,
		j.ID, j.DispatchID, j.RoomSID, j.Kind.AgentName, j.Kind.Deployment, j.Kind.Namespace, int32(j.Kind.Type),
		int32(j.Status()), j.APIKey, j.CreatedMs, j.DueMs, j.EndedMs, info)
	return err
}

func (t *tx) endDispatches(roomSID string, nowMs int64) error {
	_, err := t.exec(`UPDATE dispatch SET deleted_ms = ? WHERE room_sid = ? AND deleted_ms = 0`, nowMs, roomSID)
	return err
}

// endJobs ends the jobs of an empty room at its deadline, and returns their events.
func (t *tx) endJobs(r *rooms.Record, now time.Time) ([]log.Event, error) {
	var open []rooms.Job
	err := t.rows(func(rs *sql.Rows) error {
		j, err := scanJob(rs, t.damage)
		open = append(open, j)
		return err
	}, `SELECT `+jobColumns+` FROM job INDEXED BY job_open WHERE room_sid = ? AND ended_ms = 0`, r.SID)
	if err != nil {
		return nil, err
	}
	var events []log.Event
	for i := range open {
		over, event := open[i].EndedWithRoom(r.Info(), now)
		info, err := proto.Marshal(over.Info)
		if err != nil {
			return nil, fmt.Errorf("marshal job %s: %w", over.ID, err)
		}
		if err := t.putJob(over, info); err != nil {
			return nil, err
		}
		events = append(events, event)
	}
	return events, t.endDispatches(r.SID, rooms.NowMs(now))
}

// jobColumns are a job's columns, in the order of scanJob.
const jobColumns = `job.id, dispatch_id, job.room_sid, agent_name, deployment, namespace, type, api_key, job.created_ms, due_ms, job.ended_ms, status, info`

func scanJob(s scanner, d *damage, more ...any) (rooms.Job, error) {
	var j rooms.Job
	var status livekit.JobStatus
	var info []byte
	k := &j.Kind
	err := s.Scan(append([]any{
		&j.ID, &j.DispatchID, &j.RoomSID, &k.AgentName, &k.Deployment, &k.Namespace, (*int32)(&k.Type), &j.APIKey,
		&j.CreatedMs, &j.DueMs, &j.EndedMs, (*int32)(&status), &info,
	}, more...)...)
	if err != nil {
		return rooms.Job{}, err
	}
	j.Info = new(livekit.Job)
	if d.note("job", j.ID, proto.Unmarshal(info, j.Info)) {
		j.Info = &livekit.Job{
			Id: j.ID, DispatchId: j.DispatchID, Type: k.Type, AgentName: k.AgentName, Deployment: k.Deployment, Namespace: k.Namespace,
			CreatedAt: time.UnixMilli(j.CreatedMs).UnixNano(), State: &livekit.JobState{Status: status},
		}
	}
	return j, nil
}

// dispatchColumns are a dispatch's columns, in the order of scanDispatch.
const dispatchColumns = `dispatch.id, dispatch.room_sid, agent_name, dispatch.created_ms, deleted_ms, info`

func scanDispatch(s scanner, damaged *damage, more ...any) (rooms.Dispatch, error) {
	d := rooms.Dispatch{Info: new(livekit.AgentDispatch)}
	var info []byte
	err := s.Scan(append([]any{&d.ID, &d.RoomSID, &d.AgentName, &d.CreatedMs, &d.DeletedMs, &info}, more...)...)
	if err != nil {
		return rooms.Dispatch{}, err
	}
	if damaged.note("dispatch", d.ID, proto.Unmarshal(info, d.Info)) {
		d.Info = &livekit.AgentDispatch{
			Id: d.ID, AgentName: d.AgentName, State: &livekit.AgentDispatchState{CreatedAt: time.UnixMilli(d.CreatedMs).UnixNano()},
		}
	}
	return d, nil
}

// ListDispatches returns a page of at most 1000 of the dispatches of all open rooms, in the
// order of agents' names, rooms' ids and their own.
func (s *Store) ListDispatches(ctx context.Context, after rooms.DispatchCursor, limit int) (out []rooms.PlacedDispatch, err error) {
	err = s.each(ctx, func(rs *sql.Rows) error {
		var one rooms.PlacedDispatch
		one.Dispatch, err = scanDispatch(rs, s.damage, &one.Room, &one.OpenJobs)
		out = append(out, one)
		return err
	}, `SELECT `+dispatchColumns+`, room.name, (SELECT count(*) FROM job INDEXED BY job_open
			WHERE job.room_sid = dispatch.room_sid AND job.ended_ms = 0 AND dispatch_id = dispatch.id)
		FROM dispatch INDEXED BY dispatch_open CROSS JOIN room ON room.sid = dispatch.room_sid
		WHERE deleted_ms = 0 AND (agent_name, dispatch.room_sid, dispatch.id) > (?, ?, ?) AND room.ended_ms = 0
		ORDER BY agent_name, dispatch.room_sid, dispatch.id LIMIT +?`, after.AgentName, after.RoomSID, after.ID, pageLimit(limit))
	return out, err
}

// ListJobs returns a page of at most 1000 of the jobs of all open rooms that wait or run, in
// the order of rooms' ids and their own.
func (s *Store) ListJobs(ctx context.Context, after rooms.JobCursor, limit int) (out []rooms.PlacedJob, err error) {
	err = s.each(ctx, func(rs *sql.Rows) error {
		var one rooms.PlacedJob
		one.Job, err = scanJob(rs, s.damage, &one.Room)
		out = append(out, one)
		return err
	}, `SELECT `+jobColumns+`, room.name FROM job INDEXED BY job_open CROSS JOIN room ON room.sid = job.room_sid
		WHERE job.ended_ms = 0 AND (job.room_sid, job.id) > (?, ?) AND room.ended_ms = 0
		ORDER BY job.room_sid, job.id LIMIT +?`, after.RoomSID, after.ID, pageLimit(limit))
	return out, err
}

// Dispatches returns a room's dispatches that are not deleted, oldest first.
func (s *Store) Dispatches(ctx context.Context, roomSID string) ([]rooms.Dispatch, error) {
	var out []rooms.Dispatch
	err := s.each(ctx, func(rs *sql.Rows) error {
		d, err := scanDispatch(rs, s.damage)
		out = append(out, d)
		return err
	}, `SELECT `+dispatchColumns+` FROM dispatch INDEXED BY dispatch_room
		WHERE room_sid = ? AND deleted_ms = 0 ORDER BY created_ms, id`, roomSID)
	return out, err
}

// Jobs returns a room's jobs; see [rooms.DispatchRecords].
func (s *Store) Jobs(ctx context.Context, roomSID string, limit int) ([]rooms.Job, error) {
	var out []rooms.Job
	into := func(rs *sql.Rows) error {
		j, err := scanJob(rs, s.damage)
		out = append(out, j)
		return err
	}
	err := s.each(ctx, into, `SELECT `+jobColumns+` FROM job INDEXED BY job_room
		WHERE room_sid = ? AND ended_ms > 0 ORDER BY created_ms DESC, id DESC LIMIT +?`, roomSID, limit)
	if err != nil {
		return nil, err
	}
	slices.Reverse(out)
	err = s.each(ctx, into, `SELECT `+jobColumns+` FROM job INDEXED BY job_open
		WHERE room_sid = ? AND ended_ms = 0 ORDER BY created_ms, id`, roomSID)
	return out, err
}

// FindJob returns a job of an open room, and the room's name.
func (s *Store) FindJob(ctx context.Context, id string) (job rooms.Job, room string, err error) {
	err = rooms.ErrNoJob
	failed := s.each(ctx, func(rs *sql.Rows) error {
		job, err = scanJob(rs, s.damage, &room)
		return err
	}, `SELECT `+jobColumns+`, room.name FROM job JOIN room ON room.sid = job.room_sid WHERE job.id = ? AND room.ended_ms = 0`, id)
	if failed != nil {
		err = failed
	}
	return job, room, err
}

// DueJobs returns due jobs for workers of the kind; see [rooms.DispatchRecords].
func (s *Store) DueJobs(ctx context.Context, k rooms.AgentKind, nowMs int64, limit int) (due []rooms.DueJob, nextMs int64, err error) {
	const waiting = ` FROM job INDEXED BY job_due JOIN room ON room.sid = job.room_sid
		WHERE agent_name = ? AND deployment = ? AND namespace = ? AND type = ? AND job.ended_ms = 0 AND status = 0 AND room.ended_ms = 0`
	err = s.each(ctx, func(rs *sql.Rows) error {
		var j rooms.DueJob
		err := rs.Scan(&j.ID, &j.Room)
		due = append(due, j)
		return err
	}, `SELECT job.id, room.name`+waiting+` AND due_ms <= ? ORDER BY due_ms LIMIT +?`,
		k.AgentName, k.Deployment, k.Namespace, int32(k.Type), nowMs, limit)
	if err == nil {
		err = s.one(ctx, []any{&nextMs}, `SELECT coalesce(min(due_ms), 0)`+waiting+` AND due_ms > ?`,
			k.AgentName, k.Deployment, k.Namespace, int32(k.Type), nowMs)
	}
	return due, nextMs, err
}

// RoomsWanting returns open rooms with a dispatch of that agent name; see
// [rooms.DispatchRecords].
func (s *Store) RoomsWanting(ctx context.Context, agentName, afterSID string, limit int) (names []string, lastSID string, err error) {
	err = s.each(ctx, func(rs *sql.Rows) error {
		var name string
		err := rs.Scan(&name, &lastSID)
		names = append(names, name)
		return err
	}, `SELECT DISTINCT room.name, room_sid FROM dispatch INDEXED BY dispatch_open JOIN room ON room.sid = room_sid
		WHERE agent_name = ? AND deleted_ms = 0 AND room_sid > ? AND room.ended_ms = 0 ORDER BY room_sid LIMIT +?`, agentName, afterSID, limit)
	return names, lastSID, err
}

// AgentKinds returns the kinds of workers whose agents go to every room; see
// [rooms.AgentKinds].
func (s *Store) AgentKinds(ctx context.Context, most int) (kinds []rooms.AgentKind, err error) {
	err = s.each(ctx, func(rs *sql.Rows) error {
		var k rooms.AgentKind
		err := rs.Scan(&k.Deployment, &k.Namespace, (*int32)(&k.Type))
		kinds = append(kinds, k)
		return err
	}, `SELECT deployment, namespace, type FROM agent_kind ORDER BY deployment, namespace, type LIMIT +?`, most+1)
	if err != nil || len(kinds) <= most {
		return kinds, err
	}
	first := kinds[most]
	return kinds[:most], s.do(ctx, func(t *tx) error {
		_, err := t.exec(`DELETE FROM agent_kind WHERE (deployment, namespace, type) >= (?, ?, ?)`, first.Deployment, first.Namespace, int32(first.Type))
		return err
	})
}

// SetAgentKind notes whether there are workers of the kind.
func (s *Store) SetAgentKind(ctx context.Context, k rooms.AgentKind, there bool) error {
	query := `DELETE FROM agent_kind WHERE deployment = ? AND namespace = ? AND type = ?`
	if there {
		query = `INSERT INTO agent_kind (deployment, namespace, type) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`
	}
	return s.do(ctx, func(t *tx) error {
		_, err := t.exec(query, k.Deployment, k.Namespace, int32(k.Type))
		return err
	})
}
