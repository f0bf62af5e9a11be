package rooms

import (
	"time"

	"github.com/livekit/protocol/livekit"
)

// tellQuality tells each active participant of its own connection quality and
// of those whom it is subscribed to, if anybody's changed.
func (r *Room) tellQuality(now time.Time) {
	infos := make(map[string]*livekit.ConnectionQualityInfo)
	changed := false
	for _, p := range r.participants {
		if p.peer == nil || p.info.State != livekit.ParticipantInfo_ACTIVE {
			continue
		}
		q, score := p.peer.Quality()
		if last, ok := r.quality[p.sid]; !ok || last != q {
			changed = true
			r.quality[p.sid] = q
		}
		infos[p.sid] = &livekit.ConnectionQualityInfo{ParticipantSid: p.sid, Quality: q, Score: score}
	}
	if len(infos) > 0 {
		r.setAlarm(alarmQuality, now.Add(qualityInterval))
	}
	for _, q := range r.participants {
		own := infos[q.sid]
		if own == nil || !(changed || q.unrated) {
			continue
		}
		q.unrated = false
		updates := []*livekit.ConnectionQualityInfo{own}
		for sid := range hearing(q) {
			if i := infos[sid]; i != nil && sid != q.sid {
				updates = append(updates, i)
			}
		}
		q.outlet.Send(NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_ConnectionQuality{
			ConnectionQuality: &livekit.ConnectionQualityUpdate{Updates: updates},
		}}))
	}
}
