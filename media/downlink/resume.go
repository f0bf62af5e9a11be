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

// Unreported notes that the receiver no longer reports on a stream. If it reports on no other, its
// other reports are used.
func (d *Path) Unreported(at time.Time) {
	if d.Estimates() {
		return
	}
	d.mu.Lock()
	d.control.Unreported(d.Since(at))
	d.mu.Unlock()
	d.divide(at)
	d.serve(at)
}
