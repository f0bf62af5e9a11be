package config

import (
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// aliases are LiveKit's own environment variables, with the keys that they set.
func aliases() map[string]string {
	return map[string]string{
		"LIVEKIT_KEYS":   "keys",
		"LIVEKIT_REGION": "region",
		"NODE_IP":        "rtc.node_ip",
		"UDP_PORT":       "rtc.udp_port",
	}
}

// checkFrom is a variable that is no key: parlor check reads it.
const checkFrom = "PARLOR_CHECK_FROM"

// CheckFrom is the URL of the server that parlor check asks, whose secret should not stand on a
// command line.
func CheckFrom(environ []string) string { return lookup(environ, checkFrom) }

func lookup(environ []string, name string) string {
	for _, e := range environ {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}

// Empty reports whether there is no configuration: no file, no flag, and no variable that
// Parlor reads.
func (s Sources) Empty() bool {
	if s.File != "" || len(s.Flags) > 0 {
		return false
	}
	names := []string{"PARLOR_CONFIG", "LIVEKIT_CONFIG"}
	for name := range aliases() {
		names = append(names, name)
	}
	for _, k := range Keys() {
		names = append(names, k.Env())
	}
	return !slices.ContainsFunc(names, func(name string) bool { return name != "" && lookup(s.Environ, name) != "" })
}

// environment applies LIVEKIT_CONFIG, then LiveKit's variables, then PARLOR_….
func (l *loader) environment(environ []string) {
	if body := lookup(environ, "LIVEKIT_CONFIG"); body != "" {
		l.from = "LIVEKIT_CONFIG"
		l.document([]byte(body))
	}
	environ = slices.Sorted(slices.Values(environ)) // so that problems and warnings have one order
	liveKit := aliases()
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if path := liveKit[name]; path != "" && value != "" {
			l.setting(Setting{path, value, name})
		}
	}
	paths := map[string]string{}
	for _, k := range Keys() {
		if env := k.Env(); env != "" {
			paths[env] = k.Path
		}
	}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, "PARLOR_") || name == "PARLOR_CONFIG" || name == checkFrom || value == "" {
			continue
		}
		path, known := paths[name]
		switch {
		case !known:
			l.warn("environment variable %s is not one that Parlor reads", name)
		case strings.HasPrefix(value, "tcp://") || strings.HasPrefix(value, "udp://"):
			// Kubernetes sets PARLOR_PORT=tcp://… for a service called parlor.
			l.warn("environment variable %s is a Kubernetes service link; ignored", name)
		default:
			l.setting(Setting{path, value, name})
		}
	}
}

// setting applies one key.
func (l *loader) setting(s Setting) {
	l.from = s.From
	_, known := l.keys.exact[s.Path]
	field, ok := l.field(s.Path)
	if !known || !ok {
		l.problem(nil, s.Path, "unknown key")
		return
	}
	if !utf8.ValidString(s.Value) { // YAML files are checked by their decoder; values that are sent to clients must be UTF-8
		l.problem(nil, s.Path, "is not UTF-8")
		return
	}
	n, err := parseSetting(s.Value, field.Type())
	if err != nil {
		l.problem(nil, s.Path, "is not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		return
	}
	if isNull(n) {
		return
	}
	n.Line = 0
	l.given = append(l.given, s.Path)
	l.value(n, field, s.Path)
}

// field finds the field of a path.
func (l *loader) field(path string) (reflect.Value, bool) {
	v := reflect.ValueOf(l.config).Elem()
	for name := range strings.SplitSeq(path, ".") {
		if !isSection(v.Type()) {
			return v, false
		}
		var ok bool
		if v, ok = fieldByTag(v, name); !ok {
			return v, false
		}
	}
	return v, !isSection(v.Type())
}

// parseSetting reads a value as people write it into a variable or flag: a text verbatim,
// a list with commas, key:secret without the space that YAML needs, and anything else as
// YAML.
func parseSetting(value string, t reflect.Type) (*yaml.Node, error) {
	switch {
	case t.Kind() == reflect.String:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value}, nil
	case t == reflect.TypeFor[[]string]() && !strings.HasPrefix(value, "["):
		list := &yaml.Node{Kind: yaml.SequenceNode}
		for item := range strings.SplitSeq(value, ",") {
			list.Content = append(list.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: strings.TrimSpace(item)})
		}
		return list, nil
	case t == reflect.TypeFor[map[string]string]():
		if n, ok := parsePairs(value); ok {
			return n, nil
		}
	}
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(value), &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) == 0 {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}, nil
	}
	return resolve(doc.Content[0]), nil
}

// parsePairs reads "key: secret" or "key:secret", one a line or separated by commas;
// false for anything else, such as YAML in braces.
func parsePairs(value string) (*yaml.Node, bool) {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for pair := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == '\n' || r == ',' }) {
		name, secret, ok := strings.Cut(pair, ":")
		name, secret = strings.TrimSpace(name), strings.TrimSpace(secret)
		if !ok || name == "" || secret == "" || strings.ContainsAny(name+secret, "{}[]\"'&*#|> \t") {
			return nil, false
		}
		n.Content = append(n.Content,
			&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name},
			&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: secret})
	}
	return n, len(n.Content) > 0
}
