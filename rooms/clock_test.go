package rooms_test

import (
	"errors"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/log"
)

// machine has a wall clock that can be set, and a count of the time since its boot. True time
// is the test's own.
type machine struct {
	boot      string // "" = it does not tell
	booted    time.Time
	set       atomic.Int64 // by how much the wall clock is ahead of true time
	suspended atomic.Int64 // time that has passed and that timers did not notice
}

func newMachine(boot string) *machine { return &machine{boot: boot, booted: time.Now()} }

// reboot has the machine boot again, with a clock that is ahead by that much.
func (m *machine) reboot(ahead time.Duration) {
	if m.boot != "" {
		m.boot += "'"
	}
	m.booted = time.Now()
	m.suspended.Store(0)
	m.set.Store(int64(ahead))
}

func (m *machine) wall() time.Time {
	return time.Now().Add(time.Duration(m.set.Load() + m.suspended.Load()))
}

// runs has the rooms run on the machine.
func (m *machine) runs(c *rooms.Config) {
	c.Wall, c.Boot = m.wall, m.boot
	booted := m.booted
	c.Elapsed = func() time.Duration { return time.Since(booted) + time.Duration(m.suspended.Load()) }
}

// setHouse is a house on a machine, whose disk may refuse all writes.
func setHouse(t *testing.T, m *machine, opts ...option) (h *house, full *atomic.Bool) {
	full = new(atomic.Bool)
	h = &house{t: t, path: t.TempDir() + "/parlor.db", allow: func() error {
		if full.Load() {
			return errors.New("the disk is full")
		}
		return nil
	}}
	h.open(append(opts, m.runs)...)
	t.Cleanup(h.close)
	return h, full
}

func (h *house) createFor(name string, empty, departure uint32) {
	h.t.Helper()
	_, err := h.Create(h.t.Context(), &livekit.CreateRoomRequest{Name: name, EmptyTimeout: empty, DepartureTimeout: departure})
	require.NoError(h.t, err)
}

func (c *client) goes() {
	c.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
	c.Sync()
}

// openFor requires that the room is open for that long, and not for longer.
func (h *house) openFor(name string, d time.Duration) {
	h.t.Helper()
	time.Sleep(d - 3*time.Second)
	h.one(name)
	time.Sleep(5 * time.Second)
	h.none(name)
}

// step has the wall clock set, at another time than that of a look at it.
func (m *machine) step(by time.Duration) {
	time.Sleep(1700 * time.Millisecond)
	m.set.Add(int64(by))
}

const forwards, backwards = 2 * time.Hour, -2 * time.Hour

func eachStep(t *testing.T, test func(t *testing.T, by time.Duration)) {
	for _, by := range []time.Duration{forwards, backwards} {
		t.Run(by.String(), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { test(t, by) }) })
	}
}

// TestAStepOfTheClockEndsNoRoomEarlyOrLate: a room ends when it has stood empty for its
// timeout, however the wall clock is set meanwhile.
func TestAStepOfTheClockEndsNoRoomEarlyOrLate(t *testing.T) {
	eachStep(t, func(t *testing.T, by time.Duration) {
		m := newMachine("a")
		h, _ := setHouse(t, m)
		h.createFor("joined by nobody", 300, 30)
		h.createFor("left", 30, 300)
		h.createFor("with an agent", 300, 30)
		h.createFor("edited", 60, 30)
		h.createFor("occupied", 30, 300)
		h.createFor("for longer", 900, 30)
		h.join("left", "ann").goes()
		h.join("with an agent", "agent", anAgent)
		ann := h.join("occupied", "ann")
		began := time.Now()
		m.step(by)
		h.createFor("created after it", 298, 30)
		timeout := rooms.Timeout(300_000)
		_, err := h.Edit(t.Context(), "edited", rooms.RoomEdit{EmptyTimeout: &timeout})
		require.NoError(t, err)
		all := []string{"created after it", "edited", "joined by nobody", "left", "with an agent"}
		time.Sleep(time.Until(began.Add(297 * time.Second)))
		for _, name := range all {
			h.one(name)
		}
		time.Sleep(5 * time.Second)
		for _, name := range all {
			h.none(name)
		}
		h.one("occupied")
		ann.goes()
		h.openFor("occupied", 5*time.Minute)
		m.step(-by)
		h.openFor("for longer", time.Until(began.Add(15*time.Minute)))
		require.Len(t, h.log(log.RoomFinished), len(all)+2)
	})
}

