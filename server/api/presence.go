package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"

	"parlor/rooms"
	"parlor/server/problem"
)

// presence is a participant, with the room that it is in.
type presence struct {
	Room        string      `json:"room"`
	RoomSID     string      `json:"room_sid"`
	Participant participant `json:"participant"`
	Address     string      `json:"address,omitempty" doc:"Its client's; without media set up there is none."`
}

// presencePage is a page of participants of any rooms.
type presencePage struct {
	Found      []presence `json:"found"`
	NextCursor string     `json:"next_cursor,omitempty" doc:"The cursor of the next page; without it this is the last."`
}

// presenceCursor tells where a page of participants ended.
type presenceCursor struct {
	RoomSID, Identity string
}

// findParticipants answers with a page of the participants of all open rooms.
func (s *rest) findParticipants(w http.ResponseWriter, r *http.Request) error {
	params := r.URL.Query()
	limit, bad := pageSize(params)
	if bad != nil {
		return problem.Fields(*bad)
	}
	var after presenceCursor
	if c := params.Get("cursor"); c != "" {
		b, err := base64.RawURLEncoding.DecodeString(c)
		if err != nil || json.Unmarshal(b, &after) != nil {
			return problem.Fields(badCursor)
		}
	}
	var addresses map[string]string
	if s.Dashboard.Addresses != nil {
		addresses = s.Dashboard.Addresses()
	}
	found, next, err := s.searchPresent(r.Context(), after, params.Get("text"), addresses, limit)
	if err != nil {
		return err
	}
	page := presencePage{Found: []presence{}}
	if next != nil {
		page.NextCursor = writeCursor(*next)
	}
	names := map[string]string{}
	for i := range found {
		one := &found[i]
		name, known := names[one.RoomSID]
		if !known {
			room, err := s.Records.GetBySID(r.Context(), one.RoomSID)
			if err != nil && rooms.ErrorCode(err) != rooms.NotFound {
				return err
			}
			name = room.Name
			names[one.RoomSID] = name
		}
		if name == "" {
			continue // its room has ended meanwhile, and is forgotten
		}
		page.Found = append(page.Found, presence{Room: name, RoomSID: one.RoomSID, Participant: showParticipant(one.Info, one.Host), Address: addresses[one.SID]})
	}
	return sendJSON(w, http.StatusOK, page)
}

// searchPresent reads participants after a place until limit of them match, or mostLookedAt
// were read. next is where to go on; nil at the end.
func (s *rest) searchPresent(ctx context.Context, after presenceCursor, text string, addresses map[string]string, limit int) (found []rooms.Session, next *presenceCursor, err error) {
	text = strings.ToLower(text)
	batch := limit + 1 // the extra one tells whether there is a next page
	if text != "" {
		batch = lookedAtOnce
	}
	for looked := 0; looked < mostLookedAt; {
		list, err := s.Records.ListPresent(ctx, rooms.PresenceQuery{AfterRoomSID: after.RoomSID, AfterIdentity: after.Identity, Limit: batch})
		if err != nil {
			return nil, nil, err
		}
		for i := range list {
			if len(found) == limit {
				return found, &after, nil
			}
			one := &list[i]
			after = presenceCursor{one.RoomSID, one.Identity}
			looked++
			if strings.Contains(strings.ToLower(one.Identity), text) || strings.Contains(strings.ToLower(one.Info.GetName()), text) ||
				strings.HasPrefix(addresses[one.SID], text) {
				found = append(found, *one)
			}
		}
		if len(list) < batch {
			return found, nil, nil
		}
	}
	return found, &after, nil
}
