package downlink

import "time"

// Resume divides again because streams may begin again, or more of them may be wanted. They
// get what is left of the estimate at once.
func (d *Path) Resume(at time.Time) {
	if d == nil {
		return
	}
	d.mu.Lock()
	d.control.Resume(d.Since(at))
	d.mu.Unlock()
	d.divide(at)
	d.serve(at)
}
