package program

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"parlor/media"
	"parlor/server/api"
)

// names are the DNS names by which clients reach the server.
func (i *inspection) names() (all []string) {
	if i.cfg.TLS.CertFile == "" {
		if i.cfg.Domain != "" {
			return acmeNames(i.cfg)
		}
		return nil
	}
	leaf, err := readCertificate(i.cfg.TLS.CertFile)
	if err != nil {
		return nil // checkCertificate reports it
	}
	for _, name := range leaf.DNSNames {
		if strings.Contains(name, ".") && !strings.HasPrefix(name, "*") {
			all = append(all, name)
		}
	}
	return all
}

// checkNames checks whether the names lead to this machine.
func (i *inspection) checkNames(ctx context.Context) (all []api.Check) {
	const what = "DNS"
	ours := i.ourAddresses()
	for _, name := range i.names() {
		found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		if err != nil {
			all = append(all, rowFailed(what, fmt.Sprintf("%s leads nowhere: %v", name, err), "make an A or AAAA record of the name with this machine's address"))
			continue
		}
		nat := name == i.cfg.Domain && !i.cfg.RTC.NodeIP.V4.IsValid() && !i.cfg.RTC.NodeIP.V6.IsValid() && !i.cfg.RTC.UseExternalIP
		all = append(all, judgeName(name, found, ours, nat))
	}
	return all
}

// judgeName judges to what a name leads. nat: the server takes the addresses of a NAT before
// this machine from that name.
func judgeName(name string, found, ours []netip.Addr, nat bool) api.Check {
	const what = "DNS"
	for i := range found {
		found[i] = found[i].Unmap()
	}
	if told := media.NATAddresses(found, ours); nat && len(told) == len(found) && len(told) > 0 {
		return rowOK(what, fmt.Sprintf("%s leads to %s, which is told to clients: this machine has no public address (%s), so that must be a NAT before it", name, addresses(told), addresses(ours)))
	}
	var here, elsewhere []string
	for _, a := range found {
		if a = a.Unmap(); slices.Contains(ours, a) {
			here = append(here, a.String())
		} else {
			elsewhere = append(elsewhere, a.String())
		}
	}
	switch {
	case len(elsewhere) == 0:
		return rowOK(what, fmt.Sprintf("%s leads here, to %s", name, strings.Join(here, ", ")))
	case len(here) == 0:
		return rowWarning(what, fmt.Sprintf("%s leads to %s, which is no address of this machine (%s)", name, strings.Join(elsewhere, ", "), addresses(ours)),
			"change the record, unless that is a proxy or a NAT in front of this machine; set rtc.node_ip to the NAT's address")
	}
	return rowWarning(what, fmt.Sprintf("%s leads here, to %s, and also to %s", name, strings.Join(here, ", "), strings.Join(elsewhere, ", ")),
		"take the other address out of the record: who gets it does not reach this server")
}

func addresses(all []netip.Addr) string {
	var texts []string
	for _, a := range all {
		if !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			texts = append(texts, a.String())
		}
	}
	if len(texts) == 0 {
		return "it has none"
	}
	return strings.Join(texts, ", ")
}

// ourAddresses are the addresses of the interfaces, and those that the configuration
// advertises to clients.
func (i *inspection) ourAddresses() (all []netip.Addr) {
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		interfaces = nil // then no name leads here, which is reported
	}
	for _, a := range interfaces {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			all = append(all, p.Addr().Unmap())
		}
	}
	for _, a := range []netip.Addr{i.cfg.RTC.NodeIP.V4, i.cfg.RTC.NodeIP.V6} {
		if a.IsValid() {
			all = append(all, a)
		}
	}
	return all
}

// checkMapping asks the configured STUN servers whether there is a NAT, and, of those that
// can tell, whether media's UDP ports are reached from outside.
func (i *inspection) checkMapping(ctx context.Context) (all []api.Check) {
	servers := i.cfg.RTC.STUNServers
	if len(servers) == 0 {
		return nil // only configured servers are asked
	}
	var sights []media.Sight
	var err error
	switch {
	case i.server != nil:
		sights, err = i.server.media.Seen(ctx, servers)
	case i.running: // the ports are the server's
		var addr netip.Addr
		addr, err = media.ExternalAddress(ctx, servers)
		sights = []media.Sight{{Mapped: netip.AddrPortFrom(addr, 0)}}
	default:
		sights, err = media.SeenFrom(ctx, i.cfg.RTC.UDPPorts(), servers)
		if len(sights) == 0 && errors.Is(err, media.ErrPort) { // checkPorts reports it
			var addr netip.Addr
			addr, err = media.ExternalAddress(ctx, servers)
			sights = []media.Sight{{Mapped: netip.AddrPortFrom(addr, 0)}}
		}
	}
	if err != nil && !errors.Is(err, media.ErrPort) {
		all = append(all, judgeUnseen(err, ctx.Err() != nil))
	}
	if len(sights) == 0 || !sights[0].Mapped.IsValid() {
		return all
	}
	all = append(all, judgeMapping(sights[0].Mapped.Addr(), i.ourAddresses(), i.cfg.RTC.UseExternalIP))
	for _, s := range sights {
		all = append(all, judgeSight(s)...)
	}
	return all
}

