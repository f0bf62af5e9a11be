//go:build race

package forward

// underRace: sync.Pool forgets at random under the race detector, so that
// allocations cannot be counted.
const underRace = true
