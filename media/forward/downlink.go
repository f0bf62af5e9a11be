package forward

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"
)

// Downlink is what is known of the path to one subscriber, shared by the
// forwarders to it. Its methods may be called concurrently.
type Downlink struct {
	transport atomic.Uint32 // last transport-wide sequence number

	mu         sync.Mutex // guards the following
	forwarders []*Forwarder
	estimate   float64
}

// NewDownlink makes a downlink of which nothing is known.
func NewDownlink() *Downlink { return &Downlink{} }

func (d *Downlink) add(f *Forwarder) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forwarders = append(d.forwarders, f)
}

func (d *Downlink) remove(f *Forwarder) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.forwarders {
		if d.forwarders[i] == f {
			d.forwarders = append(d.forwarders[:i], d.forwarders[i+1:]...)
			return
		}
	}
}

func (d *Downlink) nextTransport(int) uint16                       { return uint16(d.transport.Add(1)) }
func (d *Downlink) reallocate()                                    {}
func (d *Downlink) estimated(bitrate float64, _ time.Time)         {}
func (d *Downlink) feedback(_ *rtcp.TransportLayerCC, _ time.Time) {}
func (d *Downlink) lost(_ float64, _ time.Time)                    {}
func (d *Downlink) tick(_ time.Time)                               {}
func (d *Downlink) bandwidth() uint64                              { return 0 }
