package config

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The keys of development. The secret is public, so the server listens on loopback alone.
const (
	DevKey    = "devkey"
	DevSecret = "secret"
)

// keyFile adds the keys of key_file.
func (l *loader) keyFile() {
	name := os.ExpandEnv(l.config.KeyFile)
	if name == "" {
		return
	}
	l.from = name
	body, err := readPrivate(name)
	if err != nil {
		l.problem(nil, "key_file", "%v", err)
		return
	}
	n, err := parseSetting(string(body), reflect.TypeFor[map[string]string]())
	if err != nil {
		l.problem(nil, "key_file", "is not YAML")
		return
	}
	more := map[string]string{}
	if err := n.Decode(&more); err != nil {
		l.problem(nil, "key_file", "must have one `key: secret` a line")
		return
	}
	keys := maps.Clone(l.config.Keys)
	if keys == nil {
		keys = map[string]string{}
	}
	maps.Copy(keys, more)
	l.config.Keys = keys
}

// ownKeysFile is the name of the file, beside the database, with the API key of a server that
// has made its own.
const ownKeysFile = "keys.yaml"

// ownKeys reads the API key that a server made for itself. A server that has a domain and no
// API keys makes one if makes is set.
func (l *loader) ownKeys(makes bool) {
	c := l.config
	if c.Domain == "" || c.Development || c.KeyFile != "" || len(c.Keys) > 0 || c.Database == "" {
		return
	}
	name := filepath.Join(filepath.Dir(c.Database), ownKeysFile)
	switch _, err := os.Stat(name); {
	case errors.Is(err, fs.ErrNotExist) && !makes:
		l.problem(nil, "keys", "no API keys, and the server has made none in %s; is this its folder?", name)
		return
	case errors.Is(err, fs.ErrNotExist):
		if err := writeKeys(name); err != nil {
			l.problem(nil, "keys", "no API keys, and the file for one cannot be written: %v", err)
			return
		}
		l.warn("keys: there were none, so an API key was made; it is in %s, which only its owner can read", name)
	}
	c.KeyFile = name
	l.keyFile()
}

// NewKey makes an API key and its secret, of 43 characters.
func NewKey() (name, secret string) {
	random := make([]byte, 32+6)
	_, _ = rand.Read(random) // never fails
	return "API" + hex.EncodeToString(random[32:]), base64.RawURLEncoding.EncodeToString(random[:32])
}

// writeKeys makes a file with a new key. The file gets its name when the key is on disk.
func writeKeys(name string) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".keys-*") // mode 0600
	if err != nil {
		return err
	}
	key, secret := NewKey()
	_, err = fmt.Fprintf(f, "%s: %s\n", key, secret)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Link(f.Name(), name) // fails if the name is taken
	}
	return errors.Join(err, os.Remove(f.Name()))
}

// readPrivate reads a file of secrets, which other users must not be able to read.
func readPrivate(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	if info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("others may read it (mode %o); run chmod o= on it", info.Mode().Perm())
	}
	return readBounded(name)
}

// finish copies values of old names to the new ones, reads the files that keys name, and
// sets defaults that depend on other keys.
func (l *loader) finish() {
	l.from = ""
	c := l.config
	renamed := func(old, name string, from, to *int) {
		if l.wasGiven(old) && !l.wasGiven(name) {
			*to = *from
		}
	}
	renamed("prometheus_port", "prometheus.port", &c.PrometheusPort, &c.Prometheus.Port)
	renamed("room.max_metadata_size", "limit.max_metadata_size", &c.Room.MaxMetadataSize, &c.Limit.MaxMetadataSize)
	renamed("room.max_room_name_length", "limit.max_room_name_length", &c.Room.MaxRoomNameLength, &c.Limit.MaxRoomNameLength)
	renamed("room.max_participant_identity_length", "limit.max_participant_identity_length",
		&c.Room.MaxParticipantIdentityLength, &c.Limit.MaxParticipantIdentityLength)
	c.TURN.PerUserRelayAllocationLimit = max(c.TURN.PerUserRelayAllocationLimit, 0) // for LiveKit less than nothing is no limit, too
	renamed("turn.per_user_relay_allocation_limit", "turn.max_allocations_per_participant",
		&c.TURN.PerUserRelayAllocationLimit, &c.TURN.MaxAllocationsPerParticipant)
	if l.wasGiven("log_level") && !l.wasGiven("logging.level") {
		c.Logging.Level = c.LogLevel
	}
	for i := range c.RTC.TURNServers {
		l.turnSecrets(&c.RTC.TURNServers[i], fmt.Sprintf("rtc.turn_servers[%d]", i))
	}
	if c.Development {
		l.development()
	}
	l.mediaAddresses()
	if c.Domain != "" {
		l.oneDoor()
	}
	if t := &c.TURN; t.Enabled && t.UDPPort == 0 && t.TLSPort == 0 {
		t.UDPPort = stunPort
	}
}

