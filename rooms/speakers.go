package rooms

import (
	"math"
	"slices"
	"time"

	"github.com/livekit/protocol/livekit"
)

// tellSpeakers reads the audio levels and announces the speakers that changed. Each
// participant is told of itself and of the participants that it is subscribed to.
func (r *Room) tellSpeakers(now time.Time) {
	levels := make(map[string]float32) // by publisher SID: the loudest of its tracks
	publishers := make(map[string]*Participant)
	for _, t := range r.tracks {
		if t.info.Type != livekit.TrackType_AUDIO {
			continue
		}
		publishers[t.publisher.sid] = t.publisher
		if level, speaking := t.media.AudioLevel(); speaking && !t.info.Muted {
			// Steps of an eighth keep small changes from being announced.
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
	// The cost is what changed, and its subscribers.
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
			if !slices.Contains(updates[q], s) { // it may be there already by another track
				updates[q] = append(updates[q], s)
			}
		}
	}
	for q, told := range updates {
		q.outlet.Send(speakersChanged(told))
	}
}

// repeatSpeakers sends q the state of itself and of each participant that it is
// subscribed to.
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

// simulatedLevel is the level of a simulated speaker.
const simulatedLevel = 0.875

// SimulateSpeaker shows the participant as speaking for that long, as if its microphone
// were heard; 0 ends it.
func (c *Client) SimulateSpeaker(during time.Duration) {
	c.post(func(r *Room, p *Participant) {
		now := time.Now()
		p.speaksUntil = now.Add(during)
		r.setAlarm(alarmSpeakers, now)
	})
}

// hearing is the set of the SIDs of publishers to which q is subscribed.
func hearing(q *Participant) map[string]bool {
	set := make(map[string]bool, len(q.subscribed))
	for _, t := range q.subscribed {
		set[t.publisher.sid] = true
	}
	return set
}
