package signal

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/sqlite"
	"parlor/rooms/sqlite/sqlitetest"
)

// stuck is an outlet that can block, and the room with it.
type stuck struct {
	mu   sync.Mutex // guards the following
	sent []*livekit.SignalResponse
	hold chan struct{} // Send waits for it, if it is not nil
}

func (s *stuck) Send(m *rooms.Message) bool {
	s.mu.Lock()
	s.sent = append(s.sent, m.Response)
	hold := s.hold
	s.mu.Unlock()
	if hold != nil {
		<-hold
	}
	return true
}

func (s *stuck) Leave(*livekit.LeaveRequest) {}
func (s *stuck) Attached() bool              { return true }

// held blocks the room, at its next message to this client, until the returned channel is
// closed.
func (s *stuck) held() chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = make(chan struct{})
	return s.hold
}

// noMedia is media without any effect.
type noMedia struct{ rooms.Peer }

func (noMedia) AddTrack(rooms.Announcement, *livekit.TrackInfo) {}
func (noMedia) UpdateTrack(*livekit.TrackInfo)                  {}
func (noMedia) SetPublisherAllowed(bool, bool)                  {}
func (noMedia) Subscribe(rooms.Subscription)                    {}
func (noMedia) Unsubscribe(string)                              {}
func (noMedia) Close()                                          {}
func (noMedia) Summary() *rooms.MediaSummary                    { return nil }
func (noMedia) BeginSummary()                                   {}

type silentTrack string

func (t silentTrack) SID() string               { return string(t) }
func (silentTrack) AudioLevel() (float32, bool) { return 0, false }

// Each change of a subscription permission is sent to all participants, and counts
// against its client's pace once the room knows its cost. So the client's next message is
// read only then: however busy the room is, changes do not pile up.
func TestAPermissionIsDoneBeforeTheNextMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, err := sqlite.Open(context.Background(), sqlite.Config{Path: sqlitetest.Path(t)})
		require.NoError(t, err)
		house := rooms.New(rooms.Config{Store: store, Log: slog.New(slog.DiscardHandler), AutoCreate: true, RestartGrace: time.Minute})
		require.NoError(t, house.Open(context.Background()))
		defer func() {
			require.NoError(t, house.Close(context.Background()))
			require.NoError(t, store.Close(context.Background()))
		}()
		enter := func(identity string) (*rooms.Participant, *stuck) {
			outlet := &stuck{}
			p, _, err := house.Join(context.Background(), rooms.JoinRequest{
				Room: "tea", Outlet: outlet, Protocol: 17, AutoSubscribe: true,
				Info: &livekit.ParticipantInfo{Identity: identity, Permission: &livekit.ParticipantPermission{CanPublish: true, CanSubscribe: true}},
			})
			require.NoError(t, err)
			require.NoError(t, p.Enter(noMedia{}, func(*rooms.Participant, rooms.Snapshot) {}))
			return p, outlet
		}
		ann, announced := enter("ann")
		_, told := enter("bob")
		ann.AddTrack(&livekit.AddTrackRequest{Cid: "cam", Type: livekit.TrackType_VIDEO, Source: livekit.TrackSource_CAMERA})
		ann.Sync()
		track := announced.sent[len(announced.sent)-1].GetTrackPublished().GetTrack()
		require.NotNil(t, track)
		ann.TrackPublished(silentTrack(track.Sid), rooms.TrackFacts{})
		ann.Sync()

		session := &session{client: ann.Client}
		hold := told.held()
		done := make(chan struct{})
		go func() { // ends when hold does
			defer close(done)
			session.handle(&livekit.SignalRequest{Message: &livekit.SignalRequest_SubscriptionPermission{
				SubscriptionPermission: &livekit.SubscriptionPermission{},
			}})
		}()
		synctest.Wait()
		require.False(t, told.sent[len(told.sent)-1].GetSubscriptionPermissionUpdate().GetAllowed(), "bob is being told")
		select {
		case <-done:
			require.Fail(t, "the next message would be read while the room is busy with this one")
		default:
		}
		close(hold)
		<-done
	})
}

// TestSessionsThatBeginWhileOthersAreWaitedFor are counted or refused: none continues
// after Wait has returned.
func TestSessionsThatBeginWhileOthersAreWaitedFor(t *testing.T) {
	for range 200 {
		var h Handler
		var running atomic.Int64
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if h.begin() {
					running.Add(1)
					running.Add(-1)
					h.sessions.End()
				}
			})
		}
		require.NoError(t, h.Wait(t.Context()))
		require.Zero(t, running.Load())
		all.Wait()
		require.False(t, h.begin())
	}
}
