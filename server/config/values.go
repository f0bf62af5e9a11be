package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/livekit/protocol/livekit"
	"go.yaml.in/yaml/v3"
)

// Duration is a time span, written with its unit: 500ms, 60s, 12h.
type Duration time.Duration

// UnmarshalYAML reads a span.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	span, err := parseSpan(n)
	if err != nil {
		return err
	}
	*d = Duration(span)
	return nil
}

func parseSpan(n *yaml.Node) (time.Duration, error) {
	want := errors.New("must be a time span with its unit, such as 500ms, 60s or 12h")
	if n.Kind != yaml.ScalarNode {
		return 0, want
	}
	span, err := time.ParseDuration(n.Value)
	if err != nil || span < 0 {
		return 0, want
	}
	return span, nil
}

// Retention is how long something is kept: a [Duration], days such as 30d, or [Forever].
type Retention time.Duration

// Forever means that nothing is deleted; it is written "forever".
const Forever Retention = -1

// UnmarshalYAML reads a span, days, or "forever".
func (r *Retention) UnmarshalYAML(n *yaml.Node) error {
	if n.Value == "forever" {
		*r = Forever
		return nil
	}
	if days, ok := strings.CutSuffix(n.Value, "d"); ok {
		if v, err := strconv.ParseUint(days, 10, 16); err == nil {
			*r = Retention(time.Duration(v) * 24 * time.Hour)
			return nil
		}
	}
	span, err := parseSpan(n)
	if err != nil {
		return errors.New("must be a time span such as 720h or 30d, or forever")
	}
	*r = Retention(span)
	return nil
}

// Seconds is a room's timeout in whole seconds, or [Never].
type Seconds uint32

// Never is the timeout of a room that ends only when it is closed. It is written "never",
// and is the number 4294967295 on LiveKit's wire.
const Never Seconds = math.MaxUint32

// UnmarshalYAML reads whole seconds or "never".
func (s *Seconds) UnmarshalYAML(n *yaml.Node) error {
	if n.Value == "never" {
		*s = Never
		return nil
	}
	v, err := strconv.ParseUint(n.Value, 10, 32)
	if err != nil {
		return errors.New("must be whole seconds, or never")
	}
	*s = Seconds(v)
	return nil
}

// PortRange is a port, 7882, or a range of them, 7882-7892.
type PortRange struct {
	Start, End int  // the same for a single port; 0 = any free one
	Set        bool // the key was given
}

// maxPorts bounds a range: a larger one would be a mistake.
const maxPorts = 1024

// UnmarshalYAML reads a port or a range.
func (r *PortRange) UnmarshalYAML(n *yaml.Node) error {
	first, last, isRange := strings.Cut(n.Value, "-")
	start, err := parsePort(first)
	if err != nil {
		return err
	}
	end := start
	if isRange {
		if end, err = parsePort(last); err != nil {
			return err
		}
		switch {
		case start == 0 || end <= start:
			return errors.New("the end of the range must be greater than its start")
		case end-start >= maxPorts:
			return fmt.Errorf("a range of more than %d ports, one socket each", maxPorts)
		}
	}
	*r = PortRange{Start: start, End: end, Set: true}
	return nil
}

func parsePort(s string) (int, error) {
	p, err := strconv.ParseUint(strings.TrimSpace(s), 10, 16)
	if err != nil {
		return 0, errors.New("must be a port, such as 7882, or a range, such as 7882-7892")
	}
	return int(p), nil
}

// NodeIP holds the addresses to advertise, at most one of each family.
type NodeIP struct{ V4, V6 netip.Addr }

// UnmarshalYAML reads one address, or two of different families with a comma.
func (ip *NodeIP) UnmarshalYAML(n *yaml.Node) error {
	want := errors.New("must be an IP address, or an IPv4 and an IPv6 address with a comma between them")
	if n.Kind != yaml.ScalarNode {
		return want
	}
	var got NodeIP
	for part := range strings.SplitSeq(n.Value, ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		a, err := netip.ParseAddr(strings.TrimSpace(part))
		if err != nil || a.Zone() != "" {
			return want
		}
		family := &got.V6
		if a = a.Unmap(); a.Is4() {
			family = &got.V4
		}
		if family.IsValid() {
			return want
		}
		*family = a
	}
	*ip = got
	return nil
}

