package media

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestWorkersRunTasksAndKeepFewGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorkers()
		before := runtime.NumGoroutine()
		var tasks sync.WaitGroup
		release := make(chan struct{})
		for range 20 {
			tasks.Add(1)
			w.run(func() { <-release; tasks.Done() }) // tasks that wait do not hold up others
		}
		synctest.Wait()
		require.Equal(t, before+20, runtime.NumGoroutine())
		close(release)
		tasks.Wait()
		synctest.Wait()
		require.Equal(t, before+mostResting, runtime.NumGoroutine())
		for range 100 {
			tasks.Add(1)
			w.run(tasks.Done)
			synctest.Wait()
			require.Equal(t, before+mostResting, runtime.NumGoroutine(), "a goroutine that rests takes the task")
		}
		w.end()
		synctest.Wait()
		require.Equal(t, before, runtime.NumGoroutine())
	})
}
