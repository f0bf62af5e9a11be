package api

import (
	"net/http"
	"strconv"
	"time"

	"parlor/rooms"
	"parlor/server/problem"
)

// hour is what happened in an hour, or a day.
type hour struct {
	From               *timestamp `json:"from"`
	RoomsOpened        int64      `json:"rooms_opened"`
	RoomsEnded         int64      `json:"rooms_ended"`
	Joins              int64      `json:"joins"`
	PeakParticipants   int64      `json:"peak_participants" doc:"The most of all rooms at one time."`
	ParticipantMinutes float64    `json:"participant_minutes"`
	Refused            int64      `json:"refused" doc:"Joins, calls and tries to sign in."`
	BytesIn            int64      `json:"bytes_in" doc:"Of media."`
	BytesOut           int64      `json:"bytes_out"`
	Loss               *float64   `json:"loss" doc:"Share of packets to subscribers, 0 to 1; null without any."`
	Quality            *float64   `json:"quality" doc:"The mean score of the connections, 0 to 5; null without any."`
}

func showHour(h *rooms.Hour) hour {
	known := func(v float64, ok bool) *float64 {
		if !ok {
			return nil
		}
		return &v
	}
	return hour{
		From: at(h.FromMs), RoomsOpened: h.Opened, RoomsEnded: h.Ended, Joins: h.Joined, PeakParticipants: h.Peak,
		ParticipantMinutes: float64(h.ParticipantMs) / float64(time.Minute/time.Millisecond), Refused: h.Refused,
		BytesIn: h.BytesIn, BytesOut: h.BytesOut, Loss: known(h.Loss()), Quality: known(h.Score()),
	}
}

// hourPage is a page of hours or days.
type hourPage struct {
	Hours      []hour `json:"hours" doc:"Those in which something happened, the oldest first."`
	NextCursor string `json:"next_cursor,omitempty" doc:"The cursor of the next page; without it this is the last."`
}

const hoursOfADay = 24

func (s *rest) listHours(w http.ResponseWriter, r *http.Request) error {
	params := r.URL.Query()
	var wrong []problem.Field
	limit, bad := pageSize(params)
	if bad != nil {
		wrong = append(wrong, *bad)
	}
	unit, most := int64(rooms.HourMs), limit
	switch params.Get("by") {
	case "", "hour":
	case "day":
		unit, most = hoursOfADay*rooms.HourMs, limit*hoursOfADay
	default:
		wrong = append(wrong, problem.Field{Path: "by", Detail: "must be hour or day"})
	}
	now := time.Now()
	from, before := now.AddDate(0, 0, -30).UnixMilli(), now.UnixMilli()+1
	for name, to := range map[string]*int64{"from": &from, "before": &before} {
		if v := params.Get(name); v != "" {
			t, err := time.Parse(time.RFC3339, v)
			if err != nil {
				wrong = append(wrong, problem.Field{Path: name, Detail: notATime})
			}
			*to = t.UnixMilli()
		}
	}
	from -= from % unit // the hour or day of that time, and not a part of it
	before += (unit - before%unit) % unit
	if c := params.Get("cursor"); c != "" {
		after, err := strconv.ParseInt(c, 10, 64)
		if err != nil || after < 0 || after%unit != 0 {
			wrong = append(wrong, badCursor)
		}
		from = after
	}
	if wrong != nil {
		return problem.Fields(wrong...)
	}
	found, err := s.Hours.Hours(r.Context(), from, before, most+1)
	if err != nil {
		return err
	}
	page := hourPage{Hours: []hour{}}
	var sum rooms.Hour
	flush := func() {
		if sum != (rooms.Hour{}) {
			page.Hours = append(page.Hours, showHour(&sum))
		}
	}
	for i := range found {
		h := &found[i]
		begin := h.FromMs - h.FromMs%unit
		if i == 0 || begin != sum.FromMs {
			flush()
			if len(page.Hours) == limit {
				page.NextCursor = strconv.FormatInt(begin, 10)
				return sendJSON(w, http.StatusOK, page)
			}
			sum = rooms.Hour{FromMs: begin}
		}
		sum.Add(h)
	}
	flush()
	return sendJSON(w, http.StatusOK, page)
}
