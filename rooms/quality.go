package rooms

import (
	"maps"
	"slices"
	"time"

	"github.com/livekit/protocol/livekit"
)

// qualities are the connection qualities to send, by the participant that gets them.
type qualities map[*Participant]map[string]*livekit.ConnectionQualityInfo

func (u qualities) add(to *Participant, info *livekit.ConnectionQualityInfo) {
	if to.peer == nil || to.info.State != livekit.ParticipantInfo_ACTIVE {
		return
	}
	if u[to] == nil {
		u[to] = make(map[string]*livekit.ConnectionQualityInfo, 1)
	}
	u[to][info.ParticipantSid] = info
}

// tellQuality sends each connection quality that changed to the participant itself and to
// its subscribers. A participant that has a new subscription gets the qualities of all
// that it is subscribed to. The cost is one look at each participant, and then only what
// changed.
func (r *Room) tellQuality(now time.Time) {
	infos := make(map[string]*livekit.ConnectionQualityInfo, len(r.participants))
	changed := make(map[string]*livekit.ConnectionQualityInfo)
	updates := make(qualities)
	sum := uint64(0)
	for _, p := range r.participants {
		if p.peer == nil || p.info.State != livekit.ParticipantInfo_ACTIVE {
			continue
		}
		q, score := p.peer.Quality()
		info := &livekit.ConnectionQualityInfo{ParticipantSid: p.sid, Quality: q, Score: score}
		infos[p.sid] = info
		sum += uint64(max(0, score) * scoreUnit)
		if last, ok := r.quality[p.sid]; !ok || last != q {
			r.quality[p.sid] = q
			changed[p.sid] = info
			updates.add(p, info)
		}
	}
	if len(infos) == 0 {
		return
	}
	r.rooms.scores.Add(uint64(len(infos)))
	r.rooms.scoreSum.Add(sum)
	r.setAlarm(alarmQuality, now.Add(qualityInterval))
	if now.Sub(r.summarised) >= summaryInterval {
		r.writeSummaries(now)
	}
	if len(changed) > 0 {
		for _, t := range r.tracks {
			if info := changed[t.publisher.sid]; info != nil {
				for _, q := range t.subscribers {
					updates.add(q, info)
				}
			}
		}
	}
	for _, q := range r.participants {
		own := infos[q.sid]
		if own == nil || !q.unrated {
			continue
		}
		q.unrated = false
		updates.add(q, own)
		for sid := range hearing(q) {
			if info := infos[sid]; info != nil {
				updates.add(q, info)
			}
		}
	}
	for q, told := range updates {
		q.outlet.Send(NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_ConnectionQuality{
			ConnectionQuality: &livekit.ConnectionQualityUpdate{Updates: slices.Collect(maps.Values(told))},
		}}))
	}
}
