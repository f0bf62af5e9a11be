package rooms_test

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// keepsBlobs turns data blobs on, with LiveKit's limits.
func keepsBlobs(c *rooms.Config) {
	c.DataBlobs = true
	c.Limits.MaxBlobKey, c.Limits.MaxBlobs, c.Limits.MaxCustomEncoding = 256, 64_000, 32
}

func generic(name string) *livekit.DataBlobKey {
	return &livekit.DataBlobKey{Key: &livekit.DataBlobKey_Generic{Generic: name}}
}

func schemaKey(name string, encoding *livekit.DataTrackSchemaEncoding) *livekit.DataBlobKey {
	return &livekit.DataBlobKey{Key: &livekit.DataBlobKey_SchemaId{SchemaId: &livekit.DataTrackSchemaId{Name: name, Encoding: encoding}}}
}

var requests atomic.Uint32 // numbers of requests

// asks sends a request, and returns the answer: "ok", contents, or the reason of a refusal.
func (c *client) asks(t *testing.T, send func(request uint32)) string {
	t.Helper()
	n := requests.Add(1)
	send(n)
	var answer string
	require.Eventually(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, m := range c.messages {
			switch {
			case m.GetStoreDataBlobResponse().GetRequestId() == n:
				answer = "ok"
			case m.GetGetDataBlobResponse().GetRequestId() == n:
				answer = string(m.GetGetDataBlobResponse().Blob.Contents)
			case m.GetRequestResponse().GetRequestId() == n:
				answer = m.GetRequestResponse().Reason.String()
				require.NotEmpty(t, m.GetRequestResponse().Message)
			}
		}
		return answer != ""
	}, time.Minute, time.Millisecond)
	return answer
}

func (c *client) stores(t *testing.T, key *livekit.DataBlobKey, contents string) string {
	t.Helper()
	return c.asks(t, func(n uint32) {
		c.StoreDataBlob(&livekit.StoreDataBlobRequest{RequestId: n, Blob: &livekit.DataBlob{Key: key, Contents: []byte(contents)}})
	})
}

func (c *client) fetches(t *testing.T, identity string, key *livekit.DataBlobKey) string {
	t.Helper()
	return c.asks(t, func(n uint32) {
		c.GetDataBlob(&livekit.GetDataBlobRequest{RequestId: n, ParticipantIdentity: identity, Key: key})
	})
}

// blobRows counts the rows of data blobs, whosever they are.
func (h *house) blobRows() (n int) {
	h.t.Helper()
	db, err := sql.Open("sqlite", "file:"+h.path+"?mode=ro")
	require.NoError(h.t, err)
	defer db.Close()
	require.NoError(h.t, db.QueryRow("SELECT count(*) FROM data_blob").Scan(&n))
	return n
}

// TestDataBlobs are stored under their keys, replaced, and fetched by all in the room.
func TestDataBlobs(t *testing.T) {
	h := newHouse(t, keepsBlobs)
	ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
	json := &livekit.DataTrackSchemaEncoding{Value: &livekit.DataTrackSchemaEncoding_WellKnown{WellKnown: livekit.DataTrackSchemaEncoding_WELL_KNOWN_SCHEMA_ENCODING_JSON_SCHEMA}}
	require.Equal(t, "ok", ann.stores(t, generic("a"), "one"))
	require.Equal(t, "ok", ann.stores(t, schemaKey("a", json), "two"))
	require.Equal(t, "ok", ann.stores(t, schemaKey("a", nil), "three"))
	require.Equal(t, "one", bob.fetches(t, "ann", generic("a")))
	require.Equal(t, "two", bob.fetches(t, "ann", schemaKey("a", json)))
	require.Equal(t, "three", ann.fetches(t, "ann", schemaKey("a", nil)))
	require.Equal(t, "ok", ann.stores(t, generic("a"), "four"))
	require.Equal(t, "four", bob.fetches(t, "ann", generic("a")))
	require.Equal(t, 3, h.blobRows(), "what is acknowledged is on disk")

	require.Equal(t, "NOT_FOUND", bob.fetches(t, "ann", generic("b")))
	require.Equal(t, "NOT_FOUND", bob.fetches(t, "bob", generic("a")))
	require.Equal(t, "NOT_FOUND", bob.fetches(t, "eve", generic("a")))
	eve := h.join("tea", "eve", func(req *rooms.JoinRequest) { req.Info.Permission.Hidden = true })
	require.Equal(t, "ok", eve.stores(t, generic("a"), "secret"))
	require.Equal(t, "secret", eve.fetches(t, "eve", generic("a")))
	require.Equal(t, "NOT_FOUND", bob.fetches(t, "eve", generic("a")), "nobody is told that it is there")
	require.Equal(t, "NOT_FOUND", h.join("coffee", "kim").fetches(t, "ann", generic("a")))
	require.EqualValues(t, 5, h.Stats().DataBlobs.Missing)

	// A field that is not known here is no part of the key.
	odd := generic("a")
	odd.ProtoReflect().SetUnknown([]byte{15 << 3, 1})
	require.Equal(t, "four", bob.fetches(t, "ann", odd))
	require.Equal(t, "ok", ann.stores(t, odd, "five"))
	require.Equal(t, "five", bob.fetches(t, "ann", generic("a")))
	require.Equal(t, 4, h.blobRows())
}

