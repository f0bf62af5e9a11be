package webhooks_test

import (
	"context"
	"database/sql"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/guid"
	"parlor/rooms/log"
	"parlor/webhooks"
)

// ahead opens a room whose first event was written while the clock was ahead. The later
// events were written after it was set back.
func (w *world) ahead(name string, by time.Duration) {
	r := rooms.Record{
		SID: guid.New("RM_"), Name: name, CreatedMs: rooms.NowMs(time.Now()),
		EmptyTimeout: rooms.Never, DepartureTimeout: rooms.Never,
	}
	started := newEvent(&r, log.RoomStarted)
	started.CreatedMs += by.Milliseconds()
	r = w.submit(&rooms.Change{Kind: rooms.ChangeCreate, Room: r, Events: []log.Event{started}})
	(&room{world: w, record: r}).tell("participant_joined", "participant_left")
}

// TestAClockThatIsSetBackPutsOffNoEvent: neither what was written while it was ahead, nor
// what is behind that in the order of its room, nor what is to be tried again.
func TestAClockThatIsSetBackPutsOffNoEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		rec := &receiver{t: t}
		w.start(webhooks.Config{Transport: rec})
		w.ahead("tea", 2*time.Hour)
		time.Sleep(10 * time.Second)
		w.ahead("coffee", 2*time.Hour) // the dispatcher has just looked for such events
		time.Sleep(time.Minute)
		require.EqualValues(t, 6, w.stats().Delivered)
		require.Zero(t, w.stats().Pending)
	})
}

// TestARetryThatAClockSetBackHasPutOff is made soon.
func TestARetryThatAClockSetBackHasPutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		refused := true
		rec := &receiver{t: t, behave: func(g received) answer {
			if refused && g.event.RoomName == "tea" {
				return answer{status: 500}
			}
			return ok
		}}
		d := webhooks.New(w.config(webhooks.Config{Transport: rec}))
		require.NoError(t, d.Start(context.Background()))
		w.room("tea")
		time.Sleep(time.Second)
		w.room("coffee") // or else the endpoint would seem down, and be probed with what is not due
		time.Sleep(time.Second)
		d.Close()
		refused = false
		db, err := sql.Open("sqlite", w.store.Path())
		require.NoError(t, err)
		_, err = db.Exec(`UPDATE delivery SET next_ms = next_ms + 600000, last_ms = last_ms + 600000`)
		require.NoError(t, err)
		require.NoError(t, db.Close())
		w.start(webhooks.Config{Transport: rec})
		time.Sleep(time.Minute)
		require.EqualValues(t, 2, w.stats().Delivered)
	})
}

// gaugeOfAge returns what reads the age of the oldest pending event.
func gaugeOfAge(t *testing.T, d *webhooks.Dispatcher) func() float64 {
	reg := prometheus.NewPedanticRegistry()
	require.NoError(t, reg.Register(d.Collector()))
	return func() float64 {
		families, err := reg.Gather()
		require.NoError(t, err)
		for _, f := range families {
			if f.GetName() == "parlor_webhook_oldest_pending_seconds" {
				return f.Metric[0].GetGauge().GetValue()
			}
		}
		return -1
	}
}

// TestTheAgeOfAnEventFromTheFuture grows from when the event is seen.
func TestTheAgeOfAnEventFromTheFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := w.start(webhooks.Config{Transport: &receiver{t: t, behave: func(received) answer { return answer{status: 400} }}})
		age := gaugeOfAge(t, d)
		w.ahead("tea", 2*time.Hour)
		age()
		time.Sleep(10 * time.Minute)
		require.Equal(t, 600.0, age())
	})
}

// TestTheAgeOfEventsFromBeforeAStepForwards: an event that comes to be the oldest has not
// waited for longer than the one before it.
func TestTheAgeOfEventsFromBeforeAStepForwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := w.start(webhooks.Config{Transport: &receiver{t: t}})
		age := gaugeOfAge(t, d)
		id := w.stats().Endpoint.ID
		require.NoError(t, d.Pause(t.Context(), id, "test"))
		w.ahead("tea", 0)
		w.ahead("coffee", -2*time.Hour)
		require.Zero(t, age())
		time.Sleep(time.Minute)
		require.Equal(t, 60.0, age())
		var done []log.DeliveryResult
		for _, e := range w.log() {
			if e.RoomName == "tea" {
				done = append(done, log.DeliveryResult{EndpointID: id, Seq: e.Seq, State: log.DeliveryDelivered})
			}
		}
		require.NoError(t, w.store.FinishDeliveries(t.Context(), done))
		require.Equal(t, 60.0, age())
		time.Sleep(time.Minute)
		require.Equal(t, 120.0, age())
		all, err := d.Endpoints(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2*time.Minute, all[0].Waits)
	})
}
