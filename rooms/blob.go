package rooms

import (
	"bytes"
	"fmt"
	"maps"
	"time"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"
)

// mostDataBlobs is how many blobs a participant can have stored, beside the bounds of
// [Limits].
const mostDataBlobs = 256

// DataBlob is the row of a blob that a participant has stored for others to fetch. It
// ends with its session.
type DataBlob struct {
	Session  string // SID
	Key      []byte // livekit.DataBlobKey, marshalled
	Contents []byte // nil deletes the blob
}

// dataBlobs are a participant's blobs by their marshalled keys. A map of them is never
// changed.
type dataBlobs map[string]dataBlob

type dataBlob struct {
	*livekit.DataBlob // never changed
	// inherited: it was stored in the session before this one. Its client may not know of
	// it, so it gives way to what the client stores.
	inherited bool
}

// length is what a blob with that key counts against the limit.
func (b dataBlob) length() int { return keyLength(b.Key) + len(b.Contents) }

func keyLength(k *livekit.DataBlobKey) int {
	schema := k.GetSchemaId()
	return len(k.GetGeneric()) + len(schema.GetName()) + len(schema.GetEncoding().GetCustom())
}

// known is the key without fields that are not known here, and its marshalled form.
func known(k *livekit.DataBlobKey) (*livekit.DataBlobKey, string) {
	clean := proto.CloneOf(k)
	clean.ProtoReflect().SetUnknown(nil)
	if schema := clean.GetSchemaId(); schema != nil {
		schema.ProtoReflect().SetUnknown(nil)
		if schema.Encoding != nil {
			schema.Encoding.ProtoReflect().SetUnknown(nil)
		}
	}
	b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(clean) // it was unmarshalled, so it is valid
	return clean, string(b)
}

// StoreDataBlob is the client's wish to store a blob, or to replace one. It is answered
// when the blob is on disk.
func (c *Client) StoreDataBlob(req *livekit.StoreDataBlobRequest) {
	c.post(func(r *Room, p *Participant) {
		p.payBlob(req.GetBlob().GetContents())
		if why, message := r.refusedBlob(p, req.GetBlob()); message != "" {
			r.refuseBlob(p, req.RequestId, why, message)
			return
		}
		key, name := known(req.Blob.Key)
		if p.hasBlob(name, req.Blob.Contents) {
			p.outlet.Send(blobStored(req.RequestId, key))
			return
		}
		blobs, rows := p.withBlob(name, &livekit.DataBlob{Key: key, Contents: req.Blob.Contents})
		if !r.rooms.fitBlobs(blobs) {
			r.refuseBlob(p, req.RequestId, livekit.RequestResponse_LIMIT_EXCEEDED, "the participant's data blobs are too many, or too large together")
			return
		}
		if !p.mayWriteBlobs(len(req.Blob.Contents) + keyLength(key) + blobOverhead) {
			r.rooms.blobs.rate.Add(1)
			p.refuseBlob(req.RequestId, livekit.RequestResponse_LIMIT_EXCEEDED, fmt.Sprintf(
				"the participant, or its room, stores too many data blobs in too short a time: in the long run it may store %d bytes a minute", r.rooms.cfg.Limits.BlobRate))
			return
		}
		// Changes are written in their order, and none after one that fails: what p has
		// when this one is written is blobs.
		p.blobsAhead = blobs
		r.requestChange(&Change{Kind: ChangeUpdate, Blobs: rows}, func(_ Outcome, err error) {
			if err != nil {
				p.blobsAhead = p.blobs
				r.refuseBlob(p, req.RequestId, livekit.RequestResponse_UNCLASSIFIED_ERROR, "the data blob cannot be stored at the moment")
				return
			}
			p.blobs = blobs
			p.outlet.Send(blobStored(req.RequestId, key))
			r.mirror(p)
		})
	})
}

func blobStored(request uint32, key *livekit.DataBlobKey) *Message {
	return NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_StoreDataBlobResponse{
		StoreDataBlobResponse: &livekit.StoreDataBlobResponse{RequestId: request, Key: key},
	}})
}

// hasBlob reports whether p has stored the same under that key, and it is on disk, with
// nothing on its way there that replaces it.
func (p *Participant) hasBlob(name string, contents []byte) bool {
	b, ahead := p.blobs[name], p.blobsAhead[name]
	return b.DataBlob != nil && !b.inherited && ahead.DataBlob == b.DataBlob && bytes.Equal(b.Contents, contents)
}