// TestAStepOfTheClockAndTheProcess: it does not matter whether the process that saw the clock
// being set goes on, nor whether any saw it, if the machine tells how long it runs.
func TestAStepOfTheClockAndTheProcess(t *testing.T) {
	then := map[string]struct {
		known  bool // also where a machine does not tell how long it runs
		happen func(h *house, m *machine, full *atomic.Bool, by time.Duration)
	}{
		"it restarts at once": {false, func(h *house, m *machine, _ *atomic.Bool, by time.Duration) {
			m.step(by)
			h.restart(m.runs)
		}},
		"it restarts later": {true, func(h *house, m *machine, _ *atomic.Bool, by time.Duration) {
			m.step(by)
			time.Sleep(10 * time.Second)
			h.restart(m.runs)
		}},
		"it can write nothing any more": {false, func(h *house, m *machine, full *atomic.Bool, by time.Duration) {
			full.Store(true)
			m.step(by)
			time.Sleep(10 * time.Second)
			h.close()
			full.Store(false)
			h.open(m.runs)
		}},
		"it can write nothing for a while": {true, func(h *house, m *machine, full *atomic.Bool, by time.Duration) {
			full.Store(true)
			m.step(by)
			time.Sleep(10 * time.Second)
			full.Store(false)
			time.Sleep(6 * time.Second)
			h.restart(m.runs)
		}},
		"it does not run meanwhile": {false, func(h *house, m *machine, _ *atomic.Bool, by time.Duration) {
			h.close()
			m.step(by)
			h.open(m.runs)
		}},
		"the clock cannot be written down by the next one": {true, func(h *house, m *machine, full *atomic.Bool, by time.Duration) {
			h.close()
			full.Store(true)
			h.open(m.runs)
			full.Store(false)
			time.Sleep(6 * time.Second)
			m.step(by)
			time.Sleep(6 * time.Second)
			h.restart(m.runs)
		}},
		"the machine boots again": {true, func(h *house, m *machine, _ *atomic.Bool, by time.Duration) {
			m.step(by)
			time.Sleep(10 * time.Second)
			h.close()
			m.reboot(by)
			time.Sleep(20 * time.Second)
			h.open(m.runs)
		}},
		"the machine is lost, and another takes over": {true, func(h *house, m *machine, _ *atomic.Bool, _ time.Duration) {
			h.close()
			m.reboot(0)
			time.Sleep(10 * time.Second)
			h.open(m.runs)
		}},
	}
	for _, what := range slices.Sorted(maps.Keys(then)) {
		t.Run(what, func(t *testing.T) {
			eachStep(t, func(t *testing.T, by time.Duration) {
				m := newMachine("a")
				if by < 0 && then[what].known {
					m = newMachine("")
				}
				h, full := setHouse(t, m)
				h.createFor("tea", 300, 30)
				began := time.Now()
				then[what].happen(h, m, full, by)
				h.createFor("coffee", 330, 30)
				later := time.Now()
				h.openFor("tea", time.Until(began.Add(5*time.Minute)))
				h.openFor("coffee", time.Until(later.Add(330*time.Second)))
			})
		})
	}
}

// TestAClockThatIsSetRightAfterTheBoot: what was written before the boot was right, and what
// was written since by a wrong clock meant time that passes. Neither ends early or late, then
// or after another boot.
func TestAClockThatIsSetRightAfterTheBoot(t *testing.T) {
	for name, wrong := range map[string]time.Duration{"behind": -2 * time.Hour, "ahead": time.Hour} {
		for _, again := range []string{"", "restart", "boot", "boot with a wrong clock"} {
			t.Run(name+" "+again, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newMachine("a")
					h, _ := setHouse(t, m)
					began := time.Now()
					h.createFor("old", 3*3600, 30)
					time.Sleep(10 * time.Second)
					h.createFor("old too", 3*3600+60, 30)
					h.createFor("old with an agent", 3*3600, 30)
					h.join("old with an agent", "agent", anAgent)
					time.Sleep(10 * time.Minute)
					h.close()
					m.reboot(wrong)
					h.open(m.runs)
					h.join("old with an agent", "agent", anAgent)
					time.Sleep(10 * time.Second)
					booted := time.Now()
					h.createFor("new", 3*3600, 30)
					m.step(-wrong)
					time.Sleep(20 * time.Second)
					switch again {
					case "restart":
						h.restart(m.runs)
					case "boot":
						h.close()
						m.reboot(0)
						h.open(m.runs)
					case "boot with a wrong clock":
						h.close()
						m.reboot(wrong)
						h.open(m.runs)
						m.step(-wrong)
					}
					h.join("old with an agent", "agent", anAgent)
					require.WithinDuration(t, began.Add(3*time.Hour), h.endsAt("old"), 2*time.Second)
					require.WithinDuration(t, booted.Add(3*time.Hour), h.endsAt("new"), 2*time.Second)
					h.openFor("old", time.Until(began.Add(3*time.Hour)))
					h.openFor("old with an agent", time.Until(began.Add(3*time.Hour+10*time.Second)))
					h.openFor("old too", time.Until(began.Add(3*time.Hour+70*time.Second)))
					h.openFor("new", time.Until(booted.Add(3*time.Hour)))
				})
			})
		}
	}
}

