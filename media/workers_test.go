package media

import (
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestWorkersKeepTheirGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorkers()
		var tasks sync.WaitGroup
		release := make(chan struct{})
		for range 20 {
			tasks.Add(1)
			w.run(func() { <-release; tasks.Done() }) // tasks that wait do not hold up others
		}
		close(release)
		tasks.Wait()
		synctest.Wait()
		require.Equal(t, mostResting, w.resting)
		ran := map[string]bool{} // by goroutine
		for range 100 {
			w.run(func() {
				name, _, _ := strings.Cut(stackHead(), "[")
				ran[name] = true
			})
			synctest.Wait()
			require.Equal(t, mostResting, w.resting)
		}
		require.LessOrEqual(t, len(ran), mostResting, "a goroutine that rests takes the task")
		w.end()
		synctest.Wait()
	})
}

// stackHead begins with the goroutine's number.
func stackHead() string {
	b := make([]byte, 64)
	return string(b[:runtime.Stack(b, false)])
}