// mayWriteBlobs reports whether n bytes of p's data blobs may be written now, and counts
// them if so.
func (p *Participant) mayWriteBlobs(n int) bool {
	rs := p.room.rooms
	return rs.blobRates.take(&rs.cfg.Limits, p.room.name, p.identity, n, time.Now())
}

// refusedBlob is why p may not store the blob; no message if it may.
func (r *Room) refusedBlob(p *Participant, b *livekit.DataBlob) (livekit.RequestResponse_Reason, string) {
	cfg := &r.rooms.cfg
	schema, n := b.GetKey().GetSchemaId(), keyLength(b.GetKey())
	switch {
	case !cfg.DataBlobs:
		return livekit.RequestResponse_NOT_ALLOWED, blobsOff
	case !p.info.GetPermission().GetCanPublishData():
		return livekit.RequestResponse_NOT_ALLOWED, "does not have permission to publish data"
	case n == 0:
		return livekit.RequestResponse_INVALID_REQUEST, "a data blob needs a key"
	case cfg.Limits.MaxBlobKey > 0 && n > cfg.Limits.MaxBlobKey:
		return livekit.RequestResponse_INVALID_REQUEST, fmt.Sprintf("the key of a data blob can have %d bytes", cfg.Limits.MaxBlobKey)
	case schema != nil && (schema.Name == "" || len(schema.Name) > longestDataTrackName):
		return livekit.RequestResponse_INVALID_REQUEST, fmt.Sprintf("a schema's name must have from 1 to %d bytes", longestDataTrackName)
	case !r.rooms.fitsEncoding(schema.GetEncoding().GetValue()):
		return livekit.RequestResponse_INVALID_REQUEST, "the name of a custom encoding is empty or too long"
	case len(b.Contents) == 0:
		return livekit.RequestResponse_INVALID_REQUEST, "a data blob must not be empty"
	}
	return 0, ""
}

const blobsOff = "this server's configuration turns data blobs off"

// fitBlobs reports whether a participant may have those blobs.
func (rs *Rooms) fitBlobs(blobs dataBlobs) bool {
	size := 0
	for _, b := range blobs {
		size += b.length()
	}
	most := rs.cfg.Limits.MaxBlobs
	return len(blobs) <= mostDataBlobs && (most == 0 || size <= most)
}

// withBlob returns the blobs that p will have with b, and the rows that change. If b does
// not fit beside the inherited blobs, these go.
func (p *Participant) withBlob(name string, b *livekit.DataBlob) (dataBlobs, []DataBlob) {
	after := maps.Clone(p.blobsAhead)
	if after == nil {
		after = make(dataBlobs, 1)
	}
	after[name] = dataBlob{DataBlob: b}
	rows := []DataBlob{{Session: p.sid, Key: []byte(name), Contents: b.Contents}}
	if p.room.rooms.fitBlobs(after) {
		return after, rows
	}
	for other, old := range after {
		if old.inherited {
			delete(after, other)
			rows = append(rows, DataBlob{Session: p.sid, Key: []byte(other)})
		}
	}
	return after, rows
}

// payBlob counts a blob that p sends or gets against its pace, by its length.
func (p *Participant) payBlob(contents []byte) {
	const bytes = 4096 // that cost as much as a change
	now := time.Now()
	for range 1 + len(contents)/bytes {
		p.pay(now)
	}
}

// refuseBlob tells p's client why a request about a blob failed.
func (r *Room) refuseBlob(p *Participant, request uint32, why livekit.RequestResponse_Reason, message string) {
	switch why {
	case livekit.RequestResponse_NOT_ALLOWED:
		r.rooms.blobs.off.Add(1)
	case livekit.RequestResponse_INVALID_REQUEST:
		r.rooms.blobs.invalid.Add(1)
	case livekit.RequestResponse_LIMIT_EXCEEDED:
		r.rooms.blobs.limit.Add(1)
	case livekit.RequestResponse_NOT_FOUND:
		r.rooms.blobs.missing.Add(1)
	default:
		r.rooms.blobs.unwritten.Add(1)
	}
	p.refuseBlob(request, why, message)
}

