package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"parlor/rooms"
)

// This file checks values that the server passes on and clients parse. A browser throws
// on an ICE server's URL that it cannot parse, and then nobody can join.

const (
	stunPort   = 3478  // of STUN and TURN by default (RFC 8489, section 18.6)
	turnsPort  = 5349  // of TURN over TLS
	maxDelay   = 40950 // ms, the most that the RTP header extension for playout delay can carry
	maxICEText = 509   // bytes of a TURN user name or password that WebRTC's API accepts
)

// validateSTUN checks rtc.stun_servers and rewrites each as host:port.
func (l *loader) validateSTUN(r *RTC) {
	for i, text := range r.STUNServers {
		path := fmt.Sprintf("rtc.stun_servers[%d]", i)
		scheme, rest := cutScheme(text)
		if scheme != "" && scheme != "stun" {
			l.problem(nil, path, "%s is not a STUN server such as stun.example.org:3478; "+
				"TURN servers belong under rtc.turn_servers", quote(text))
			continue
		}
		host, port, err := parseHostPort(rest)
		if err != nil {
			l.problem(nil, path, "%s is not a STUN server such as stun.example.org:3478: %v", quote(text), err)
			continue
		}
		if port == 0 {
			port = stunPort
		}
		r.STUNServers[i] = net.JoinHostPort(host, strconv.Itoa(port))
	}
}

// validateTURN checks an entry of rtc.turn_servers. If the host is a whole URL, it splits
// the URL and checks its parts against the other keys.
func (l *loader) validateTURN(t *TURNServer, path string) {
	if t.Host == "" {
		l.problem(nil, path+".host", "is missing")
	} else {
		l.turnHost(t, path)
	}
	if t.Port < 1 || t.Port > 65535 {
		l.problem(nil, path+".port", "must be a port from 1 to 65535")
	}
	if !t.HasCredentials() {
		l.warn("%s has no username and credential, and no secret; clients are not told of it", path)
	}
	if len(t.Username) > maxICEText {
		l.problem(nil, path+".username", "is longer than the %d bytes that browsers take", maxICEText)
	}
	if len(t.Credential) > maxICEText {
		l.problem(nil, path+".credential", "is longer than the %d bytes that browsers take", maxICEText)
	}
	if !slices.Contains([]string{"udp", "tcp", "tls"}, t.Protocol) {
		l.problem(nil, path+".protocol", "must be udp, tcp or tls")
	}
}

func (l *loader) turnHost(t *TURNServer, path string) {
	scheme, rest := cutScheme(t.Host)
	rest, query, hasQuery := strings.Cut(rest, "?")
	host, port, err := parseHostPort(rest)
	if err != nil {
		l.problem(nil, path+".host", "%s is not a name or an address: %v", quote(t.Host), err)
		return
	}
	protocol := ""
	switch {
	case scheme == "turns":
		protocol = "tls"
	case scheme != "" && scheme != "turn":
		l.problem(nil, path+".host", "%s is not a TURN server: its scheme is %s", quote(t.Host), scheme)
		return
	case query == "transport=udp":
		protocol = "udp"
	case query == "transport=tcp":
		protocol = "tcp"
	}
	if hasQuery && query != "transport=tcp" && (query != "transport=udp" || scheme == "turns") {
		l.problem(nil, path+".host", "%s is not a name or an address: what stands after the question mark is no transport", quote(t.Host))
		return
	}
	if protocol != "" && t.Protocol != "" && protocol != t.Protocol {
		l.problem(nil, path+".host", "%s says %s, and protocol says %s", quote(t.Host), protocol, t.Protocol)
		return
	}
	if port != 0 && t.Port != 0 && port != t.Port {
		l.problem(nil, path+".host", "%s says port %d, and port says %d", quote(t.Host), port, t.Port)
		return
	}
	if port == 0 && scheme != "" { // a URL without a port means its scheme's port
		port = stunPort
		if scheme == "turns" {
			port = turnsPort
		}
	}
	t.Host = host
	fill(&t.Protocol, protocol)
	fill(&t.Port, port)
}

