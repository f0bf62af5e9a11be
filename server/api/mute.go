package api

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms"
	"parlor/server/permission"
	"parlor/server/problem"
)

// muteRequest is the body of POST …/mute.
type muteRequest struct {
	Sources []string `json:"sources,omitempty" enum:"camera,microphone,screen_share,screen_share_audio" doc:"What to mute; whatever can be heard without it."`
	Except  []string `json:"except,omitempty" doc:"Identities that are left alone; together no longer than limit.max_attributes_size."`
	Hold    bool     `json:"hold,omitempty" doc:"What is published later is muted too, and nobody can unmute it, until the hold is released. It survives restarts, and takes the place of an earlier hold."`
}

// mutedTracks are the tracks that the call muted.
type mutedTracks struct {
	Tracks []mutedTrack `json:"tracks"`
}

type mutedTrack struct {
	Identity string `json:"identity"`
	Track    track  `json:"track"`
}

// hold tells what a room keeps muted.
type hold struct {
	Sources []string `json:"sources" doc:"Empty: whatever can be heard."`
	Except  []string `json:"except"`
}

func showHold(h *rooms.Hold) *hold {
	if h == nil {
		return nil
	}
	out := &hold{Sources: []string{}, Except: []string{}}
	for _, s := range h.Sources {
		out.Sources = append(out.Sources, strings.ToLower(s.String()))
	}
	out.Except = append(out.Except, h.Except...)
	return out
}

func (s *rest) muteRoom(w http.ResponseWriter, r *http.Request) error {
	name, err := pathValue(r, "name")
	if err != nil {
		return err
	}
	var body muteRequest
	if err := s.readOptionalJSON(r, &body); err != nil {
		return err
	}
	which := rooms.Hold{Except: body.Except}
	if which.Sources, err = sourcesOf("sources", body.Sources); err != nil {
		return err
	}
	muted, err := s.Rooms.MuteAll(r.Context(), name, which, body.Hold)
	if err != nil {
		return err
	}
	out := mutedTracks{Tracks: []mutedTrack{}}
	for _, m := range muted {
		out.Tracks = append(out.Tracks, mutedTrack{m.Identity, showTrack(m.Track)})
	}
	return sendJSON(w, http.StatusOK, out)
}

func (s *rest) releaseRoom(w http.ResponseWriter, r *http.Request) error {
	name, err := pathValue(r, "name")
	if err != nil {
		return err
	}
	if err := s.Rooms.Release(r.Context(), name); err != nil {
		return err
	}
	return sendNothing(w)
}

const notASource = "must be camera, microphone, screen_share or screen_share_audio"

// sourcesOf reads the names of sources in the field at path.
func sourcesOf(path string, names []string) (all []livekit.TrackSource, err error) {
	if len(names) > rooms.MaxSources {
		return nil, problem.Fields(problem.Field{Path: path, Detail: fmt.Sprintf("must not have more than %d entries", rooms.MaxSources)})
	}
	for i, name := range names {
		source, ok := permission.Source(name)
		if !ok {
			return nil, problem.Fields(problem.Field{Path: fmt.Sprintf("%s[%d]", path, i), Detail: notASource})
		}
		all = append(all, source)
	}
	return all, nil
}
