package signal

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/reflect/protoreflect"

	"parlor/rooms"
	"parlor/server/access"
	"parlor/server/admin"
	"parlor/server/unpack"
)

// maxJoinRequest bounds a join request, packed and unpacked, in bytes.
const maxJoinRequest = 1 << 20

// maxAddTracks bounds the tracks that a join request announces.
const maxAddTracks = 64

// refusal refuses a join before the upgrade, by an HTTP status and a text body.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

func refuse(status int, text string) *refusal { return &refusal{status, text} }

// options are the settings of a connecting client, from either form of the request.
type options struct {
	singlePC       bool
	protocol       int
	client         *livekit.ClientInfo
	autoSubscribe  bool
	autoData       bool // it is to get data tracks without asking for them
	adaptiveStream bool
	allowPause     *bool // nil: the server's configuration applies
	reconnect      bool
	session        string // with reconnect: the SID of its session; may be ""
	metadata       string
	attributes     map[string]string
	addTracks      []*livekit.AddTrackRequest
	offer          *livekit.SessionDescription
}

// mode names the kind of the connection in metrics.
func (o *options) mode() string {
	if o.singlePC {
		return "single"
	}
	return "dual"
}

// parseOptions parses the query of a connect request. validate: the request is only a
// validation, which rejects malformed attributes.
func (d *decoder) parseOptions(r *http.Request, v1, validate bool) (*options, error) {
	q := r.URL.Query()
	if wrapped := q.Get("join_request"); wrapped != "" {
		return d.parseJoinRequest(r.Context(), wrapped, access.Address(r.RemoteAddr))
	}
	if v1 {
		return nil, refuse(http.StatusBadRequest, "join_request is required")
	}
	return parseQuery(q, access.Address(r.RemoteAddr), validate)
}

// parseJoinRequest parses the join_request parameter: base64 (URL alphabet) of a
// WrappedJoinRequest. Its errors are refusals.
func (d *decoder) parseJoinRequest(ctx context.Context, wrapped, address string) (*options, error) {
	if len(wrapped) > maxJoinRequest*4/3+4 {
		_ = d.guard.Refused("join_request", unpack.ErrTooLong) // counted; the answer is given here
		return nil, refuse(http.StatusBadRequest, "join request is too large")
	}
	raw, err := base64.URLEncoding.DecodeString(wrapped)
	if err != nil {
		if raw, err = base64.RawURLEncoding.DecodeString(wrapped); err != nil {
			return nil, refuse(http.StatusBadRequest, "cannot base64 decode wrapped join request")
		}
	}
	w := &livekit.WrappedJoinRequest{}
	if _, err := d.decode(ctx, raw, false, d.wrapped, w); err != nil {
		return nil, d.refuseJoin(err, "cannot unmarshal wrapped join request")
	}
	inner, err := inflate(w)
	if err != nil {
		return nil, d.refuseJoin(err, "cannot read decompressed join request")
	}
	j := &livekit.JoinRequest{}
	if _, err := d.decode(ctx, inner, false, d.join, j); err != nil {
		return nil, d.refuseJoin(err, "cannot unmarshal join request")
	}
	if err := descriptions(j.PublisherOffer); err != nil {
		return nil, d.refuseJoin(err, "")
	}
	o := &options{
		singlePC:       true,
		client:         j.ClientInfo,
		autoSubscribe:  j.ConnectionSettings.GetAutoSubscribe(),
		autoData:       j.ConnectionSettings.GetAutoSubscribeDataTrack(),
		adaptiveStream: j.ConnectionSettings.GetAdaptiveStream(),
		allowPause:     allowPause(j.ConnectionSettings),
		reconnect:      j.Reconnect,
		session:        j.ParticipantSid,
		metadata:       j.Metadata,
		attributes:     j.ParticipantAttributes,
		addTracks:      j.AddTrackRequests,
		offer:          j.PublisherOffer,
	}
	if len(o.addTracks) > maxAddTracks {
		return nil, refuse(http.StatusBadRequest, "too many tracks in the join request")
	}
	if o.client == nil {
		o.client = &livekit.ClientInfo{}
	}
	o.client.Address = address
	curtail(o.client)
	o.protocol = int(o.client.Protocol)
	return o, nil
}

// allowPause is the setting for pausing video; nil if there is none.
func allowPause(s *livekit.ConnectionSettings) *bool {
	if s == nil {
		return nil
	}
	return s.SubscriberAllowPause
}

// refuseJoin is the answer to a join request that failed with err. malformed is its text
// if the request is not too large but malformed.
func (d *decoder) refuseJoin(err error, malformed string) error {
	if ref, ok := asRefusal(err); ok {
		return ref
	}
	_ = d.guard.Refused("join_request", err) // counted; the answer is given here
	switch {
	case errors.Is(err, unpack.ErrBusy):
		return rooms.Errorf(rooms.Unavailable, "%s", err)
	case errors.Is(err, unpack.ErrTooLong):
		return refuse(http.StatusBadRequest, "join request is too large")
	case excessive(err):
		return refuse(http.StatusBadRequest, "join request is refused: "+err.Error())
	}
	return refuse(http.StatusBadRequest, malformed)
}