// validateTLS checks the TLS keys and the keys for the certificate authority.
func (l *loader) validateTLS(c *Config) {
	t := &c.TLS
	l.port("tls.http_port", t.HTTPPort)
	if (t.CertFile == "") != (t.KeyFile == "") {
		l.problem(nil, "tls", "needs both cert_file and key_file")
	}
	if t.SelfSigned && (t.CertFile != "" || c.Domain != "") {
		l.problem(nil, "tls.self_signed", "is in place of tls.cert_file and of domain")
	}
	if t.HTTPPort != 0 && (t.HTTPPort == c.Port || t.HTTPPort == c.RTC.TCPPort) {
		l.problem(nil, "tls.http_port", "must differ from port and rtc.tcp_port")
	}
	if t.HTTPPort != 0 && c.Domain == "" {
		l.problem(nil, "tls.http_port", "needs domain, to which it sends everybody")
	}
	if t.ACME.Directory != "" && !isHTTP(t.ACME.Directory) {
		l.problem(nil, "tls.acme.directory", "%q is not a URL such as https://acme-v02.api.letsencrypt.org/directory", t.ACME.Directory)
	}
	if t.ACME.Staging && t.ACME.Directory != "" {
		l.problem(nil, "tls.acme.staging", "is Let's Encrypt's, and tls.acme.directory names another")
	}
	if c.Domain == "" {
		return
	}
	if err := checkHost(c.Domain); err != nil {
		l.problem(nil, "domain", "%s is not a name: %v", quote(c.Domain), err)
	}
	if _, err := netip.ParseAddr(c.Domain); err == nil || !strings.Contains(c.Domain, ".") {
		l.problem(nil, "domain", "%s is not a name of the public DNS such as calls.example.com", quote(c.Domain))
	}
}

// validateOwnTURN checks the keys of the built-in TURN server.
func (l *loader) validateOwnTURN(c *Config) {
	t := &c.TURN
	l.port("turn.udp_port", t.UDPPort)
	l.port("turn.tls_port", t.TLSPort)
	l.port("turn.relay_range_start", t.RelayRangeStart)
	l.port("turn.relay_range_end", t.RelayRangeEnd)
	if t.RelayRangeEnd < t.RelayRangeStart {
		l.problem(nil, "turn.relay_range_end", "must not be less than turn.relay_range_start")
	}
	for path, all := range map[string][]string{
		"turn.relay.allow": t.Relay.Allow, "turn.relay.deny": t.Relay.Deny, "turn.deny_peer_cidrs": t.DenyPeerCIDRs,
		"turn.proxy_protocol_trusted_cidrs": t.ProxyProtocolTrustedCIDRs,
	} {
		for _, cidr := range all {
			if _, err := netip.ParsePrefix(cidr); err != nil {
				l.problem(nil, path, "%q is not a network such as 10.0.0.0/8", cidr)
			}
		}
	}
	for path, n := range map[string]int{
		"turn.ttl_seconds": t.TTLSeconds, "turn.max_allocations": t.MaxAllocations,
		"turn.max_allocations_per_participant": t.MaxAllocationsPerParticipant, "turn.max_allocations_per_address": t.MaxAllocationsPerAddress,
	} {
		if n < 0 {
			l.problem(nil, path, "must not be negative")
		}
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		l.problem(nil, "turn", "needs both cert_file and key_file, or neither")
	}
	if t.Domain != "" {
		if err := checkHost(t.Domain); err != nil {
			l.problem(nil, "turn.domain", "%s is not a name: %v", quote(t.Domain), err)
		}
	}
	if !t.Enabled {
		if t.ForceRelay {
			l.problem(nil, "turn.force_relay", "needs turn.enabled: else nobody could connect")
		}
		return
	}
	if t.TTLSeconds == 0 {
		l.problem(nil, "turn.ttl_seconds", "must be more than nothing")
	}
	if t.ProxyProtocol && (t.TLSPort == 0 || t.TLSPort == c.Port) {
		l.problem(nil, "turn.proxy_protocol", "is for turn.tls_port, which must be a port of its own")
	}
	if t.ProxyProtocol && len(t.ProxyProtocolTrustedCIDRs) == 0 {
		l.problem(nil, "turn.proxy_protocol_trusted_cidrs", "is empty: no proxy could connect")
	}
	if t.TLSPort == 0 {
		return
	}
	if t.Domain == "" {
		l.problem(nil, "turn.domain", "is missing: clients connect to turn.tls_port by its name")
	}
	if !t.ExternalTLS && t.CertFile == "" && !c.SpeaksTLS() {
		l.problem(nil, "turn.tls_port", "needs a certificate: turn.cert_file and turn.key_file, or tls.cert_file and tls.key_file; "+
			"or turn.external_tls, if a load balancer speaks TLS")
	}
	if t.TLSPort == c.Port && t.CertFile != "" {
		l.problem(nil, "turn.cert_file", "has no place where turn.tls_port is port: tls.cert_file is shown there")
	}
	if t.TLSPort != c.Port && t.TLSPort == c.RTC.TCPPort {
		l.problem(nil, "turn.tls_port", "must differ from rtc.tcp_port, unless both are port")
	}
}