func TestDataBlobsNeedThePermissionToPublishData(t *testing.T) {
	h := newHouse(t, keepsBlobs)
	mute := h.join("tea", "mute", func(r *rooms.JoinRequest) { r.Info.Permission.CanPublishData = false })
	ann := h.join("tea", "ann")
	require.Equal(t, "NOT_ALLOWED", mute.stores(t, generic("k"), "to all"))
	require.Equal(t, "NOT_FOUND", ann.fetches(t, "mute", generic("k")))
	require.Equal(t, "ok", ann.stores(t, generic("k"), "to all"))
	require.Equal(t, "to all", mute.fetches(t, "ann", generic("k")))
}

// TestDataBlobsThatAreRefused have an answer that says why, and are counted.
func TestDataBlobsThatAreRefused(t *testing.T) {
	off := newHouse(t)
	nobody := off.join("tea", "ann")
	require.Equal(t, "NOT_ALLOWED", nobody.stores(t, generic("a"), "one"))
	require.Equal(t, "NOT_ALLOWED", nobody.fetches(t, "ann", generic("a")))
	require.EqualValues(t, 2, off.Stats().DataBlobs.Off)

	h := newHouse(t, keepsBlobs)
	ann := h.join("tea", "ann")
	custom := func(name string) *livekit.DataTrackSchemaEncoding {
		return &livekit.DataTrackSchemaEncoding{Value: &livekit.DataTrackSchemaEncoding_Custom{Custom: name}}
	}
	for name, key := range map[string]*livekit.DataBlobKey{
		"none": nil, "no kind": {}, "empty": generic(""), "long": generic(strings.Repeat("a", 257)),
		"no schema": {Key: &livekit.DataBlobKey_SchemaId{}}, "nameless": schemaKey("", custom("x")),
		"long schema": schemaKey(strings.Repeat("a", 257), nil), "long encoding": schemaKey("a", custom(strings.Repeat("a", 33))),
		"empty encoding": schemaKey("a", custom("")),
	} {
		require.Equal(t, "INVALID_REQUEST", ann.stores(t, key, "one"), name)
	}
	require.Equal(t, "INVALID_REQUEST", ann.stores(t, generic("a"), ""))
	require.Equal(t, "INVALID_REQUEST", ann.asks(t, func(n uint32) { ann.StoreDataBlob(&livekit.StoreDataBlobRequest{RequestId: n}) }))
	require.Equal(t, "INVALID_REQUEST", ann.fetches(t, "ann", nil))
	require.Equal(t, "NOT_FOUND", ann.fetches(t, "", generic("a")))
	require.EqualValues(t, 12, h.Stats().DataBlobs.Invalid)
	require.Zero(t, h.blobRows())
}

// TestDataBlobsAreBounded by their size together, of which a replaced one is no part, and by
// their number.
func TestDataBlobsAreBounded(t *testing.T) {
	h := newHouse(t, keepsBlobs)
	ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
	half := strings.Repeat("x", 32_000-1)
	require.Equal(t, "ok", ann.stores(t, generic("a"), half))
	require.Equal(t, "ok", ann.stores(t, generic("b"), half))
	require.Equal(t, "LIMIT_EXCEEDED", ann.stores(t, generic("c"), "x"))
	require.Equal(t, "LIMIT_EXCEEDED", ann.stores(t, generic("b"), half+"x"))
	require.Equal(t, half, bob.fetches(t, "ann", generic("b")), "what was there stays")
	require.Equal(t, "ok", ann.stores(t, generic("b"), "x"))
	require.Equal(t, "ok", ann.stores(t, generic("c"), "x"))
	require.Equal(t, "ok", bob.stores(t, generic("a"), half), "each has its own limit")
	require.EqualValues(t, 2, h.Stats().DataBlobs.Limit)

	h = newHouse(t, keepsBlobs, func(c *rooms.Config) { c.Limits.MaxBlobs = 0 })
	ann = h.join("tea", "ann")
	for i := range 257 {
		ann.StoreDataBlob(&livekit.StoreDataBlobRequest{Blob: &livekit.DataBlob{Key: generic(fmt.Sprint(i)), Contents: []byte("x")}})
	}
	require.Equal(t, "LIMIT_EXCEEDED", ann.stores(t, generic("more"), "x"))
	require.Equal(t, "ok", ann.stores(t, generic("7"), "y"))
	require.Equal(t, 256, h.blobRows())
}

