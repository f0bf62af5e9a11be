package api_test

import (
	"fmt"
	"net/url"
	"strconv"
	"sync"
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

type trackJSON struct {
	SID   string
	Muted bool
}

type mutedJSON struct {
	Tracks []struct {
		Identity string
		Track    trackJSON
	}
}

func TestMuteARoom(t *testing.T) {
	h := open(t)
	ada, host := h.mustJoin("r", "ada"), h.mustJoin("r", "host")
	sid := ada.publish()
	host.publish()
	resp, body := h.server("POST", "/v1/rooms/r/mute", `{"sources":["microphone"],"except":["host"],"hold":true}`)
	require.Equal(t, 200, resp.StatusCode, body)
	muted := read[mutedJSON](t, body)
	require.Len(t, muted.Tracks, 1)
	require.Equal(t, "ada", muted.Tracks[0].Identity)
	require.Equal(t, trackJSON{sid, true}, muted.Tracks[0].Track)

	type held struct {
		Hold *struct{ Sources, Except []string }
	}
	_, body = h.server("GET", "/v1/rooms/r", "")
	require.Equal(t, []string{"microphone"}, read[held](t, body).Hold.Sources)
	require.Equal(t, []string{"host"}, read[held](t, body).Hold.Except)
	ada.Mute(&livekit.MuteTrackRequest{Sid: sid})
	ada.Sync()
	type tracks struct{ Tracks []trackJSON }
	_, body = h.server("GET", "/v1/rooms/r/participants/ada/tracks", "")
	require.True(t, read[tracks](t, body).Tracks[0].Muted, "it cannot unmute itself")

	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/r/mute", ""))
	_, body = h.server("GET", "/v1/rooms/r", "")
	require.Nil(t, read[held](t, body).Hold)
	ada.Mute(&livekit.MuteTrackRequest{Sid: sid})
	ada.Sync()
	_, body = h.server("POST", "/v1/rooms/r/mute", "")
	require.Len(t, read[mutedJSON](t, body).Tracks, 2, "a body is not needed")

	require.Equal(t, 400, h.status("POST", "/v1/rooms/r/mute", `{"sources":["nose"]}`))
	require.Equal(t, 400, h.status("POST", "/v1/rooms/r/mute", `{"holds":true}`))
	require.Equal(t, 404, h.status("POST", "/v1/rooms/absent/mute", `{}`))
	require.Equal(t, 404, h.status("DELETE", "/v1/rooms/absent/mute", ""))
}

func TestParticipantsHaveETags(t *testing.T) {
	h := open(t)
	h.mustJoin("r", "ada")
	const ada = "/v1/rooms/r/participants/ada"
	resp, _ := h.server("GET", ada, "")
	tag := resp.Header.Get("ETag")
	require.Equal(t, 304, h.status("GET", ada, "", "If-None-Match", tag))
	resp, body := h.server("PATCH", ada, `{"name":"Ada"}`, "If-Match", tag)
	require.Equal(t, 200, resp.StatusCode, body)
	require.Equal(t, 412, h.status("PATCH", ada, `{"name":"Eve"}`, "If-Match", tag))
	next := resp.Header.Get("ETag")
	require.NotEqual(t, tag, next)
	require.Equal(t, 200, h.status("GET", ada, "", "If-None-Match", tag))
	require.Equal(t, 200, h.status("PATCH", ada, `{"name":"Ada L."}`, "If-Match", next))
	require.Equal(t, 412, h.status("PATCH", ada, `{"name":"x"}`, "If-Match", `"PA_other.1"`))
	require.Equal(t, 200, h.status("PATCH", ada, `{"name":"x"}`, "If-Match", "*"))
}

// TestModeratorsDoNotUndoEachOther: each changes another permission at the same time.
func TestModeratorsDoNotUndoEachOther(t *testing.T) {
	h := open(t)
	h.mustJoin("r", "ada")
	for i := range 10 {
		on := i%2 == 0
		var wg sync.WaitGroup
		for _, what := range []string{"can_publish", "can_subscribe", "can_publish_data", "hidden"} {
			wg.Go(func() {
				h.server("PATCH", "/v1/rooms/r/participants/ada", fmt.Sprintf(`{"permissions":{%q:%v}}`, what, on))
			})
		}
		wg.Wait()
		_, body := h.server("GET", "/v1/rooms/r/participants/ada", "")
		p := read[struct {
			Permissions struct {
				CanPublish     bool `json:"can_publish"`
				CanSubscribe   bool `json:"can_subscribe"`
				CanPublishData bool `json:"can_publish_data"`
				Hidden         bool
			}
		}](t, body).Permissions
		require.Equal(t, []bool{on, on, on, on}, []bool{p.CanPublish, p.CanSubscribe, p.CanPublishData, p.Hidden})
	}
}

func TestListRoomsByMetadataAndTags(t *testing.T) {
	h := open(t)
	for i := range 250 {
		body := fmt.Sprintf(`{"name":"r%03d","metadata":"{\"n\":%d,\"plan\":\"%s\"}","tags":{"team":"%s"}}`,
			i, i, []string{"free", "pro"}[i%2], []string{"red", "blue", "green"}[i%3])
		require.Equal(t, 201, h.status("POST", "/v1/rooms", body))
	}
	require.Equal(t, 201, h.status("POST", "/v1/rooms", `{"name":"plain","metadata":"weekly"}`))
	list := func(query string) (names []string, next string) {
		t.Helper()
		resp, body := h.server("GET", "/v1/rooms?"+query, "")
		require.Equal(t, 200, resp.StatusCode, body)
		page := read[struct {
			Rooms      []struct{ Name string }
			NextCursor string `json:"next_cursor"`
		}](t, body)
		for _, r := range page.Rooms {
			names = append(names, r.Name)
		}
		return names, page.NextCursor
	}
	names, _ := list("metadata=weekly")
	require.Equal(t, []string{"plain"}, names)
	names, _ = list("metadata_field=n%3D17")
	require.Equal(t, []string{"r017"}, names)
	names, _ = list("metadata_field=plan%3Dpro&metadata_field=n%3D16")
	require.Empty(t, names)

	seen := map[string]bool{}
	cursor := ""
	for {
		names, next := list("limit=7&metadata_field=plan%3Dpro&tag=team%3Dred&cursor=" + url.QueryEscape(cursor))
		for _, name := range names {
			require.False(t, seen[name], "%s comes twice", name)
			seen[name] = true
			n, err := strconv.Atoi(name[1:])
			require.NoError(t, err)
			require.Equal(t, []int{1, 0}, []int{n % 2, n % 3})
		}
		if next == "" {
			break
		}
		require.Len(t, names, 7)
		cursor = next
	}
	require.Len(t, seen, 42)
	require.Equal(t, 400, h.status("GET", "/v1/rooms?tag=red", ""))
	require.Equal(t, 400, h.status("GET", "/v1/rooms?metadata=a&metadata=b", ""))
}

// TestAgents: workers, jobs and dispatches of all rooms by pages, and the end of a dispatch.
func TestAgents(t *testing.T) {
	f := openFront(t)
	workers := []rooms.AgentWorker{
		{ID: "AW_1", Kind: rooms.AgentKind{Namespace: "eu"}, APIKey: key, Load: 0.5, Jobs: 3},
		{ID: "AW_2", Kind: rooms.AgentKind{AgentName: "scribe"}, APIKey: key, Load: 1, Full: true},
	}
	c := f.config
	c.Dashboard.Workers = func() []rooms.AgentWorker { return workers }
	h := f.house
	h.serve(c)
	for _, room := range []string{"a", "b"} {
		_, err := h.rooms.CreateDispatch(t.Context(), &livekit.CreateAgentDispatchRequest{Room: room, AgentName: "scribe", Metadata: "m"})
		require.NoError(t, err)
	}

	type page struct {
		Workers []struct {
			ID   string
			Load float64
			Full bool
			Kind struct{ Namespace, Type string }
		}
		Jobs       []struct{}
		Dispatches []struct{ ID, Room, Metadata string }
		NextCursor string `json:"next_cursor"`
	}
	_, body := h.server("GET", "/v1/agents/workers?limit=1", "")
	first := read[page](t, body)
	require.Equal(t, "AW_1", first.Workers[0].ID)
	require.Equal(t, "eu", first.Workers[0].Kind.Namespace)
	require.Equal(t, "room", first.Workers[0].Kind.Type)
	_, body = h.server("GET", "/v1/agents/workers?limit=1&cursor="+first.NextCursor, "")
	second := read[page](t, body)
	require.Equal(t, "AW_2", second.Workers[0].ID)
	require.True(t, second.Workers[0].Full)
	require.Empty(t, second.NextCursor)

	_, body = h.server("GET", "/v1/agents/jobs", "")
	require.JSONEq(t, `{"jobs":[]}`, body, "no worker takes one")
	_, body = h.server("GET", "/v1/agents/dispatches?limit=1", "")
	first = read[page](t, body)
	_, body = h.server("GET", "/v1/agents/dispatches?limit=1&cursor="+first.NextCursor, "")
	second = read[page](t, body)
	require.ElementsMatch(t, []string{"a", "b"}, []string{first.Dispatches[0].Room, second.Dispatches[0].Room})
	require.Empty(t, second.NextCursor)
	for _, list := range []string{"workers", "jobs", "dispatches"} {
		require.Equal(t, 400, h.status("GET", "/v1/agents/"+list+"?cursor=*", ""), list)
		require.Equal(t, 400, h.status("GET", "/v1/agents/"+list+"?limit=0", ""), list)
	}

	one := "/v1/rooms/" + first.Dispatches[0].Room + "/dispatches/" + first.Dispatches[0].ID
	resp, _ := h.ask("DELETE", one, h.token(admin("another")), "", "")
	require.Equal(t, 403, resp.StatusCode)
	require.Equal(t, 204, h.status("DELETE", one, ""))
	require.Equal(t, 404, h.status("DELETE", one, ""))
	_, body = h.server("GET", "/v1/agents/dispatches", "")
	require.Len(t, read[page](t, body).Dispatches, 1)
}