// quote repeats text in an error, unless it may hold a password.
func quote(text string) string {
	if strings.Contains(text, "@") {
		return "the text with an @ in it"
	}
	return strconv.Quote(text)
}

// cutScheme cuts off the scheme of an ICE server's URL (RFC 7064, RFC 7065), and the
// slashes that do not belong there but are often written.
func cutScheme(text string) (scheme, rest string) {
	for _, s := range []string{"stun", "stuns", "turn", "turns", "http", "https"} {
		if len(text) > len(s) && strings.EqualFold(text[:len(s)], s) && text[len(s)] == ':' {
			rest := text[len(s)+1:]
			if digits(rest) { // a host named stun, and its port
				continue
			}
			return s, strings.TrimPrefix(rest, "//")
		}
	}
	return "", text
}

func digits(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}

// parseHostPort reads a name or an address, IPv6 in brackets, and a port; the port is 0
// if there is none.
func parseHostPort(text string) (host string, port int, err error) {
	host, rest := text, ""
	switch a, addrErr := netip.ParseAddr(text); {
	case text == "":
		return "", 0, errors.New("it is empty")
	case addrErr == nil && a.Is6():
		return "", 0, errors.New("an IPv6 address is written in brackets, as [2001:db8::1]:3478")
	case text[0] == '[':
		inside, after, closed := strings.Cut(text[1:], "]")
		a, err := netip.ParseAddr(inside)
		if !closed || err != nil || !a.Is6() || a.Zone() != "" {
			return "", 0, errors.New("what stands in the brackets is not an IPv6 address")
		}
		host, rest = inside, after
	default:
		if i := strings.IndexByte(text, ':'); i >= 0 {
			host, rest = text[:i], text[i:]
		}
		if err := checkHost(host); err != nil {
			return "", 0, err
		}
	}
	if rest == "" {
		return host, 0, nil
	}
	if rest[0] != ':' || !digits(rest[1:]) {
		return "", 0, errors.New("after the host comes a colon and a port, or nothing")
	}
	port, err = strconv.Atoi(rest[1:])
	if err != nil || port < 1 || port > 65535 {
		return "", 0, errors.New("a port is from 1 to 65535")
	}
	return host, port, nil
}

// checkHost checks a host name or IPv4 address (RFC 1123, section 2.1). It accepts the
// underscore too, which names in private networks have.
func checkHost(host string) error {
	if len(host) > 253 {
		return errors.New("a name has at most 253 characters")
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		if label == "" || len(label) > 63 {
			return errors.New("the parts between dots have 1 to 63 characters")
		}
		for _, r := range label {
			if r > 127 {
				return errors.New("a name beyond ASCII is written in its xn-- form")
			}
			if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_') {
				return fmt.Errorf("%q has no place in a name", r)
			}
		}
	}
	if last := host[strings.LastIndexByte(host, '.')+1:]; digits(last) {
		if _, err := netip.ParseAddr(host); err != nil {
			return errors.New("it looks like an IPv4 address and is none")
		}
	}
	return nil
}

