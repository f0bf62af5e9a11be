package api

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"

	"parlor/rooms"
	"parlor/server/problem"
)

// Bounds of a search for rooms without an index: how many rooms are read for one page,
// and in one query.
const (
	mostLookedAt = 2000
	lookedAtOnce = 100
)

// roomFilter holds conditions on a room that the database does not check.
type roomFilter struct {
	metadata *string           // equal to this
	fields   map[string]string // of metadata that is a JSON object
	tags     map[string]string
}

func roomFilterOf(params url.Values) (f roomFilter, wrong []problem.Field) {
	if params.Has("metadata") {
		m := params.Get("metadata")
		f.metadata = &m
	}
	pairs := func(name string) map[string]string {
		all := map[string]string{}
		for _, pair := range params[name] {
			k, v, ok := strings.Cut(pair, "=")
			if !ok || k == "" {
				wrong = append(wrong, problem.Field{Path: name, Detail: "must be key=value"})
			}
			all[k] = v
		}
		return all
	}
	f.fields, f.tags = pairs("metadata_field"), pairs("tag")
	return f, wrong
}

func (f *roomFilter) empty() bool {
	return f.metadata == nil && len(f.fields) == 0 && len(f.tags) == 0
}

func (f *roomFilter) matches(r *rooms.Record) bool {
	if f.metadata != nil && r.Metadata != *f.metadata {
		return false
	}
	for k, v := range f.tags {
		if have, ok := r.Config.Tags[k]; !ok || have != v {
			return false
		}
	}
	if len(f.fields) == 0 {
		return true
	}
	var object map[string]json.RawMessage
	if json.Unmarshal([]byte(r.Metadata), &object) != nil {
		return false
	}
	for k, v := range f.fields {
		if have, ok := object[k]; !ok || plain(have) != v {
			return false
		}
	}
	return true
}

// plain is a JSON value as it is written in a query: a string without quotes.
func plain(value json.RawMessage) string {
	var s string
	if json.Unmarshal(value, &s) == nil {
		return s
	}
	return strings.TrimSpace(string(value))
}

// search reads rooms by q until limit of them match, or mostLookedAt were read. next is
// where to go on; nil at the end.
func (s *rest) search(ctx context.Context, q rooms.RoomQuery, f *roomFilter) (found []rooms.Record, next *rooms.RoomCursor, err error) {
	limit := q.Limit
	batch := limit + 1 // the extra one tells whether there is a next page
	if !f.empty() {
		batch = lookedAtOnce
	}
	for looked := 0; looked < mostLookedAt; {
		q.Limit = batch
		list, err := s.Records.ListRooms(ctx, q)
		if err != nil {
			return nil, nil, err
		}
		for i := range list {
			if len(found) == limit {
				return found, &q.After, nil
			}
			q.After = list[i].Cursor()
			if looked++; f.matches(&list[i]) {
				found = append(found, list[i])
			}
		}
		if len(list) < batch {
			return found, nil, nil
		}
	}
	return found, &q.After, nil
}