// endsAt is when the open room ends, as the API tells it.
func (h *house) endsAt(name string) time.Time {
	time.Sleep(6 * time.Second) // the clock is looked at
	r := h.Now().InWallTime(h.openRoom(name))
	return time.UnixMilli(r.ExpiresMs)
}

// TestTimeWhileTheMachineIsSuspended counts.
func TestTimeWhileTheMachineIsSuspended(t *testing.T) {
	for name, prepare := range map[string]func(h *house){
		"idle rooms":           func(*house) {},
		"a room with an agent": func(h *house) { h.join("tea", "agent", anAgent) },
		"after a step":         func(h *house) { time.Sleep(time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMachine("a")
				h, _ := setHouse(t, m)
				h.createFor("tea", 3600, 30)
				h.createFor("coffee", 3*3600, 30)
				began := time.Now()
				prepare(h)
				if name == "after a step" {
					m.step(-2 * time.Hour)
				}
				time.Sleep(time.Minute)
				h.one("tea")
				m.suspended.Add(int64(2 * time.Hour))
				time.Sleep(6 * time.Second)
				h.none("tea")
				h.openFor("coffee", time.Hour-time.Since(began))
			})
		})
	}
}

// TestWhatIsShownAfterAStep: times of open rooms are shown by the wall clock as it is set, and
// those of rooms that have ended as it was set then.
func TestWhatIsShownAfterAStep(t *testing.T) {
	eachStep(t, func(t *testing.T, by time.Duration) {
		m := newMachine("a")
		h, _ := setHouse(t, m)
		h.createFor("tea", 600, 30)
		h.createFor("closed", 3600, 30)
		began := m.wall()
		require.WithinDuration(t, began.Add(10*time.Minute), h.endsAt("tea"), 0)
		m.step(by)
		require.WithinDuration(t, began.Add(by+10*time.Minute), h.endsAt("tea"), time.Second)
		require.Equal(t, h.endsAt("tea"), h.endsAt("tea"), "as time passes")
		require.NoError(t, h.Delete(t.Context(), "closed"))
		time.Sleep(10 * time.Minute)
		m.step(-by)
		time.Sleep(6 * time.Second)
		all, err := h.store.ListRooms(t.Context(), rooms.RoomQuery{State: rooms.RoomsEnded, Limit: 10})
		require.NoError(t, err)
		require.Len(t, all, 2)
		for i := range all {
			r := h.Now().InWallTime(all[i])
			require.WithinDuration(t, began.Add(by), time.UnixMilli(r.EmptySinceMs), time.Second, r.Name)
			if r.Name == "tea" {
				require.WithinDuration(t, began.Add(by+10*time.Minute), time.UnixMilli(r.ExpiresMs), time.Second)
				require.WithinDuration(t, began.Add(by+10*time.Minute), time.UnixMilli(r.EndedMs), 2*time.Second)
			}
		}
	})
}