// judgeUnseen judges why a STUN server has not seen a port of media, or this machine. ended: the
// time of the check has.
func judgeUnseen(err error, ended bool) api.Check {
	const what = "NAT"
	switch {
	case ended:
		return rowWarning(what, "the servers of rtc.stun_servers were not asked to the end, as the time of the check was over: "+err.Error(), "check again")
	case errors.Is(err, media.ErrUnanswered):
		return rowWarning(what, "a server of rtc.stun_servers answers this machine, but not its ports of media: "+err.Error(), "let UDP pass between these ports and all others in the firewalls of this machine and its network")
	case media.Silent(err):
		return rowWarning(what, "no server of rtc.stun_servers answers: "+err.Error(), "let UDP out to them, or take them out of the configuration: clients wait for them, too")
	}
	return rowWarning(what, "the servers of rtc.stun_servers do not tell how others see this machine: "+err.Error(), "see what the error names, or take the server out of the configuration: clients ask it, too")
}

// judgeSight judges how a STUN server sees a port of media.
func judgeSight(s media.Sight) (all []api.Check) {
	if s.Mapped.Port() != s.Port {
		all = append(all, rowWarning("NAT", fmt.Sprintf("others see UDP port %d as port %d", s.Port, s.Mapped.Port()),
			fmt.Sprintf("have the NAT forward its UDP port %d to this machine, which is the one that clients are told", s.Port)))
	}
	switch s.Strangers {
	case media.Reached:
		all = append(all, rowOK("from outside", fmt.Sprintf("UDP %d: it is reached from an address of %s that this machine has sent nothing to", s.Port, s.Server)))
	case media.NotReached:
		all = append(all, rowWarning("from outside", fmt.Sprintf("UDP %d: what %s sends from another address does not arrive", s.Port, s.Server),
			"open that port in the firewalls of this machine and its network; another Parlor can try it as well (--from)"))
	case media.ReachUnknown:
	}
	return all
}

func judgeMapping(seen netip.Addr, ours []netip.Addr, asks bool) api.Check {
	const what = "NAT"
	switch {
	case slices.Contains(ours, seen):
		return rowOK(what, fmt.Sprintf("others see this machine as %s, which clients are told", seen))
	case asks:
		return rowOK(what, fmt.Sprintf("others see this machine as %s, which rtc.use_external_ip tells clients", seen))
	}
	return rowWarning(what, fmt.Sprintf("others see this machine as %s, and clients are told %s", seen, addresses(ours)),
		fmt.Sprintf("set rtc.node_ip to %s, or rtc.use_external_ip to true, and forward the ports of media there", seen))
}

// checkAuthorityClock compares this machine's clock with the certificate authority's, where
// no replica tells the time.
func (i *inspection) checkAuthorityClock(ctx context.Context) []api.Check {
	if i.cfg.Replica != "" || i.cfg.Domain == "" || i.cfg.TLS.CertFile != "" {
		return nil
	}
	directory := directoryOf(i.cfg)
	ahead, err := clockAgainst(ctx, directory)
	if err != nil {
		return []api.Check{rowWarning("clock", "the certificate authority does not tell the time: "+err.Error(), "let this machine reach "+directory+": certificates come from there")}
	}
	return []api.Check{judgeClock(ahead, "the certificate authority")}
}

// clockAgainst is how far this machine's clock is ahead of that of the HTTP server at a URL.
func clockAgainst(ctx context.Context, url string) (time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
	if err != nil {
		return 0, err
	}
	asked := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	answered := time.Now()
	if err := resp.Body.Close(); err != nil {
		return 0, err
	}
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return 0, fmt.Errorf("its answer has no date: %w", err)
	}
	// Half of a trip has passed since then, and half a second of what the header leaves out.
	return asked.Add(answered.Sub(asked) / 2).Sub(date.Add(time.Second / 2)), nil
}