// TestDataBlobsGoAlong: through a resume, a restart, a full reconnect, and a move, and where
// their participant is shown.
func TestDataBlobsGoAlong(t *testing.T) {
	h := newHouse(t, keepsBlobs)
	ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
	require.Equal(t, "ok", ann.stores(t, generic("a"), "one"))
	h.resume("tea", "ann")
	require.Equal(t, "one", bob.fetches(t, "ann", generic("a")))

	h.restart(keepsBlobs)
	bob = h.join("tea", "bob")
	require.Equal(t, "one", bob.fetches(t, "ann", generic("a")), "it is expected back")
	_, err := h.UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{Room: "tea", Identity: "ann", Metadata: "changed"})
	require.NoError(t, err)
	ann = h.join("tea", "ann")
	require.Equal(t, "one", bob.fetches(t, "ann", generic("a")))
	require.Equal(t, "ok", ann.stores(t, generic("b"), "two"))

	before := ann.SID()
	ann.NeedsReconnect("a test")
	ann.Sync()
	ann = h.join("tea", "ann")
	require.NotEqual(t, before, ann.SID())
	require.Equal(t, "two", bob.fetches(t, "ann", generic("b")))
	ann = h.join("tea", "ann") // in place of a client that is there still
	require.Equal(t, "one", bob.fetches(t, "ann", generic("a")))
	require.Equal(t, 2, h.blobRows())

	// What the client stores has precedence over what another client stored before it.
	require.Equal(t, "ok", ann.stores(t, generic("a"), "three"))
	require.Equal(t, "ok", ann.stores(t, generic("c"), strings.Repeat("x", 63_990)))
	require.Equal(t, "NOT_FOUND", bob.fetches(t, "ann", generic("b")))
	require.Equal(t, "three", bob.fetches(t, "ann", generic("a")))
	require.Equal(t, "LIMIT_EXCEEDED", ann.stores(t, generic("d"), strings.Repeat("x", 200)))
	require.Equal(t, 2, h.blobRows())

	kim, eve := h.join("milk", "kim"), h.join("coffee", "eve")
	require.NoError(t, h.Forward(t.Context(), &livekit.ForwardParticipantRequest{Room: "tea", Identity: "ann", DestinationRoom: "coffee"}))
	require.Eventually(t, func() bool { return eve.fetches(t, "ann", generic("a")) == "three" }, time.Minute, time.Millisecond)
	require.Equal(t, "ok", ann.stores(t, generic("a"), "four"))
	require.Eventually(t, func() bool { return eve.fetches(t, "ann", generic("a")) == "four" }, time.Minute, time.Millisecond)
	require.NoError(t, h.Move(t.Context(), &livekit.MoveParticipantRequest{Room: "tea", Identity: "ann", DestinationRoom: "milk"}))
	require.Equal(t, "four", kim.fetches(t, "ann", generic("a")))
	require.Equal(t, "NOT_FOUND", bob.fetches(t, "ann", generic("a")))
	require.Equal(t, "ok", ann.stores(t, generic("a"), "five"))
	h.restart(keepsBlobs)
	require.Equal(t, "five", h.join("milk", "kim").fetches(t, "ann", generic("a")))
	require.Equal(t, 2, h.blobRows())
}

// TestDataBlobsEndWithTheirSession, however it ends.
func TestDataBlobsEndWithTheirSession(t *testing.T) {
	h := newHouse(t, keepsBlobs)
	bob := h.join("tea", "bob")
	for _, end := range []func(ann *client){
		func(ann *client) { ann.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED); ann.Sync() },
		func(*client) {
			require.NoError(t, h.Remove(t.Context(), &livekit.RoomParticipantIdentity{Room: "tea", Identity: "ann"}))
		},
		func(*client) {
			h.restart(keepsBlobs)
			require.NoError(t, h.Remove(t.Context(), &livekit.RoomParticipantIdentity{Room: "tea", Identity: "ann"}))
			bob = h.join("tea", "bob")
		},
	} {
		ann := h.join("tea", "ann")
		require.Equal(t, "ok", ann.stores(t, generic("a"), "one"))
		end(ann)
		require.Equal(t, "NOT_FOUND", bob.fetches(t, "ann", generic("a")))
		h.join("tea", "ann")
		require.Equal(t, "NOT_FOUND", bob.fetches(t, "ann", generic("a")))
		h.flush("tea")
		require.Zero(t, h.blobRows())
	}
	require.Equal(t, "ok", bob.stores(t, generic("a"), "one"))
	require.NoError(t, h.Delete(t.Context(), "tea"))
	require.Zero(t, h.blobRows())
}