// Preset is a named set of room settings; nil and zero fields are not set.
type Preset struct {
	EmptyTimeout     *Seconds
	DepartureTimeout *Seconds
	MaxParticipants  uint32
	Metadata         string
	MinPlayoutDelay  uint32 // ms
	MaxPlayoutDelay  uint32 // ms
	SyncStreams      bool
	Tags             map[string]string
	Agents           []Agent // the agents that the room wants
}

// Agent names an agent that a room wants.
type Agent struct {
	AgentName  string            `yaml:"agent_name"`
	Metadata   string            `yaml:"metadata"`
	Deployment string            `yaml:"deployment"`
	Attributes map[string]string `yaml:"attributes"`
}

// UnmarshalYAML reads an agent. Key names are matched as in a preset.
func (a *Agent) UnmarshalYAML(n *yaml.Node) error {
	return readSettings(n, "with agent_name", "an agent", map[string]any{
		"agentname": &a.AgentName, "metadata": &a.Metadata, "deployment": &a.Deployment, "attributes": &a.Attributes,
	})
}

// readSettings reads a mapping into what is given by name, with and without underscores;
// what is given as nil is passed over.
func readSettings(n *yaml.Node, with, of string, into map[string]any) error {
	if n.Kind != yaml.MappingNode {
		return errors.New("must be a mapping " + with)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i].Value, n.Content[i+1]
		to, known := into[strings.ToLower(strings.ReplaceAll(name, "_", ""))]
		switch {
		case !known:
			return fmt.Errorf("line %d: %s is not a setting of %s", n.Content[i].Line, name, of)
		case to == nil:
			continue
		}
		if err := value.Decode(to); err != nil {
			return fmt.Errorf("line %d: %s: %w", value.Line, name, err)
		}
	}
	return nil
}

// UnmarshalYAML reads a preset. Key names are accepted with and without underscores:
// LiveKit's own files, read with its library's defaults, need "emptytimeout".
func (p *Preset) UnmarshalYAML(n *yaml.Node) error {
	return readSettings(n, "of room settings", "a room preset", map[string]any{
		"emptytimeout": &p.EmptyTimeout, "departuretimeout": &p.DepartureTimeout, "maxparticipants": &p.MaxParticipants,
		"metadata": &p.Metadata, "minplayoutdelay": &p.MinPlayoutDelay, "maxplayoutdelay": &p.MaxPlayoutDelay,
		"syncstreams": &p.SyncStreams, "tags": &p.Tags, "agents": &p.Agents,
		"name": nil, "egress": nil, // the preset's name is its key; Parlor has no egress service
	})
}

// Fill sets the empty fields of req to the preset's settings.
func (p *Preset) Fill(req *livekit.CreateRoomRequest) {
	if req.EmptyTimeout == 0 && p.EmptyTimeout != nil {
		req.EmptyTimeout = uint32(*p.EmptyTimeout)
	}
	if req.DepartureTimeout == 0 && p.DepartureTimeout != nil {
		req.DepartureTimeout = uint32(*p.DepartureTimeout)
	}
	fill(&req.MaxParticipants, p.MaxParticipants)
	fill(&req.Metadata, p.Metadata)
	fill(&req.MinPlayoutDelay, p.MinPlayoutDelay)
	fill(&req.MaxPlayoutDelay, p.MaxPlayoutDelay)
	fill(&req.SyncStreams, p.SyncStreams)
	if len(req.Tags) == 0 {
		req.Tags = p.Tags
	}
	if len(req.Agents) == 0 {
		for _, a := range p.Agents {
			req.Agents = append(req.Agents, &livekit.RoomAgentDispatch{
				AgentName: a.AgentName, Metadata: a.Metadata, Deployment: a.Deployment, Attributes: a.Attributes,
			})
		}
	}
}

func fill[T comparable](field *T, value T) {
	var open T
	if *field == open {
		*field = value
	}
}
