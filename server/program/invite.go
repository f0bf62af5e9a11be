package program

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"parlor/server/config"
)

const inviteUsage = `Make a link that lets people into a room, and print it. The configuration must have
invitations: true.

  parlor invite board                        for guests, for a day
  parlor invite board --host --uses 1        for one who may mute, remove and invite others
  parlor invite board --name Ada --valid 168h
  parlor invite --list
  parlor invite board --revoke IN_…

`

// invitationAnswer is an invitation as the API shows it.
type invitationAnswer struct {
	ID, Room, Role, Name, State string
	Uses                        *int64
	Used                        int64
	ExpiresAt                   *time.Time `json:"expires_at"`
}

// inviteRequest is what the command line asks for.
type inviteRequest struct {
	clientFlags
	host, list   bool
	uses         uint
	valid        time.Duration
	name, revoke string
}

// invite makes, lists or revokes invitations.
func invite(ctx context.Context, env Environment) error {
	var q inviteRequest
	f := newFlags("parlor invite", inviteUsage, clientUsage)
	f.BoolVar(&q.host, "host", false, "for a host, who may administer the room; else for a guest")
	f.UintVar(&q.uses, "uses", 0, "how `often` it can be used (no limit)")
	f.DurationVar(&q.valid, "valid", 24*time.Hour, "how `long` it can be used, such as 30m; 0 for ever (24h)")
	f.StringVar(&q.name, "name", "", "`name` of the person it is for")
	f.BoolVar(&q.list, "list", false, "list the invitations of ROOM, or all")
	f.StringVar(&q.revoke, "revoke", "", "take back the invitation of that `id`")
	q.register(f)
	arguments, err := parseArguments(f, env, 1)
	if err != nil {
		return err
	}
	room := ""
	if len(arguments) > 0 {
		room = arguments[0]
	}
	if (room == "" && !q.list) || (q.list && q.revoke != "") || q.valid < 0 {
		fmt.Fprintln(env.Err, "name a room, or give --list or --revoke; see parlor invite --help")
		return errUsage
	}
	server, err := q.connect(env)
	if err != nil {
		return err
	}
	switch {
	case q.revoke != "":
		_, err := server.call(ctx, http.MethodDelete, "/rooms/"+inPath(room)+"/invitations/"+inPath(q.revoke), nil, nil, nil)
		return err
	case q.list:
		return q.show(ctx, server, room, env.Out)
	}
	return q.create(ctx, server, room, env.Out)
}

func (q *inviteRequest) create(ctx context.Context, server *client, room string, out io.Writer) error {
	body := map[string]any{"role": "guest"}
	if q.host {
		body["role"] = "host"
	}
	if q.uses > 0 {
		body["uses"] = q.uses
	}
	if q.valid > 0 {
		body["expires_at"] = time.Now().Add(q.valid).UTC().Format(time.RFC3339)
	}
	if q.name != "" {
		body["name"] = q.name
	}
	var made struct{ Link string }
	raw, err := server.call(ctx, http.MethodPost, "/rooms/"+inPath(room)+"/invitations", nil, body, &made)
	if err != nil {
		return err
	}
	if q.json {
		return writeJSONLine(out, raw)
	}
	_, err = fmt.Fprintln(out, printable(made.Link, 8*lineWidth))
	return err
}

func (q *inviteRequest) show(ctx context.Context, server *client, room string, out io.Writer) error {
	query := url.Values{}
	path := "/invitations"
	if room != "" {
		path = "/rooms/" + inPath(room) + path
	}
	t := newTable(out, "ID", "ROOM", "ROLE", "FOR", "USED", "UNTIL", "STATE")
	for {
		var page struct {
			Invitations []json.RawMessage
			NextCursor  string `json:"next_cursor"`
		}
		if _, err := server.get(ctx, path, query, &page); err != nil {
			return err
		}
		for _, raw := range page.Invitations {
			if q.json {
				if err := writeJSONLine(out, raw); err != nil {
					return err
				}
				continue
			}
			var i invitationAnswer
			if err := json.Unmarshal(raw, &i); err != nil {
				return fmt.Errorf("what answers is not Parlor: %w", err)
			}
			used, until := strconv.FormatInt(i.Used, 10), "for ever"
			if i.Uses != nil {
				used += " of " + strconv.FormatInt(*i.Uses, 10)
			}
			if i.ExpiresAt != nil {
				until = i.ExpiresAt.Local().Format("2006-01-02 15:04")
			}
			t.row(i.ID, i.Room, i.Role, i.Name, used, until, i.State)
		}
		if page.NextCursor == "" {
			break
		}
		query.Set("cursor", page.NextCursor)
	}
	if q.json {
		return nil
	}
	return t.flush()
}

// pageOf is where people open the page of a server that has a domain; "" if it has none.
func pageOf(cfg *config.Config) string {
	if cfg.Domain == "" {
		return ""
	}
	host := cfg.Domain
	if cfg.Port != 443 {
		host = net.JoinHostPort(host, strconv.Itoa(cfg.Port))
	}
	return "https://" + host + "/"
}
