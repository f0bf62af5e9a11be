package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"slices"
	"strconv"

	"parlor/rooms"
	"parlor/rooms/log"
)

const endpointColumns = `id, url, key_id, include, exclude, relax_after, state, reason, fail_since_ms`

// endpointRow receives an endpoint's row.
type endpointRow struct {
	endpoint         log.Endpoint
	include, exclude []byte
}

func (r *endpointRow) fields() []any {
	e := &r.endpoint
	return []any{&e.ID, &e.URL, &e.KeyID, &r.include, &r.exclude, &e.RelaxAfter, &e.State, &e.Reason, &e.FailSinceMs}
}

// done returns the endpoint, after the fields are scanned. One whose filter cannot be read
// gets every event, until its filter is written again from the configuration.
func (r *endpointRow) done(d *damage) log.Endpoint {
	e := r.endpoint
	id := strconv.FormatInt(e.ID, 10)
	if d.note("filter of endpoint", id, errors.Join(json.Unmarshal(r.include, &e.Include), json.Unmarshal(r.exclude, &e.Exclude))) {
		e.Include, e.Exclude = nil, nil
	}
	return e
}

// loadEndpoints reads all endpoints for the writer's memory.
func loadEndpoints(t *tx) ([]log.Endpoint, error) {
	var all []log.Endpoint
	err := t.rows(func(rs *sql.Rows) error {
		var r endpointRow
		if err := rs.Scan(r.fields()...); err != nil {
			return err
		}
		all = append(all, r.done(t.damage))
		return nil
	}, `SELECT `+endpointColumns+` FROM endpoint ORDER BY id`)
	return all, err
}

// retireBatch is how many deliveries of an endpoint one transaction makes dead letters.
const retireBatch = 500

// SyncEndpoints brings the endpoints in line with the configuration; see [log.Outbox].
func (s *Store) SyncEndpoints(ctx context.Context, configured []log.Endpoint, nowMs int64) ([]log.Endpoint, error) {
	all, err := call(ctx, s, func(t *tx) ([]log.Endpoint, error) { return t.syncEndpoints(configured, nowMs) })
	if err != nil {
		return nil, err
	}
	out := make([]log.Endpoint, len(configured))
	for _, e := range all {
		i := slices.IndexFunc(configured, func(c log.Endpoint) bool { return c.URL == e.URL })
		if i >= 0 {
			out[i] = e
			continue
		}
		if e.Reason != log.ReasonRemoved {
			continue
		}
		if _, err := s.BoundPending(ctx, e.ID, 0, nowMs, log.ReasonRemoved); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (t *tx) syncEndpoints(configured []log.Endpoint, nowMs int64) ([]log.Endpoint, error) {
	for i, c := range configured {
		if slices.ContainsFunc(configured[:i], func(o log.Endpoint) bool { return o.URL == c.URL }) {
			return nil, rooms.Errorf(rooms.Invalid, "webhook URL %s is configured twice", c.URL)
		}
	}
	before := t.endpoints
	for _, c := range configured {
		_, err := t.exec(`INSERT INTO endpoint (url, key_id, include, exclude, relax_after, state) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (url) DO UPDATE SET key_id = excluded.key_id, include = excluded.include,
				exclude = excluded.exclude, relax_after = excluded.relax_after,
				state = CASE reason WHEN ? THEN excluded.state ELSE state END,
				reason = CASE reason WHEN ? THEN '' ELSE reason END`,
			c.URL, c.KeyID, jsonList(c.Include), jsonList(c.Exclude), c.RelaxAfter, string(log.EndpointOn),
			log.ReasonRemoved, log.ReasonRemoved)
		if err != nil {
			return nil, err
		}
	}
	for _, e := range before {
		if slices.ContainsFunc(configured, func(c log.Endpoint) bool { return c.URL == e.URL }) {
			continue
		}
		_, err := t.exec(`UPDATE endpoint SET state = ?, reason = ? WHERE id = ?`,
			string(log.EndpointDisabled), log.ReasonRemoved, e.ID)
		if err != nil {
			return nil, err
		}
	}
	if err := t.reloadEndpoints(); err != nil {
		return nil, err
	}
	return t.endpoints, t.requeueChanged(before, nowMs)
}

// requeueChanged requeues the pending deliveries of endpoints whose ordering changed.
func (t *tx) requeueChanged(before []log.Endpoint, nowMs int64) error {
	for i := range t.endpoints {
		e := &t.endpoints[i]
		if slices.ContainsFunc(before, func(o log.Endpoint) bool { return o.ID == e.ID && o.RelaxAfter != e.RelaxAfter }) {
			if err := t.requeue(e, "", nowMs); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *tx) reloadEndpoints() error {
	all, err := loadEndpoints(t)
	if err == nil {
		t.endpoints = all
	}
	return err
}

// SetEndpointState pauses, disables or resumes an endpoint; see [log.Outbox].
func (s *Store) SetEndpointState(ctx context.Context, endpointID int64, state log.EndpointState, reason string) error {
	return s.do(ctx, func(t *tx) error {
		if _, err := t.endpoint(endpointID); err != nil {
			return err
		}
		switch state {
		case log.EndpointOn, log.EndpointPaused, log.EndpointDisabled:
		default:
			return rooms.Errorf(rooms.Invalid, "no such endpoint state: %q", state)
		}
		_, err := t.exec(`UPDATE endpoint SET state = ?, reason = ?,
			fail_since_ms = CASE WHEN ?1 = 'on' THEN 0 ELSE fail_since_ms END WHERE id = ?`,
			string(state), reason, endpointID)
		if err != nil {
			return err
		}
		t.news = true
		return t.reloadEndpoints()
	})
}

// EndpointStats returns the figures of every endpoint, removed ones included.
func (s *Store) EndpointStats(ctx context.Context) ([]log.EndpointStats, error) {
	var out []log.EndpointStats
	err := s.each(ctx, func(rs *sql.Rows) error {
		var r endpointRow
		var v log.EndpointStats
		err := rs.Scan(append(r.fields(), &v.Pending, &v.Dead, &v.Delivered, &v.Failures,
			&v.LastMs, &v.LastSuccessMs, &v.LastStatus, &v.LastError, &v.OldestSeq, &v.OldestPendingMs)...)
		if err != nil {
			return err
		}
		v.Endpoint = r.done(s.damage)
		out = append(out, v)
		return nil
	}, `SELECT p.*, coalesce(e.created_ms, 0) FROM (
			SELECT `+endpointColumns+`, pending, dead, delivered, failures,
				last_ms, last_success_ms, last_status, last_error,
				coalesce((SELECT min(event_seq) FROM delivery WHERE endpoint_id = endpoint.id AND state = 0), 0) AS oldest
			FROM endpoint) AS p
		LEFT JOIN event AS e ON e.seq = p.oldest ORDER BY p.id`)
	if err != nil {
		return nil, err
	}
	return out, nil
}
