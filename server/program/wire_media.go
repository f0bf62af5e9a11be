package program

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"parlor/media"
	"parlor/rooms"
	"parlor/server/config"
)

func mediaConfig(cfg *config.Config, addresses []string, log *slog.Logger) media.Config {
	ports := cfg.RTC.UDPPorts()
	c := media.Config{
		UDPPort:           [2]int{ports[0], ports[len(ports)-1]},
		TCPPort:           cfg.RTC.TCPPort,
		TCPHanded:         cfg.OneDoor() && cfg.RTC.TCPPort == cfg.Port,
		BindAddresses:     addresses,
		UseExternalIP:     cfg.RTC.UseExternalIP,
		ExternalName:      cfg.Domain,
		DiscoverySTUN:     cfg.RTC.DiscoverySTUN(),
		STUNServers:       cfg.RTC.STUNServers,
		ICEServers:        turnServers(cfg),
		LoopbackCandidate: cfg.RTC.EnableLoopbackCandidate,
		IncludeInterfaces: cfg.RTC.Interfaces.Includes,
		ExcludeInterfaces: cfg.RTC.Interfaces.Excludes,
		IncludeIPs:        cfg.RTC.IPs.Includes,
		ExcludeIPs:        cfg.RTC.IPs.Excludes,
		EnabledCodecs:     codecs(cfg),
		SlowThreshold:     cfg.RTC.DatachannelSlowThreshold,
		LossyLatency:      time.Duration(cfg.RTC.DatachannelLossyTargetLatency),
		DataTrackLatency:  time.Duration(cfg.RTC.DatachannelDataTrackTargetLatency),
		MaxForwardedAudio: cfg.Audio.MaxForwarded,
		TURN:              turnConfig(cfg),
		Log:               log,
	}
	for _, ip := range []netip.Addr{cfg.RTC.NodeIP.V4, cfg.RTC.NodeIP.V6} {
		if ip.IsValid() {
			c.NodeIPs = append(c.NodeIPs, ip.String())
		}
	}
	return c
}

// turnConfig configures the built-in TURN server; nil if there is none.
func turnConfig(cfg *config.Config) *media.TURNConfig {
	t := &cfg.TURN
	if !t.Enabled {
		return nil
	}
	c := &media.TURNConfig{
		Secret:     func(apiKey string) string { return cfg.Keys[apiKey] },
		UDPPort:    t.UDPPort,
		ForceRelay: t.ForceRelay,
		TTL:        time.Duration(t.TTLSeconds) * time.Second,
		Allow:      prefixes(t.Relay.Allow),
		Deny:       prefixes(slices.Concat(t.Relay.Deny, t.DenyPeerCIDRs)),
		FirstPort:  uint16(t.RelayRangeStart), LastPort: uint16(t.RelayRangeEnd),
		PerSession: orNone(t.MaxAllocationsPerParticipant), PerNetwork: orNone(t.MaxAllocationsPerAddress), All: orNone(t.MaxAllocations),
	}
	if t.ExternalTLS && !t.ProxyProtocol {
		c.PerNetwork = -1 // all connections come from the load balancer
	}
	if cfg.Domain != "" && cfg.OneDoor() {
		c.Name = cfg.Domain
	}
	if t.TLSPort != 0 && t.TLSPort == cfg.Port {
		// One door: TURN over plain TCP comes through it as well.
		c.URLs = append(c.URLs, "turn:"+net.JoinHostPort(t.Domain, strconv.Itoa(t.TLSPort))+"?transport=tcp", turnsURL(t.Domain, t.TLSPort))
	} else if t.TLSPort != 0 {
		const usual = 443 // LiveKit's clients are told of this port, whatever the true one is
		c.URLs = append(c.URLs, turnsURL(t.Domain, usual))
		if t.TLSPort != usual && !t.ExternalTLS {
			c.URLs = append(c.URLs, turnsURL(t.Domain, t.TLSPort))
		}
	}
	return c
}

func turnsURL(host string, port int) string {
	return "turns:" + net.JoinHostPort(host, strconv.Itoa(port)) + "?transport=tcp"
}

// orNone is a configured limit, of which 0 is none, in the form of the parts, where 0 is
// their default and -1 none.
func orNone[N int | int64](limit N) N {
	if limit == 0 {
		return -1
	}
	return limit
}

func prefixes(cidrs []string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range cidrs {
		if p, err := netip.ParsePrefix(text); err == nil { // the configuration's check has reported the others
			all = append(all, p.Masked())
		}
	}
	return all
}

// turnServers are the configured TURN servers in the form for clients (RFC 7065).
func turnServers(cfg *config.Config) []media.ICEServer {
	var all []media.ICEServer
	for i := range cfg.RTC.TURNServers {
		t := &cfg.RTC.TURNServers[i]
		if !t.HasCredentials() {
			continue
		}
		scheme, transport := "turn", t.Protocol
		if t.Protocol == "tls" {
			scheme, transport = "turns", "tcp"
		}
		all = append(all, media.ICEServer{
			URLs:     []string{fmt.Sprintf("%s:%s?transport=%s", scheme, net.JoinHostPort(t.Host, strconv.Itoa(t.Port)), transport)},
			Username: t.Username, Credential: t.Credential,
			Secret: t.Secret, TTL: t.Lifetime(),
		})
	}
	return all
}

// codecs are the mime types that may be published, video first.
func codecs(cfg *config.Config) []string {
	if len(cfg.Room.EnabledCodecs) == 0 {
		return rooms.Codecs()
	}
	var video, audio []string
	for _, c := range cfg.Room.EnabledCodecs {
		if c.Mime[0] == 'v' || c.Mime[0] == 'V' {
			video = append(video, c.Mime)
		} else {
			audio = append(audio, c.Mime)
		}
	}
	return append(video, audio...)
}