// inflate is the join request that w wraps, decompressed.
func inflate(w *livekit.WrappedJoinRequest) ([]byte, error) {
	switch w.Compression {
	case livekit.WrappedJoinRequest_NONE:
		if len(w.JoinRequest) > maxJoinRequest {
			return nil, unpack.ErrTooLong
		}
		return w.JoinRequest, nil
	case livekit.WrappedJoinRequest_GZIP:
		return unpack.Gunzip(w.JoinRequest, maxJoinRequest)
	}
	return nil, refuse(http.StatusBadRequest, "unknown compression of join request")
}

// parseQuery parses the query parameters of the older form.
func parseQuery(q url.Values, address string, validate bool) (*options, error) {
	yes := func(name string) bool { v := q.Get(name); return v == "1" || v == "true" }
	number := func(name string) int32 {
		n, err := strconv.ParseInt(q.Get(name), 10, 32)
		if err != nil {
			return 0
		}
		return int32(n)
	}
	o := &options{
		protocol:       int(number("protocol")),
		autoSubscribe:  !q.Has("auto_subscribe") || yes("auto_subscribe"),
		autoData:       yes("auto_subscribe_data_track"),
		adaptiveStream: yes("adaptive_stream"),
		reconnect:      yes("reconnect"),
		session:        q.Get("sid"),
		client: &livekit.ClientInfo{
			Version:        q.Get("version"),
			Protocol:       number("protocol"),
			ClientProtocol: number("client_protocol"),
			Os:             q.Get("os"),
			OsVersion:      q.Get("os_version"),
			Browser:        q.Get("browser"),
			BrowserVersion: q.Get("browser_version"),
			DeviceModel:    q.Get("device_model"),
			Network:        q.Get("network"),
			Address:        address,
			Sdk:            sdkOf(q.Get("sdk")),
		},
	}
	if q.Has("subscriber_allow_pause") {
		allow := yes("subscriber_allow_pause")
		o.allowPause = &allow
	}
	for name := range strings.SplitSeq(q.Get("capabilities"), ",") {
		if v, ok := livekit.ClientInfo_Capability_value[name]; ok {
			o.client.Capabilities = append(o.client.Capabilities, livekit.ClientInfo_Capability(v))
		}
	}
	curtail(o.client)
	attributes, err := parseAttributes(q.Get("attributes"))
	if err != nil && validate {
		return nil, refuse(http.StatusBadRequest, "cannot decode attributes: base64 of a JSON object is expected")
	}
	o.attributes = attributes
	return o, nil
}

// longestOfClient bounds what a client says of itself, in bytes. It is logged, kept while the client is
// there, and shown.
const longestOfClient = 256

// The bounds of the capabilities that a client says it has. One that this server does not know is kept:
// the SDKs of others may know it.
const (
	mostCapabilities  = 32
	highestCapability = 1023
)

// curtail shortens the texts of c, and leaves each capability once, within bounds: all
// participants are told of them.
func curtail(c *livekit.ClientInfo) {
	m := c.ProtoReflect()
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if field.Kind() == protoreflect.StringKind && !field.IsList() {
			m.Set(field, protoreflect.ValueOfString(admin.Clip(v.String(), longestOfClient)))
		}
		return true
	})
	slices.Sort(c.Capabilities)
	kept := slices.DeleteFunc(slices.Compact(c.Capabilities), func(one livekit.ClientInfo_Capability) bool {
		return one < 0 || one > highestCapability
	})
	c.Capabilities = slices.Clone(kept[:min(len(kept), mostCapabilities)]) // the array of all that were said goes
}

func parseAttributes(s string) (map[string]string, error) {
	if s == "" {
		return nil, nil
	}
	raw, err := base64.URLEncoding.DecodeString(s)
	if err != nil {
		if raw, err = base64.RawURLEncoding.DecodeString(s); err != nil {
			return nil, err
		}
	}
	var m map[string]string
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	return m, nil
}

// sdkOf parses the sdk parameter, which SDKs send in lower case.
func sdkOf(s string) livekit.ClientInfo_SDK {
	switch s {
	case "ios", "swift":
		return livekit.ClientInfo_SWIFT
	case "reactnative":
		return livekit.ClientInfo_REACT_NATIVE
	case "unityweb":
		return livekit.ClientInfo_UNITY_WEB
	}
	if s != strings.ToLower(s) {
		return livekit.ClientInfo_UNKNOWN
	}
	return livekit.ClientInfo_SDK(livekit.ClientInfo_SDK_value[strings.ToUpper(s)])
}

// asRefusal finds a refusal in err.
func asRefusal(err error) (*refusal, bool) {
	return errors.AsType[*refusal](err)
}
