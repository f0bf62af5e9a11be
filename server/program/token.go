package program

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/livekit/protocol/auth"

	"parlor/server/access"
)

const tokenUsage = `Make an access token, signed with an API key of the configuration.

  parlor token --room lobby --identity ada
  parlor token --room lobby --identity tv --can-publish=false --valid 24h
  parlor token --room lobby --admin           for calls of the room API
  parlor token --create --list                for calls about all rooms

The key comes from --config, PARLOR_CONFIG, LIVEKIT_KEYS or another variable of the
configuration. With --dev it is devkey, and its secret "secret", as in parlor --dev.

`

// token prints an access token.
func token(_ context.Context, env Environment) error {
	if len(env.Args) > 0 && env.Args[0] == "create" { // a name that a user may expect
		env.Args = env.Args[1:]
	}
	var t tokenRequest
	f := t.flags()
	f.Usage = func() {
		fmt.Fprint(f.Output(), tokenUsage)
		printFlags(f)
	}
	if err := parse(f, env); err != nil {
		return err
	}
	f.Visit(func(fl *flag.Flag) { t.given = append(t.given, fl.Name) })
	grants, err := t.grants()
	if err != nil {
		return err
	}
	keys, _, err := t.keys(env)
	if err != nil {
		return err
	}
	signed, err := access.NewVerifier(keys).Mint(t.apiKey, grants, t.valid)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(env.Out, signed)
	return err
}

// tokenRequest holds the command line's flags.
type tokenRequest struct {
	keyFlags

	room, identity, name, metadata string
	attributes                     map[string]string
	valid                          time.Duration
	admin, create, list            bool
	canPublish, canSubscribe       bool
	canPublishData, canUpdateSelf  bool
	sources                        string
	hidden, recorder, agent        bool
	destination                    string
	given                          []string // names of the flags that were given
}

func (t *tokenRequest) flags() *flag.FlagSet {
	f := flag.NewFlagSet("parlor token", flag.ContinueOnError)
	f.StringVar(&t.room, "room", "", "`name` of the room to join or administer")
	f.StringVar(&t.identity, "identity", "", "who joins: a `name` that is unique in the room")
	f.StringVar(&t.name, "name", "", "`name` that others see")
	f.StringVar(&t.metadata, "metadata", "", "the participant's `metadata`")
	f.Func("attribute", "`key=value` of the participant; may be given more than once", func(v string) error {
		key, value, ok := strings.Cut(v, "=")
		if !ok || key == "" {
			return fmt.Errorf("must be key=value")
		}
		if t.attributes == nil {
			t.attributes = map[string]string{}
		}
		t.attributes[key] = value
		return nil
	})
	f.DurationVar(&t.valid, "valid", 6*time.Hour, "how `long` the token holds, such as 30m (6h)")
	f.BoolVar(&t.canPublish, "can-publish", true, "may publish audio and video (true)")
	f.StringVar(&t.sources, "can-publish-sources", "", "`sources` that may be published: camera,microphone,screen_share,screen_share_audio")
	f.BoolVar(&t.canSubscribe, "can-subscribe", true, "may receive others' tracks (true)")
	f.BoolVar(&t.canPublishData, "can-publish-data", true, "may send data (as can-publish)")
	f.BoolVar(&t.canUpdateSelf, "can-update-own-metadata", false, "may change its own name, metadata and attributes")
	f.BoolVar(&t.hidden, "hidden", false, "is not shown to others")
	f.BoolVar(&t.recorder, "recorder", false, "is a recorder")
	f.BoolVar(&t.agent, "agent", false, "is an agent")
	f.BoolVar(&t.admin, "admin", false, "may administer the room by the API")
	f.BoolVar(&t.create, "create", false, "may create and delete rooms by the API")
	f.BoolVar(&t.list, "list", false, "may list rooms by the API")
	f.StringVar(&t.destination, "destination-room", "", "`name` of the room that participants may be moved to")
	t.keyFlags.register(f)
	return f
}

func (t *tokenRequest) grants() (*auth.ClaimGrants, error) {
	join := t.identity != ""
	switch {
	case !join && !t.admin && !t.create && !t.list:
		return nil, fmt.Errorf("nothing is granted: give --room and --identity to join, or --admin, --create or --list; see parlor token --help")
	case (join || t.admin) && t.room == "":
		return nil, fmt.Errorf("--room is missing")
	case t.valid <= 0:
		return nil, fmt.Errorf("--valid must be more than nothing")
	}
	g := &auth.VideoGrant{
		Room: t.room, RoomJoin: join, RoomAdmin: t.admin, RoomCreate: t.create, RoomList: t.list,
		Hidden: t.hidden, Recorder: t.recorder, Agent: t.agent, DestinationRoom: t.destination,
	}
	optional := func(flag string, value bool, set func(bool)) {
		if slices.Contains(t.given, flag) {
			set(value)
		}
	}
	optional("can-publish", t.canPublish, g.SetCanPublish)
	optional("can-subscribe", t.canSubscribe, g.SetCanSubscribe)
	optional("can-publish-data", t.canPublishData, g.SetCanPublishData)
	optional("can-update-own-metadata", t.canUpdateSelf, g.SetCanUpdateOwnMetadata)
	if t.sources != "" {
		for s := range strings.SplitSeq(t.sources, ",") {
			if !slices.Contains([]string{"camera", "microphone", "screen_share", "screen_share_audio"}, s) {
				return nil, fmt.Errorf("--can-publish-sources: %q is not a source", s)
			}
			g.CanPublishSources = append(g.CanPublishSources, s)
		}
	}
	return &auth.ClaimGrants{
		Identity: t.identity, Name: t.name, Metadata: t.metadata, Attributes: t.attributes, Video: g,
	}, nil
}
