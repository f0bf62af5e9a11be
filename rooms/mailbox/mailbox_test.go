package mailbox_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"parlor/rooms/mailbox"
)

// TestNothingIsLostAndEachKeepsItsOrder while many post, and one takes as it is woken.
func TestNothingIsLostAndEachKeepsItsOrder(t *testing.T) {
	const posters, each = 8, 2000
	type letter struct{ from, n int }
	b := mailbox.New[letter]()
	var all sync.WaitGroup
	for from := range posters {
		all.Go(func() {
			for n := range each {
				if n%3 == 0 {
					b.PostAnyway(letter{from, n})
				} else if !b.Post(letter{from, n}) {
					t.Error("refused")
				}
			}
		})
	}
	var next [posters]int
	take := func(letters []letter) {
		for _, l := range letters {
			require.Equal(t, next[l.from], l.n)
			next[l.from]++
		}
	}
	done := func() bool {
		for _, n := range next {
			if n < each {
				return false
			}
		}
		return true
	}
	for !done() {
		<-b.Wake()
		for b.Len() > 0 {
			some, closed := b.TakeSome(func(waiting []letter) int { return min(len(waiting), 3) })
			require.False(t, closed)
			take(some)
			take(b.Take())
		}
	}
	all.Wait()
}

func TestABoxRefusesWhatItSaysItDoes(t *testing.T) {
	b := mailbox.New[int]()
	require.True(t, b.PostWithin(1, 1))
	require.False(t, b.PostWithin(2, 1))
	require.False(t, b.CloseIfEmpty(), "something waits")
	require.True(t, b.Post(3))
	<-b.Wake()
	b.Close()
	<-b.Wake() // the owner is to know
	require.False(t, b.Post(4))
	b.PostAnyway(5)
	taken, closed := b.TakeSome(func(waiting []int) int { return len(waiting) - 1 })
	require.True(t, closed)
	require.Equal(t, []int{1, 3}, taken)
	require.Equal(t, []int{5}, b.Take())
	require.True(t, b.CloseIfEmpty())
}