// validateNodeIP checks the addresses that clients send media to.
func (l *loader) validateNodeIP(ip NodeIP) {
	for _, a := range []netip.Addr{ip.V4, ip.V6} {
		if a.IsValid() && (a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})) {
			l.problem(nil, "rtc.node_ip", "nobody can send to %s; name an address of this machine that clients can reach", a)
		}
	}
}

func (l *loader) validateCodecs(r *Room) {
	known := rooms.Codecs()
	has := func(mime string) bool {
		return slices.ContainsFunc(r.EnabledCodecs, func(c Codec) bool { return strings.EqualFold(c.Mime, mime) })
	}
	for i := range r.EnabledCodecs {
		mime := r.EnabledCodecs[i].Mime
		at := slices.IndexFunc(known, func(k string) bool { return strings.EqualFold(k, mime) })
		// LiveKit's files list the format for retransmission, which every video codec has
		// here.
		if at < 0 && !strings.EqualFold(mime, "video/rtx") {
			l.problem(nil, fmt.Sprintf("room.enabled_codecs[%d].mime", i), "%q is none of %s", mime, strings.Join(known, ", "))
		}
	}
	if has("audio/red") && !has("audio/opus") {
		l.problem(nil, "room.enabled_codecs", "audio/red repeats audio/opus, which is missing")
	}
}

func (l *loader) validateDelay(path string, lowest, highest uint32) {
	switch {
	case lowest > maxDelay:
		l.problem(nil, path+".min", "must not be more than the %d ms that clients can be told", maxDelay)
	case highest > maxDelay:
		l.problem(nil, path+".max", "must not be more than the %d ms that clients can be told", maxDelay)
	case highest != 0 && lowest > highest:
		l.problem(nil, path+".min", "must not be greater than max")
	}
}

// validatePresets checks presets for what would make a request with them fail.
func (l *loader) validatePresets(c *Config) {
	for name, p := range c.Room.RoomConfigurations {
		path := "room.room_configurations." + name
		l.validateDelay(path+".playout_delay", p.MinPlayoutDelay, p.MaxPlayoutDelay)
		if most := c.Limit.MaxMetadataSize; most > 0 && len(p.Metadata) > most {
			l.problem(nil, path+".metadata", "is longer than limit.max_metadata_size")
		}
		size := 0
		for key, value := range p.Tags {
			size += len(key) + len(value)
		}
		if most := c.Limit.MaxAttributesSize; most > 0 && size > most {
			l.problem(nil, path+".tags", "are longer than limit.max_attributes_size")
		}
	}
}

// validateOrigin checks an origin as browsers send it (RFC 6454, section 6.2), and
// returns it in their spelling: in lower case, without the scheme's default port.
func (l *loader) validateOrigin(origin, path string) string {
	if origin == "*" {
		return origin
	}
	u, err := url.Parse(origin)
	if err != nil || u.Scheme == "" || u.Host == "" || len(u.Scheme)+len("://")+len(u.Host) != len(origin) || !portFits(u) {
		l.problem(nil, path, "%q is not an origin such as https://app.example", origin)
		return origin
	}
	host := strings.ToLower(u.Host)
	switch u.Scheme {
	case "http":
		host = strings.TrimSuffix(host, ":80")
	case "https":
		host = strings.TrimSuffix(host, ":443")
	}
	return u.Scheme + "://" + host
}

// portFits reports whether u has a valid port, or none.
func portFits(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	port, err := strconv.Atoi(u.Port())
	return err == nil && port >= 1 && port <= 65535
}

// isHTTP reports whether raw is an http or https URL to send requests to.
func isHTTP(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && u.Hostname() != "" && (u.Scheme == "http" || u.Scheme == "https") && portFits(u)
}
