package media

import "sync"

// mostResting bounds the goroutines of [workers] that wait for a task.
const mostResting = 4

// workers run short tasks. A goroutine stays for further tasks, because a new one would
// first have to grow its stack for each, which costs more than small tasks themselves.
// There is no bound on the tasks that run at once: a task may wait for another.
type workers struct {
	next chan func() // to a goroutine that rests
	done chan struct{}
	all  sync.WaitGroup

	mu      sync.Mutex // guards the following
	resting int
}

// newWorkers makes workers. end must be called, after the last run.
func newWorkers() *workers {
	return &workers{next: make(chan func()), done: make(chan struct{})}
}

// run starts a task.
func (w *workers) run(task func()) {
	select {
	case w.next <- task:
	default:
		w.all.Go(func() { w.work(task) })
	}
}

// work runs tasks until enough other goroutines rest.
func (w *workers) work(task func()) {
	for {
		task()
		if !w.rest() {
			return
		}
		select {
		case task = <-w.next:
			w.rise()
		case <-w.done:
			return
		}
	}
}

// rest reports whether the caller may wait for a task.
func (w *workers) rest() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.resting == mostResting {
		return false
	}
	w.resting++
	return true
}

func (w *workers) rise() {
	w.mu.Lock()
	w.resting--
	w.mu.Unlock()
}

// end waits for the tasks and ends the goroutines.
func (w *workers) end() {
	close(w.done)
	w.all.Wait()
}