// TestAStepOfTheClockAndADivision: people are called back when their time is over, and see
// until when that is.
func TestAStepOfTheClockAndADivision(t *testing.T) {
	for name, happen := range map[string]func(h *house, m *machine, by time.Duration){
		"a step":    func(_ *house, m *machine, by time.Duration) { m.step(by) },
		"a restart": func(h *house, m *machine, by time.Duration) { m.step(by); h.restart(m.runs) },
		"a clock that is set right after a boot": func(h *house, m *machine, _ time.Duration) {
			h.close()
			m.reboot(-2 * time.Hour) // were it ahead, their time would be over when the process starts
			time.Sleep(2 * time.Minute)
			h.open(m.runs)
			m.step(2 * time.Hour)
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachStep(t, func(t *testing.T, by time.Duration) {
				m := newMachine("a")
				h, _ := setHouse(t, m)
				for _, who := range []string{"ann", "bob"} {
					h.join("tea", who)
				}
				_, err := h.Divide(t.Context(), "tea", []rooms.Breakout{{Title: "one", Assigned: []string{"bob"}}})
				require.NoError(t, err)
				_, err = h.SendOut(t.Context(), "tea", 10*time.Minute)
				require.NoError(t, err)
				began := time.Now()
				happen(h, m, by)
				h.join("tea", "ann")
				time.Sleep(10 * time.Second)
				until, left := h.openRoom("tea").Config.Division.Limit(h.Now())
				require.WithinDuration(t, m.wall().Add(left), time.UnixMilli(until), time.Second)
				require.InDelta(t, time.Until(began.Add(10*time.Minute)).Seconds(), left.Seconds(), 1)
				time.Sleep(time.Until(began.Add(597 * time.Second)))
				require.True(t, h.openRoom("tea").Config.Division.Open())
				time.Sleep(6 * time.Second)
				require.False(t, h.openRoom("tea").Config.Division.Open())
			})
		})
	}
}

// TestAStepOfTheClockAndAJob: a job that waits for a worker is due when its time has come, and
// soon after a boot, whatever the clock shows then.
func TestAStepOfTheClockAndAJob(t *testing.T) {
	eachStep(t, func(t *testing.T, by time.Duration) {
		m := newMachine("a")
		h, _ := setHouse(t, m, withWorkers)
		h.createFor("tea", 900, 30)
		h.join("tea", "ann")
		_, err := h.CreateDispatch(t.Context(), &livekit.CreateAgentDispatchRequest{Room: "tea", AgentName: "scribe"})
		require.NoError(t, err)
		job, err := h.store.ListJobs(t.Context(), rooms.JobCursor{}, 1)
		require.NoError(t, err)
		due := func() bool {
			due, _, err := h.store.DueJobs(t.Context(), job[0].Kind, h.Now().Ms, 1)
			require.NoError(t, err)
			return len(due) > 0
		}
		require.True(t, due())
		require.NoError(t, h.PostponeJob(t.Context(), "tea", job[0].ID, 30*time.Second))
		began := time.Now()
		m.step(by)
		time.Sleep(time.Until(began.Add(29 * time.Second)))
		require.False(t, due())
		time.Sleep(2 * time.Second)
		require.True(t, due())

		require.NoError(t, h.PostponeJob(t.Context(), "tea", job[0].ID, 30*time.Second))
		h.close()
		m.reboot(by - 2*time.Hour)
		h.open(m.runs, withWorkers)
		time.Sleep(61 * time.Second)
		require.True(t, due())
	})
}

// TestAStepOfTheClockAndOneWhoReturns: a client that lost its connection a moment ago may come
// back into a room that was locked meanwhile.
func TestAStepOfTheClockAndOneWhoReturns(t *testing.T) {
	eachStep(t, func(t *testing.T, by time.Duration) {
		m := newMachine("a")
		h, _ := setHouse(t, m)
		h.join("tea", "bob")
		ann := h.join("tea", "ann")
		locked := true
		_, err := h.Edit(t.Context(), "tea", rooms.RoomEdit{Locked: &locked})
		require.NoError(t, err)
		ann.Participant.Leave(livekit.DisconnectReason_SIGNAL_CLOSE)
		ann.Sync()
		m.step(by)
		h.join("tea", "ann", func(r *rooms.JoinRequest) { r.Session = ann.SID() })
	})
}

// TestDamagedSettingsKeepNoClockFromGoingOn: a boot moves what it can read.
func TestDamagedSettingsKeepNoClockFromGoingOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine("a")
		h, _ := setHouse(t, m)
		h.createFor("tea", 3600, 30)
		began := time.Now()
		time.Sleep(time.Second)
		h.close()
		m.reboot(0)
		h.open(m.runs)
		m.step(2 * time.Minute)
		time.Sleep(10 * time.Second)
		h.close()
		h.damage(`UPDATE room SET config = '{"division":'`)
		m.reboot(2 * time.Minute)
		h.open(m.runs)
		h.openFor("tea", time.Until(began.Add(58*time.Minute))) // it went by the wall clock
	})
}
