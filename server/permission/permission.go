// Package permission is a participant's permission in the form of the REST API and the
// authorization hook.
package permission

import (
	"strings"

	"github.com/livekit/protocol/livekit"
)

// Permissions tells what a participant may do.
type Permissions struct {
	CanPublish        bool     `json:"can_publish"`
	CanPublishSources []string `json:"can_publish_sources" doc:"Empty: every source."`
	CanSubscribe      bool     `json:"can_subscribe"`
	CanPublishData    bool     `json:"can_publish_data"`
	CanUpdateMetadata bool     `json:"can_update_own_metadata"`
	Hidden            bool     `json:"hidden"`
}

// Of converts p.
func Of(p *livekit.ParticipantPermission) Permissions {
	out := Permissions{
		CanPublish: p.GetCanPublish(), CanSubscribe: p.GetCanSubscribe(), CanPublishData: p.GetCanPublishData(),
		CanUpdateMetadata: p.GetCanUpdateMetadata(), Hidden: p.GetHidden(), CanPublishSources: []string{},
	}
	for _, s := range p.GetCanPublishSources() {
		out.CanPublishSources = append(out.CanPublishSources, strings.ToLower(s.String()))
	}
	return out
}

// Edit changes the given permissions; absent ones stay as they are.
type Edit struct {
	CanPublish        *bool    `json:"can_publish,omitempty"`
	CanPublishSources []string `json:"can_publish_sources,omitempty" enum:"camera,microphone,screen_share,screen_share_audio" doc:"Empty: every source."`
	CanSubscribe      *bool    `json:"can_subscribe,omitempty"`
	CanPublishData    *bool    `json:"can_publish_data,omitempty"`
	CanUpdateMetadata *bool    `json:"can_update_own_metadata,omitempty"`
	Hidden            *bool    `json:"hidden,omitempty"`
}

// Apply applies e to p. Unknown sources are ignored: the caller has checked them with
// [Source].
func (e *Edit) Apply(p *livekit.ParticipantPermission) {
	set := func(to, from *bool) {
		if from != nil {
			*to = *from
		}
	}
	set(&p.CanPublish, e.CanPublish)
	set(&p.CanSubscribe, e.CanSubscribe)
	set(&p.CanPublishData, e.CanPublishData)
	set(&p.CanUpdateMetadata, e.CanUpdateMetadata)
	set(&p.Hidden, e.Hidden)
	if e.CanPublishSources == nil {
		return
	}
	p.CanPublishSources = nil
	for _, name := range e.CanPublishSources {
		if s, ok := Source(name); ok {
			p.CanPublishSources = append(p.CanPublishSources, s)
		}
	}
}

// Source returns the track source of that name; false if there is none.
func Source(name string) (livekit.TrackSource, bool) {
	n, ok := livekit.TrackSource_value[strings.ToUpper(name)]
	return livekit.TrackSource(n), ok && n != 0 && name == strings.ToLower(name)
}
