// Package devices tells what a kind of client is not to do: codecs that it does badly, to
// resume, or to connect without a relay. What is known is data, in known.yaml, and an
// operator may add to it.
//
// The nouns:
//
//   - A [Rule] tells of which clients it is, and what they are not to do.
//   - [Rules] are those of known.yaml with an operator's; [Restrictions] are what they come
//     to for one client.
package devices

import (
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/livekit/protocol/livekit"
	"go.yaml.in/yaml/v3"
)

//go:embed known.yaml
var known []byte

// Rule is what some clients are not to do. A client is meant if all that is set of the
// first fields is so; of a list, one. Upper and lower case are the same.
type Rule struct {
	SDKs           []string `yaml:"sdks"` // such as js, swift, android
	Version        string   `yaml:"version"`
	OS             []string `yaml:"os"`
	OSVersion      string   `yaml:"os_version"`
	DeviceModels   []string `yaml:"device_models"`
	Browsers       []string `yaml:"browsers"`
	BrowserVersion string   `yaml:"browser_version"`

	DisabledCodecs        []string `yaml:"disabled_codecs"`         // mime types, neither sent nor received
	DisabledPublishCodecs []string `yaml:"disabled_publish_codecs"` // not sent
	ForceRelay            bool     `yaml:"force_relay"`             // nothing but TURN
	NoResume              bool     `yaml:"no_resume"`               // a lost connection is begun again
}

// Check fails if r means no clients in particular, or has a version or codec that cannot be
// read.
func (r *Rule) Check() error {
	if len(r.SDKs)+len(r.OS)+len(r.DeviceModels)+len(r.Browsers) == 0 && r.Version == "" && r.OSVersion == "" && r.BrowserVersion == "" {
		return errors.New("must say which clients it is of, such as by browsers or os")
	}
	for _, v := range []string{r.Version, r.OSVersion, r.BrowserVersion} {
		if _, _, err := comparison(v); err != nil {
			return err
		}
	}
	for _, mime := range slices.Concat(r.DisabledCodecs, r.DisabledPublishCodecs) {
		if kind, name, _ := strings.Cut(mime, "/"); kind != "audio" && kind != "video" || name == "" {
			return fmt.Errorf("%q is no codec; such as video/av1", mime)
		}
	}
	return nil
}

// comparison reads a condition on a version: "> 18.3", ">= 2", "< 3.1", "<= 3", "17.1" for
// just that; "" is none.
func comparison(s string) (op, version string, err error) {
	s = strings.TrimSpace(s)
	version = strings.TrimLeft(s, "<>=")
	op = s[:len(s)-len(version)]
	version = strings.TrimSpace(version)
	switch op {
	case "", "<", "<=", ">", ">=", "=":
	default:
		return "", "", fmt.Errorf("%q is no condition on a version; such as > 18.3", s)
	}
	if s != "" && (version == "" || version[0] < '0' || version[0] > '9') {
		return "", "", fmt.Errorf("%q is no condition on a version; such as > 18.3", s)
	}
	return op, version, nil
}

// within reports whether a client's version is as a condition has it. A client that does
// not tell its version is not.
func within(version, condition string) bool {
	if condition == "" {
		return true
	}
	if version == "" {
		return false
	}
	op, wanted, err := comparison(condition)
	if err != nil {
		return false
	}
	c := compare(version, wanted)
	switch op {
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	case ">=":
		return c >= 0
	}
	return c == 0
}

// compare compares versions number by number: 18.10 is after 18.3, and 18.3 before 18.3.1.
func compare(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		if c := number(as, i) - number(bs, i); c != 0 {
			return c
		}
	}
	return 0
}

// number is the i-th part of a version, up to what is no digit.
func number(parts []string, i int) int {
	if i >= len(parts) {
		return 0
	}
	digits := parts[i]
	if end := strings.IndexFunc(digits, func(c rune) bool { return c < '0' || c > '9' }); end >= 0 {
		digits = digits[:end]
	}
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return n
}

// means reports whether r is of a client.
func (r *Rule) means(c *livekit.ClientInfo) bool {
	is := func(list []string, value string) bool {
		return len(list) == 0 || slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, value) })
	}
	return is(r.SDKs, strings.ReplaceAll(c.GetSdk().String(), "_", "")) && is(r.OS, c.GetOs()) &&
		is(r.DeviceModels, c.GetDeviceModel()) && is(r.Browsers, c.GetBrowser()) &&
		within(c.GetVersion(), r.Version) && within(c.GetOsVersion(), r.OSVersion) && within(c.GetBrowserVersion(), r.BrowserVersion)
}

// Rules are what is known, and an operator's own.
type Rules []Rule

// New is what is known, with own after it.
func New(own []Rule) (Rules, error) {
	var rules Rules
	if err := yaml.Unmarshal(known, &rules); err != nil {
		return nil, fmt.Errorf("read what is known of clients: %w", err)
	}
	rules = append(rules, own...)
	for i := range rules {
		if err := rules[i].Check(); err != nil {
			return nil, err
		}
	}
	return rules, nil
}

// Restrictions are what one client is not to do.
type Restrictions struct {
	Codecs, PublishCodecs []string // mime types: neither sent nor received, and not sent
	ForceRelay, NoResume  bool
}

// For is what a client is not to do.
func (rules Rules) For(c *livekit.ClientInfo) Restrictions {
	var all Restrictions
	for i := range rules {
		r := &rules[i]
		if !r.means(c) {
			continue
		}
		all.Codecs = append(all.Codecs, r.DisabledCodecs...)
		all.PublishCodecs = append(all.PublishCodecs, r.DisabledPublishCodecs...)
		all.ForceRelay = all.ForceRelay || r.ForceRelay
		all.NoResume = all.NoResume || r.NoResume
	}
	return all
}

// MayPublish reports whether the client may send a codec.
func (r *Restrictions) MayPublish(mime string) bool {
	return !slices.ContainsFunc(slices.Concat(r.Codecs, r.PublishCodecs), func(m string) bool { return strings.EqualFold(m, mime) })
}

// Configuration is what the client is told of it.
func (r *Restrictions) Configuration() *livekit.ClientConfiguration {
	c := &livekit.ClientConfiguration{}
	if r.ForceRelay {
		c.ForceRelay = livekit.ClientConfigSetting_ENABLED
	}
	if r.NoResume {
		c.ResumeConnection = livekit.ClientConfigSetting_DISABLED
	}
	if len(r.Codecs)+len(r.PublishCodecs) > 0 {
		c.DisabledCodecs = &livekit.DisabledCodecs{Codecs: codecs(r.Codecs), Publish: codecs(r.PublishCodecs)}
	}
	return c
}

func codecs(mimes []string) []*livekit.Codec {
	var all []*livekit.Codec
	for _, m := range mimes {
		all = append(all, &livekit.Codec{Mime: m})
	}
	return all
}
