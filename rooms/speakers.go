package rooms

import (
	"math"
	"slices"
	"time"

	"github.com/livekit/protocol/livekit"
)

// tellSpeakers looks at the audio levels and tells of the speakers that changed: each
// participant is told of those that it hears, and of itself.
func (r *Room) tellSpeakers(now time.Time) {
	levels := make(map[string]float32) // by publisher SID: the loudest of its tracks
	publishers := make(map[string]*Participant)
	for _, t := range r.tracks {
		if t.info.Type != livekit.TrackType_AUDIO {
			continue
		}
		publishers[t.publisher.sid] = t.publisher
		if level, speaking := t.media.AudioLevel(); speaking && !t.info.Muted {
			// In steps of an eighth, so that not every breath is news.
			step := float32(math.Ceil(float64(level)*8) / 8)
			levels[t.publisher.sid] = max(levels[t.publisher.sid], step)
		}
	}
	simulated := false
	for _, p := range r.participants {
		if now.Before(p.speaksUntil) {
			simulated = true
			levels[p.sid] = max(levels[p.sid], simulatedLevel)
		}
	}
	changed := make(map[string]*livekit.SpeakerInfo) // by publisher SID
	for sid, level := range levels {
		last := r.speakers[sid]
		if last == nil || last.Level != level {
			s := &livekit.SpeakerInfo{Sid: sid, Level: level, Active: true}
			r.speakers[sid] = s
			changed[sid] = s
		}
	}
	for sid := range r.speakers {
		if _, still := levels[sid]; !still {
			delete(r.speakers, sid)
			changed[sid] = &livekit.SpeakerInfo{Sid: sid}
		}
	}
	if len(publishers) > 0 || simulated {
		r.setAlarm(alarmSpeakers, now.Add(speakerInterval))
	}
	if len(changed) == 0 {
		return
	}
	// It costs what changed, and those who hear it.
	updates := make(map[*Participant][]*livekit.SpeakerInfo)
	for _, q := range r.participants {
		if s := changed[q.sid]; s != nil {
			updates[q] = append(updates[q], s)
		}
	}
	for _, t := range r.tracks {
		s := changed[t.publisher.sid]
		if s == nil {
			continue
		}
		for _, q := range t.subscribers {
			if !slices.Contains(updates[q], s) { // not by another of its tracks
				updates[q] = append(updates[q], s)
			}
		}
	}
	for q, told := range updates {
		q.outlet.Send(speakersChanged(told))
	}
}

// repeatSpeakers tells q who speaks, and who does not, of those that it hears, and of itself.
func (r *Room) repeatSpeakers(q *Participant) {
	about := hearing(q)
	about[q.sid] = true
	speakers := make([]*livekit.SpeakerInfo, 0, len(about))
	for sid := range about {
		s := r.speakers[sid]
		if s == nil {
			s = &livekit.SpeakerInfo{Sid: sid}
		}
		speakers = append(speakers, s)
	}
	q.outlet.Send(speakersChanged(speakers))
}

func speakersChanged(speakers []*livekit.SpeakerInfo) *Message {
	return NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_SpeakersChanged{
		SpeakersChanged: &livekit.SpeakersChanged{Speakers: speakers},
	}})
}

// simulatedLevel is how loud a simulated speaker is.
const simulatedLevel = 0.875

// SimulateSpeaker shows the participant as speaking for a while, as if its
// microphone were heard; 0 ends that.
func (p *Participant) SimulateSpeaker(during time.Duration) {
	p.post(func(r *Room) {
		now := time.Now()
		p.speaksUntil = now.Add(during)
		r.setAlarm(alarmSpeakers, now)
	})
}

// hearing is the set of publishers' SIDs whose tracks q is subscribed to.
func hearing(q *Participant) map[string]bool {
	set := make(map[string]bool, len(q.subscribed))
	for _, t := range q.subscribed {
		set[t.publisher.sid] = true
	}
	return set
}
