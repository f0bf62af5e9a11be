//go:build !race

package forward

const underRace = false
