package admin_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"parlor/server/admin"
)

// curious looks at the log when it is written to it.
type curious struct{ lines *admin.Lines }

func (c curious) String() string {
	_, newest, _ := c.lines.After(0, slog.LevelError)
	return fmt.Sprint("after ", newest)
}

// The newest lines of the log are kept as they are written, within bounds.
func TestLinesOfTheLogAreKept(t *testing.T) {
	lines := &admin.Lines{}
	var written bytes.Buffer
	log := slog.New(lines.Handler(slog.NewTextHandler(&written, &slog.HandlerOptions{Level: slog.LevelInfo})))
	log.Debug("not wanted")
	_, _, news := lines.After(0, slog.LevelDebug)
	log.With("room", "tea").WithGroup("").WithGroup("client").Warn("left\nthe room", "address", "127.0.0.1", "agent", `<b>"x`)
	<-news
	got, newest, _ := lines.After(0, slog.LevelDebug)
	require.Len(t, got, 1)
	require.EqualValues(t, 1, newest)
	require.Equal(t, "left\nthe room", got[0].Message)
	require.Equal(t, `room=tea client.address=127.0.0.1 client.agent="<b>\"x"`, got[0].Attrs)
	require.Equal(t, slog.LevelWarn, got[0].Level)
	require.Contains(t, written.String(), "client.address=127.0.0.1")

	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 500 {
				log.Info(fmt.Sprint(i), "long", strings.Repeat("é", 5000))
				lines.After(0, slog.LevelInfo)
			}
		})
	}
	all.Wait()
	log.Error("last", "value", curious{lines})
	got, newest, _ = lines.After(0, slog.LevelDebug)
	require.EqualValues(t, 2002, newest)
	require.Len(t, got, 1000)
	for i, one := range got {
		require.Equal(t, uint64(1003+i), one.Seq)
		require.Less(t, len(one.Attrs), 2100)
		require.True(t, utf8.ValidString(one.Attrs))
	}
	got, _, _ = lines.After(0, slog.LevelError)
	require.Len(t, got, 1)
	require.Equal(t, `value="after 2001"`, got[0].Attrs, "values are formatted while others use the log")
	got, _, _ = lines.After(2002, slog.LevelDebug)
	require.Empty(t, got)
}
