package agents_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"

	"parlor/rooms"
	eventlog "parlor/rooms/log"
)

var (
	crashes   = flag.Int("crashes", 20, "how often the server crashes with agents at work")
	crashSeed = flag.Uint64("crash-seed", 0, "seed of the order of things; 0 = by chance")
)

// longOver is in how many rounds on end a job was found to be over before its agent tries no
// more. A crash can bring a job back whose end was not written, but not after that.
const longOver = 4

// attempt is a job that was given, and whose agent tries to join.
type attempt struct {
	*livekit.JobAssignment
	over  int // rounds on end in which the job was over
	round int // the last of them
}

// TestOneAgentOverCrashes crashes the server repeatedly while workers connect and
// disconnect, agents join, and agents of ended jobs try to: a room never has two agents,
// no job is given or started twice, and in the end each room with a request has its agent.
func TestOneAgentOverCrashes(t *testing.T) {
	seed := *crashSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-crash-seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, seed))
	h := newHouse(t, func(h *house) { h.grace, h.join = 60*time.Millisecond, 60*time.Millisecond })
	var names []string
	ask := func() {
		name := fmt.Sprint("room-", len(names))
		names = append(names, name)
		_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{
			Name: name, EmptyTimeout: 3600, Agents: []*livekit.RoomAgentDispatch{{AgentName: "n"}},
		})
		require.NoError(t, err)
	}
	var workers []*worker
	given := map[string]bool{} // all jobs that workers ever got
	var tries []*attempt
	round := 0
	collect := func() {
		for _, w := range workers {
			for _, a := range w.takeJobs() {
				require.False(t, given[a.Job.Id], "a job was given twice")
				given[a.Job.Id] = true
				tries = append(tries, &attempt{JobAssignment: a})
			}
		}
	}
	check := func() {
		t.Helper()
		for _, name := range names {
			require.LessOrEqual(t, len(h.agentsIn(name)), 1, name)
			require.LessOrEqual(t, h.jobs(name)[running], 1, name)
		}
	}
	// Some agents that may join do so, in any order; the others are refused.
	join := func(share int) {
		collect()
		chance.Shuffle(len(tries), func(i, j int) { tries[i], tries[j] = tries[j], tries[i] })
		for _, a := range tries {
			if chance.IntN(100) >= share {
				continue
			}
			_, err := h.agent(a.JobAssignment)
			if err != nil {
				require.Contains(t, []rooms.Code{rooms.Denied, rooms.Unavailable, rooms.NotFound, rooms.Exists}, rooms.ErrorCode(err), err)
			}
			switch {
			case rooms.ErrorCode(err) != rooms.Denied:
				a.over = 0
			case a.over == 0 || a.round != round:
				a.over, a.round = a.over+1, round
			}
		}
		check()
	}
	ask()
	for ; round < *crashes; round++ {
		if round%4 == 0 {
			ask()
		}
		for range chance.IntN(3) {
			workers = append(workers, h.worker(named("n")))
		}
		join(50)
		if chance.IntN(2) == 0 { // long enough that some are given up
			time.Sleep(time.Duration(chance.IntN(120)) * time.Millisecond)
			join(50)
		}
		if len(workers) > 0 && chance.IntN(3) == 0 {
			workers[chance.IntN(len(workers))].die()
		}
		h.crash()
		for _, w := range workers {
			<-w.over
		}
		collect()
		workers = nil
		tries = slices.DeleteFunc(tries, func(a *attempt) bool { return a.over >= longOver })
		check()
	}
	h.grace, h.join = time.Second, patience // from here on there is enough time
	h.crash()
	w := h.worker(named("n"))
	workers = append(workers, w)
	for _, name := range names {
		h.eventually(name+" has no agent", func() bool { join(100); return len(h.agentsIn(name)) == 1 && h.jobs(name)[running] == 1 })
	}
	started := map[string]bool{}
	for after := int64(0); ; {
		page, err := h.store.Events(t.Context(), eventlog.Query{After: after, Types: []string{eventlog.JobStarted}, Limit: 500})
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			after = e.Seq
			var body livekit.WebhookEvent
			require.NoError(t, protojson.Unmarshal(e.Body, &body))
			require.False(t, started[body.Job.Id], "a job has begun twice")
			started[body.Job.Id] = true
		}
	}
	for id := range given {
		require.True(t, started[id], "a worker was given a job that is not on disk")
	}
	t.Logf("%d crashes, %d rooms, %d jobs, of which %d are not long over", *crashes, len(names), len(started), len(tries))
}