// TestDataBlobsThatCannotBeWritten are refused, and nobody gets them; what was stored before
// holds.
func TestDataBlobsThatCannotBeWritten(t *testing.T) {
	var fails atomic.Bool
	h := &house{t: t, path: t.TempDir() + "/parlor.db", allow: func() error {
		if fails.Load() {
			return errors.New("the disk is full")
		}
		return nil
	}}
	h.open(keepsBlobs)
	t.Cleanup(h.close)
	ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
	require.Equal(t, "ok", ann.stores(t, generic("a"), "one"))
	fails.Store(true)
	require.Equal(t, "UNCLASSIFIED_ERROR", ann.stores(t, generic("a"), "two"))
	require.Equal(t, "UNCLASSIFIED_ERROR", ann.stores(t, generic("b"), strings.Repeat("x", 63_990)))
	require.Equal(t, "one", bob.fetches(t, "ann", generic("a")))
	require.Equal(t, "NOT_FOUND", bob.fetches(t, "ann", generic("b")))
	fails.Store(false)
	require.Eventually(t, func() bool { return ann.stores(t, generic("c"), "three") == "ok" }, time.Minute, time.Millisecond)
	require.Equal(t, "one", bob.fetches(t, "ann", generic("a")))
	require.NotZero(t, h.Stats().DataBlobs.Unwritten)
	h.restart(keepsBlobs)
	bob = h.join("tea", "bob")
	require.Equal(t, "one", bob.fetches(t, "ann", generic("a")))
	require.Equal(t, "three", bob.fetches(t, "ann", generic("c")))
}

// TestDataBlobsCostTheirClient as much of its pace as what it moves is worth.
func TestDataBlobsCostTheirClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, keepsBlobs)
		ann := h.join("tea", "ann")
		require.Equal(t, "ok", ann.stores(t, generic("a"), strings.Repeat("x", 60_000)))
		time.Sleep(time.Minute)
		for range 20 {
			ann.GetDataBlob(&livekit.GetDataBlobRequest{ParticipantIdentity: "ann", Key: generic("a")})
		}
		ann.Sync()
		began := time.Now()
		ann.Pace(t.Context())
		require.Greater(t, time.Since(began), time.Second, "300 changes' worth, of which 100 may come at once")
	})
}

// TestDataBlobsAreBoundedInTime, for a participant and for a room, also if the participant
// begins again, and if nobody was in the room meanwhile. What is stored already costs nothing.
func TestDataBlobsAreBoundedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, keepsBlobs, func(c *rooms.Config) { c.Limits.MaxBlobs, c.Limits.BlobRate = 4_000, 1_000 })
		stored := func(c *client, most int) (n int) {
			for n < most && c.stores(t, generic("a"), strings.Repeat("x", 1_000-129+n%2)) == "ok" {
				n++
			}
			return n
		}
		ann := h.join("tea", "ann")
		n := stored(ann, 100)
		require.Contains(t, []int{15, 16}, n, "16 minutes' worth at once")
		for range 100 {
			require.Equal(t, "ok", ann.stores(t, generic("a"), strings.Repeat("x", 1_000-129+(n-1)%2)), "it is there")
		}
		time.Sleep(10 * time.Minute)
		require.LessOrEqual(t, stored(ann, 100), 11, "one a minute in the long run")
		require.NotZero(t, h.Stats().DataBlobs.Rate)

		ann = h.join("tea", "ann")
		require.Equal(t, "LIMIT_EXCEEDED", ann.stores(t, generic("b"), strings.Repeat("y", 1_000)), "another session has no allowance of its own")
		require.Equal(t, "NOT_FOUND", ann.fetches(t, "ann", generic("a")), "nor is anything written again")
		require.Equal(t, "ok", h.join("coffee", "ann").stores(t, generic("a"), "another room"))

		all := 0
		for i := range 40 {
			all += stored(h.join("tea", fmt.Sprint("guest ", i)), 100)
		}
		require.Less(t, all, 17*16, "the room's")
		require.Greater(t, all, 13*16)
		time.Sleep(20 * time.Minute) // so that the guest of below has an allowance of its own again
		for i := range 40 {
			stored(h.join("tea", fmt.Sprint("guest ", 40+i)), 100)
		}
		require.Equal(t, "LIMIT_EXCEEDED", h.join("tea", "late").stores(t, generic("a"), strings.Repeat("x", 1_000)), "the room has no allowance left")
		guest := h.join("tea", "guest 0") // another session
		require.NotEqual(t, "NOT_FOUND", guest.fetches(t, "guest 0", generic("a")), "what others store costs nobody what they have")
	})
}
