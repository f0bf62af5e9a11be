package config

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Reference is the table of keys as Markdown, for the README: what is applied,
// with defaults, then what is accepted and does nothing.
func Reference() string {
	var b strings.Builder
	b.WriteString("| key | default | meaning |\n|---|---|---|\n")
	for _, k := range Keys() {
		if k.Effect == Applied {
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", k.Path, defaultOf(k.Path), k.Doc)
		}
	}
	for _, part := range []struct {
		effect Effect
		title  string
	}{
		{Renamed, "Old names, taken with a warning"},
		{Cluster, "Accepted with a warning, since they mean something in a cluster alone"},
		{Tuning, "Accepted with a warning, since Parlor does this its own way"},
		{Absent, "Accepted with a warning, since this version of Parlor does not have what they configure"},
	} {
		var names []string
		for _, k := range Keys() {
			if k.Effect == part.effect {
				names = append(names, "`"+k.Path+"`")
			}
		}
		if len(names) > 0 {
			fmt.Fprintf(&b, "\n%s: %s.\n", part.title, strings.Join(names, ", "))
		}
	}
	return b.String()
}

// defaultOf shows the default of a key as one would write it.
func defaultOf(path string) string {
	l := &loader{config: Default()}
	v, ok := l.field(path)
	if !ok {
		return "" // an item of a list
	}
	switch d := v.Interface().(type) {
	case Duration:
		return "`" + short(time.Duration(d)) + "`"
	case Retention:
		return "`" + short(time.Duration(d)) + "`"
	case PortRange:
		return fmt.Sprintf("`%d`", DefaultUDPPort)
	case NodeIP:
		return ""
	}
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return ""
	case reflect.String:
		if v.String() == "" {
			return ""
		}
	}
	return fmt.Sprintf("`%v`", v.Interface())
}

// short is d without the zero units that its String carries.
func short(d time.Duration) string {
	if d > 0 && d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
