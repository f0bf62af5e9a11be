package program

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

const webhooksUsage = `Show how the webhooks of a server that runs fare, or act on one.

  parlor webhooks
  parlor webhooks pause billing       its events wait
  parlor webhooks resume billing
  parlor webhooks replay billing      send its dead letters again
  parlor webhooks test billing        send it a test event

An endpoint is named by its name, id or URL.

`

// endpointAnswer is the part of a webhook endpoint that the commands show.
type endpointAnswer struct {
	ID                       int64
	Name, URL, State, Reason string
	Pending, Dead            int64
	OldestPending            *time.Time `json:"oldest_pending_at"`
	FailingSince             *time.Time `json:"failing_since"`
	LastError                string     `json:"last_error"`
}

// label is the endpoint's name for people.
func (e *endpointAnswer) label() string {
	if e.Name != "" {
		return e.Name
	}
	return e.URL
}

// ails says what is wrong with an endpoint.
func (e *endpointAnswer) ails() string {
	if e.Reason != "" {
		return e.Reason
	}
	if e.FailingSince != nil {
		return e.LastError
	}
	return ""
}

// showWebhooks lists the endpoints, or acts on one.
func showWebhooks(ctx context.Context, env Environment) error {
	var c clientFlags
	f := newFlags("parlor webhooks", webhooksUsage, clientUsage)
	c.register(f)
	args, err := parseArguments(f, env, 2)
	if err != nil {
		return err
	}
	if len(args) > 0 {
		switch args[0] {
		case "pause", "resume", "replay", "test":
		default:
			fmt.Fprintf(env.Err, "%q is not pause, resume, replay or test; see parlor webhooks --help\n", args[0])
			return errUsage
		}
	}
	if len(args) == 1 {
		fmt.Fprintf(env.Err, "name the endpoint to %s; see parlor webhooks --help\n", args[0])
		return errUsage
	}
	server, err := c.connect(env)
	if err != nil {
		return err
	}
	var all struct{ Webhooks []json.RawMessage }
	if _, err := server.get(ctx, "/webhooks", nil, &all); err != nil {
		return err
	}
	endpoints := make([]endpointAnswer, len(all.Webhooks))
	for i, raw := range all.Webhooks {
		if err := json.Unmarshal(raw, &endpoints[i]); err != nil {
			return err
		}
	}
	switch {
	case len(args) == 2:
		return server.actOn(ctx, endpoints, args[0], args[1], c.json, env.Out)
	case c.json:
		for _, raw := range all.Webhooks {
			if err := writeJSONLine(env.Out, raw); err != nil {
				return err
			}
		}
		return nil
	}
	return listEndpoints(endpoints, env.Out)
}

func listEndpoints(endpoints []endpointAnswer, out io.Writer) error {
	if len(endpoints) == 0 {
		_, err := fmt.Fprintln(out, "no webhooks are configured")
		return err
	}
	now := time.Now()
	t := newTable(out, "ID", "ENDPOINT", "STATE", "PENDING", "OLDEST", "DEAD", "WHAT AILS IT")
	for _, e := range endpoints {
		t.row(fmt.Sprint(e.ID), e.label(), e.State, fmt.Sprint(e.Pending), ago(e.OldestPending, now), fmt.Sprint(e.Dead), e.ails())
	}
	return t.flush()
}

// findEndpoint returns the endpoint with that name, id or URL.
func findEndpoint(endpoints []endpointAnswer, name string) (*endpointAnswer, error) {
	var found *endpointAnswer
	for i := range endpoints {
		e := &endpoints[i]
		if e.Name != name && e.URL != name && strconv.FormatInt(e.ID, 10) != name {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("several endpoints are called %s: name it by its id", printable(name, lineWidth))
		}
		found = e
	}
	if found == nil {
		return nil, fmt.Errorf("there is no endpoint %s; parlor webhooks lists them", printable(name, lineWidth))
	}
	return found, nil
}

// actOn pauses, resumes, replays or tests an endpoint.
func (c *client) actOn(ctx context.Context, endpoints []endpointAnswer, verb, name string, asJSON bool, out io.Writer) error {
	e, err := findEndpoint(endpoints, name)
	if err != nil {
		return err
	}
	var answer struct {
		Replayed int64
		Seq      int64
	}
	raw, err := c.call(ctx, http.MethodPost, fmt.Sprintf("/webhooks/%d/%s", e.ID, verb), nil, nil, &answer)
	if err != nil {
		return err
	}
	if asJSON {
		return writeJSONLine(out, raw)
	}
	what := map[string]string{
		"pause":  "is paused: its events wait",
		"resume": "is on",
		"replay": "gets " + count(answer.Replayed, "event") + " again",
		"test":   fmt.Sprintf("gets a test event, with seq %d", answer.Seq),
	}[verb]
	_, err = fmt.Fprintf(out, "%s %s\n", printable(e.label(), lineWidth), what)
	return err
}
