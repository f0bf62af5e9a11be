package downlink

import (
	"sync"

	"parlor/media/downlink/allocate"
	"parlor/media/downlink/feedback"
	"parlor/media/downlink/sent"
)

// reading is the memory in which one report is taken.
type reading struct {
	report  feedback.Report
	streams feedback.StreamReport
	results []sent.Result
}

// readings are shared by all paths. Each has ten to twenty reports a second, and between two
// of them memory of its own would have left the processor's cache.
var readings = sync.Pool{New: func() any { return new(reading) }}

// scratch is the memory of one division of a bandwidth.
type scratch struct {
	streams   []Stream
	tracks    []allocate.Track
	allocator allocate.Allocator
}

// scratches are shared by all paths. A path divides for microseconds, and seldom, but one
// with many streams needs much memory for it.
var scratches = sync.Pool{New: func() any { return new(scratch) }}