// oneDoor sets the defaults that a domain implies: everything on one port, TURN included.
func (l *loader) oneDoor() {
	c := l.config
	c.Domain = strings.ToLower(strings.TrimSuffix(c.Domain, "."))
	const https, http = 443, 80
	for _, k := range []struct {
		path  string
		field *int
		value func() int
	}{
		{"port", &c.Port, func() int { return https }},
		{"tls.http_port", &c.TLS.HTTPPort, func() int { return http }},
		{"rtc.tcp_port", &c.RTC.TCPPort, func() int { return c.Port }},
		{"turn.tls_port", &c.TURN.TLSPort, func() int { return c.Port }},
	} {
		if !l.wasGiven(k.path) {
			*k.field = k.value()
		}
	}
	if !l.wasGiven("rtc.udp_port") && !l.wasGiven("rtc.port_range_start") {
		c.RTC.UDPPort = PortRange{Start: c.Port, End: c.Port, Set: true}
	}
	if !l.wasGiven("turn.udp_port") {
		c.TURN.UDPPort = c.RTC.UDPPorts()[0]
	}
	if !l.wasGiven("turn.enabled") {
		c.TURN.Enabled = true
	}
	fill(&c.TURN.Domain, c.Domain)
}

// mediaAddresses sets the addresses of media, and reports settings with which no client
// could reach them.
func (l *loader) mediaAddresses() {
	c := l.config
	if !l.wasGiven("rtc.bind_addresses") {
		c.RTC.BindAddresses = slices.Clone(c.BindAddresses)
	}
	for _, text := range c.RTC.BindAddresses {
		if ip, err := netip.ParseAddr(text); err != nil || !ip.IsLoopback() {
			return
		}
	}
	switch {
	case len(c.RTC.BindAddresses) == 0:
		return
	case !l.wasGiven("rtc.enable_loopback_candidate"):
		c.RTC.EnableLoopbackCandidate = true
	}
	if c.Development || l.wasGiven("rtc.bind_addresses") {
		return
	}
	const cure = "where HTTP alone is to be on loopback, as behind a proxy, name the addresses of media in rtc.bind_addresses, such as 0.0.0.0"
	switch ip := c.RTC.NodeIP; {
	case ip.V4.IsValid() && !ip.V4.IsLoopback(), ip.V6.IsValid() && !ip.V6.IsLoopback():
		l.problem(nil, "rtc.node_ip", "no client can reach it, since bind_addresses has media on loopback alone; %s", cure)
	case c.RTC.UseExternalIP:
		l.problem(nil, "rtc.use_external_ip", "no client can reach that address, since bind_addresses has media on loopback alone; %s", cure)
	case !l.wasGiven("rtc.enable_loopback_candidate"):
		l.warn("bind_addresses: media is on loopback alone, too, and no call from another machine can work; %s", cure)
	case !c.RTC.EnableLoopbackCandidate:
		l.warn("bind_addresses: media is on loopback alone, too, and no call can work, since rtc.enable_loopback_candidate is false; %s", cure)
	}
}

// development sets the defaults of --dev.
func (l *loader) development() {
	c := l.config
	if len(c.Keys) == 0 {
		c.Keys = map[string]string{DevKey: DevSecret}
	}
	if !l.wasGiven("bind_addresses") {
		c.BindAddresses = []string{"127.0.0.1", "::1"}
	}
	l.warnOfOpenDevelopment()
	if !l.wasGiven("rtc.enable_loopback_candidate") {
		c.RTC.EnableLoopbackCandidate = true
	}
	if c.Port == 0 { // a test, or a second server: avoid fixed ports
		if !l.wasGiven("rtc.udp_port") && !l.wasGiven("rtc.port_range_start") {
			c.RTC.UDPPort = PortRange{Set: true}
		}
		if !l.wasGiven("rtc.tcp_port") {
			c.RTC.TCPPort = 0
		}
	}
}

// warnOfOpenDevelopment warns of addresses that other machines can reach.
func (l *loader) warnOfOpenDevelopment() {
	addresses := l.config.BindAddresses
	if len(addresses) == 0 { // all addresses
		addresses = []string{"0.0.0.0"}
	}
	for _, text := range addresses {
		if ip, err := netip.ParseAddr(text); err != nil || ip.IsLoopback() {
			continue // invalid addresses are reported elsewhere
		}
		secret := ""
		if l.config.Keys[DevKey] == DevSecret {
			secret = ", and everybody knows the secret of " + DevKey
		}
		l.warn("bind_addresses: others can reach %s, where development gives everybody a token%s; "+
			"outside this machine run without --dev", text, secret)
	}
}

// turnSecrets reads the files that a TURN server's entry names.
func (l *loader) turnSecrets(t *TURNServer, path string) {
	if t.SecretFile != "" && t.Secret == "" {
		body, err := readPrivate(t.SecretFile)
		t.Secret = strings.TrimSpace(string(body))
		switch {
		case err != nil:
			l.problem(nil, path+".secret_file", "%v", err)
		case t.Secret == "":
			l.problem(nil, path+".secret_file", "is empty")
		}
	}
	if t.CredentialsFile == "" || t.Username != "" || t.Credential != "" {
		return
	}
	body, err := readPrivate(t.CredentialsFile)
	if err != nil {
		l.problem(nil, path+".credentials_file", "%v", err)
		return
	}
	var pair struct {
		Username   string `yaml:"username"`
		Credential string `yaml:"credential"`
	}
	d := yaml.NewDecoder(bytes.NewReader(body))
	d.KnownFields(true)
	if err := d.Decode(&pair); err != nil || pair.Username == "" || pair.Credential == "" {
		l.problem(nil, path+".credentials_file", "must have username and credential, and nothing else")
		return
	}
	t.Username, t.Credential = pair.Username, pair.Credential
}
