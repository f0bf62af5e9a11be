package config

import (
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Shown is a key of the configuration in force, fit to be shown.
type Shown struct {
	Key   string
	Value string // as YAML, on one line; *** in place of a secret
	Set   bool   // it is not the default
	Doc   string
}

// hidden stands for a secret.
const hidden = "***"

// Show is the configuration in force, without its secrets, in the order of [Keys].
func (c *Config) Show() []Shown {
	now, before := &loader{config: c}, &loader{config: Default()}
	var all []Shown
	for _, k := range Keys() {
		if k.Effect != Applied || strings.ContainsAny(k.Path, "[*") {
			continue // an item of a list, which is shown with its list
		}
		v, ok := now.field(k.Path)
		if !ok {
			continue
		}
		d, _ := before.field(k.Path)
		all = append(all, Shown{
			Key: k.Path, Value: inline(shown(k.Path, v)), Doc: k.Doc,
			Set: !reflect.DeepEqual(v.Interface(), d.Interface()),
		})
	}
	return all
}

// isSecret tells of the name of a key whose value nobody is shown.
func isSecret(name string) bool {
	for _, s := range []string{"secret", "password", "credential"} {
		if strings.Contains(name, s) && !strings.HasSuffix(name, "_file") {
			return true
		}
	}
	return false
}

// shown is a value as YAML can have it, without secrets. path ends in its key.
func shown(path string, v reflect.Value) any {
	name := path[strings.LastIndexByte(path, '.')+1:]
	if isSecret(name) {
		if v.IsZero() {
			return ""
		}
		return hidden
	}
	switch x := v.Interface().(type) {
	case Duration:
		return time.Duration(x).String()
	case Retention:
		if x == Forever {
			return "forever"
		}
		return time.Duration(x).String()
	case Seconds:
		if x == Never {
			return "never"
		}
		return uint32(x)
	case PortRange:
		switch {
		case !x.Set:
			return nil
		case x.Start == x.End:
			return x.Start
		}
		return fmt.Sprintf("%d-%d", x.Start, x.End)
	case NodeIP:
		var texts []string
		if x.V4.IsValid() {
			texts = append(texts, x.V4.String())
		}
		if x.V6.IsValid() {
			texts = append(texts, x.V6.String())
		}
		return strings.Join(texts, ",")
	case string:
		return withoutSecrets(x)
	}
	switch v.Kind() {
	case reflect.Slice:
		out := []any{}
		for i := range v.Len() {
			out = append(out, shown(path, v.Index(i)))
		}
		return out
	case reflect.Map:
		out := map[string]any{}
		for _, k := range v.MapKeys() {
			out[k.String()] = shown(path+"."+k.String(), v.MapIndex(k))
			if path == "keys" {
				out[k.String()] = hidden
			}
		}
		return out
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return shown(path, v.Elem())
	case reflect.Struct:
		out := map[string]any{}
		for i := range v.NumField() {
			field := v.Type().Field(i)
			if tag := field.Tag.Get("yaml"); tag != "" && field.IsExported() && !v.Field(i).IsZero() {
				out[tag] = shown(path+"."+tag, v.Field(i))
			}
		}
		return out
	}
	return v.Interface()
}

// withoutSecrets is a text in which a URL has neither a password nor the values of its
// query.
func withoutSecrets(text string) string {
	if !strings.Contains(text, "://") {
		return text
	}
	u, err := url.Parse(text)
	if err != nil {
		return hidden // what cannot be read may have one
	}
	if _, has := u.User.Password(); has {
		u.User = url.UserPassword(u.User.Username(), hidden)
	}
	if q := u.Query(); len(q) > 0 {
		for name := range q {
			if name != "endpoint" && name != "region" && name != "forcePathStyle" {
				q.Set(name, hidden)
			}
		}
		u.RawQuery = q.Encode()
	}
	return strings.ReplaceAll(u.String(), url.QueryEscape(hidden), hidden)
}

// inline is a value as YAML on one line.
func inline(v any) string {
	if v == nil {
		return ""
	}
	var n yaml.Node
	if err := n.Encode(v); err != nil {
		return hidden // no value of ours is such a one
	}
	flow(&n)
	text, err := yaml.Marshal(&n)
	if err != nil {
		return hidden
	}
	return strings.TrimSpace(string(text))
}

func flow(n *yaml.Node) {
	n.Style |= yaml.FlowStyle
	for _, c := range n.Content {
		flow(c)
	}
}
