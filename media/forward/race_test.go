//go:build race

package forward

// underRace: under the race detector sync.Pool drops elements at random, so allocations
// cannot be counted.
const underRace = true