func (p *Participant) refuseBlob(request uint32, why livekit.RequestResponse_Reason, message string) {
	p.outlet.Send(NewMessage(requestResponse(&livekit.RequestResponse{RequestId: request, Reason: why, Message: message})))
}

// GetDataBlob is the client's wish to have a blob of a participant.
func (c *Client) GetDataBlob(req *livekit.GetDataBlobRequest) {
	c.post(func(r *Room, p *Participant) {
		p.payBlob(nil)
		switch {
		case !r.rooms.cfg.DataBlobs:
			r.refuseBlob(p, req.RequestId, livekit.RequestResponse_NOT_ALLOWED, blobsOff)
			return
		case keyLength(req.Key) == 0:
			r.refuseBlob(p, req.RequestId, livekit.RequestResponse_INVALID_REQUEST, "a data blob needs a key")
			return
		}
		blobs, there := r.blobsOf(p, req.ParticipantIdentity)
		_, name := known(req.Key)
		b := blobs[name]
		switch {
		case !there:
			r.refuseBlob(p, req.RequestId, livekit.RequestResponse_NOT_FOUND, "no such participant is in the room")
			return
		case b.DataBlob == nil:
			r.refuseBlob(p, req.RequestId, livekit.RequestResponse_NOT_FOUND, "the participant has stored no data blob under this key")
			return
		}
		p.payBlob(b.Contents)
		p.outlet.Send(NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_GetDataBlobResponse{
			GetDataBlobResponse: &livekit.GetDataBlobResponse{RequestId: req.RequestId, Blob: b.DataBlob},
		}}))
	})
}

// blobsOf returns the blobs of a participant that asker may know of: one that is in the
// room, or expected back in it, and not hidden.
func (r *Room) blobsOf(asker *Participant, identity string) (dataBlobs, bool) {
	if q := r.participants[identity]; q != nil {
		return q.blobs, q == asker || q.admitted && !q.hidden()
	}
	if s := r.expected[identity]; s != nil {
		return s.blobs, !s.Info.GetPermission().GetHidden()
	}
	return nil, false
}

// loadBlobs reads the blobs of the sessions that are expected back.
func (r *Room) loadBlobs(roomSID string, present []Session) error {
	if !r.rooms.cfg.DataBlobs || len(present) == 0 {
		return nil
	}
	rows, err := r.rooms.cfg.Store.DataBlobs(r.rooms.life, roomSID)
	if err != nil {
		return err
	}
	bySession := make(map[string]dataBlobs)
	for i := range rows {
		row := &rows[i]
		key := new(livekit.DataBlobKey)
		if err := proto.Unmarshal(row.Key, key); err != nil {
			r.log.Error("a data blob cannot be read, going on without it", "sid", row.Session, "error", err)
			continue
		}
		if bySession[row.Session] == nil {
			bySession[row.Session] = make(dataBlobs)
		}
		bySession[row.Session][string(row.Key)] = dataBlob{DataBlob: &livekit.DataBlob{Key: key, Contents: row.Contents}}
	}
	for i := range present {
		present[i].blobs = bySession[present[i].SID]
	}
	return nil
}

// inheritBlobs gives p, a new session, the blobs of the session before, and returns their
// rows. A client that begins again after its connection was lost does not store them again.
// They are written again, which counts for the participant but not for its room, so that
// others cannot use up what it needs: only a client that begins again too often loses them.
func (p *Participant) inheritBlobs(before dataBlobs) {
	size := 0
	for _, b := range before {
		size += b.length() + blobOverhead
	}
	rs := p.room.rooms
	if size > 0 && !rs.blobRates.inherit(&rs.cfg.Limits, p.room.name, p.identity, size, time.Now()) {
		rs.blobs.rate.Add(1)
		before = nil
	}
	p.blobs = make(dataBlobs, len(before))
	for name, b := range before {
		p.blobs[name] = dataBlob{DataBlob: b.DataBlob, inherited: true}
	}
	p.blobsAhead = p.blobs
}

// blobRows are the rows of all blobs of p.
func (p *Participant) blobRows() []DataBlob {
	rows := make([]DataBlob, 0, len(p.blobs))
	for name, b := range p.blobs {
		rows = append(rows, DataBlob{Session: p.sid, Key: []byte(name), Contents: b.Contents})
	}
	return rows
}
