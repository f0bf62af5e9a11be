package program

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"parlor/server/api"
)

// checkFrom has a Parlor on another machine, whose key stands in the URL, try the ports of
// this one.
func (c *clientFlags) checkFrom(ctx context.Context, env Environment, from string) []api.Check {
	const what = "from outside"
	other, err := strangerOf(from, env)
	if err != nil {
		return []api.Check{rowFailed(what, err.Error(), "give it as https://KEY:SECRET@calls.example.com, with a key of the server there")}
	}
	cfg, err := c.load(env)
	if err != nil {
		return nil // checkAll reports it
	}
	ports := openPorts(cfg)
	if len(ports) == 0 {
		return []api.Check{rowWarning(what, "all ports are of this machine alone", "see bind_addresses if others are to call")}
	}
	var asks []portOutside
	for _, p := range ports {
		for port := p.first; port <= p.last; port++ {
			asks = append(asks, portOutside{p.protocol, uint32(port)})
		}
	}
	var all []api.Check
	if len(asks) > maxOutside {
		all = append(all, rowWarning(what, fmt.Sprintf("only the first %d of %d ports were tried", maxOutside, len(asks)), "one UDP port is enough for all: see rtc.udp_port"))
		asks = asks[:maxOutside]
	}
	for some := range slices.Chunk(asks, api.MaxReached) {
		var ask api.ReachRequest
		for _, p := range some {
			if p.protocol == "TCP" {
				ask.TCP = append(ask.TCP, p.port)
			} else {
				ask.UDP = append(ask.UDP, p.port)
			}
		}
		var answer api.ReachAnswer
		if _, err := other.call(ctx, http.MethodPost, "/reachability", nil, &ask, &answer); err != nil {
			return append(all, rowFailed(what, "the server at "+other.base+" cannot be asked: "+err.Error(), "see whether it is a Parlor of this version, and the key one of its own"))
		}
		for _, p := range answer.Ports {
			found := fmt.Sprintf("%s %d at ", strings.ToUpper(printable(p.Protocol, cellWidth)), p.Port) + printable(answer.Address, cellWidth) + ": " + printable(p.Found, lineWidth)
			if p.Reached {
				all = append(all, rowOK(what, found))
			} else {
				all = append(all, rowFailed(what, found, "start the server if it does not run, and open that port in the firewalls of this machine and its network"))
			}
		}
	}
	return all
}

// portOutside is a port that is to be tried from outside.
type portOutside struct {
	protocol string // TCP or UDP
	port     uint32
}

// maxOutside bounds the ports that are tried, as a range of media's may be long.
const maxOutside = 64

// strangerOf is a client of the server at a URL that has an API key and its secret.
func strangerOf(from string, env Environment) (*client, error) {
	u, err := url.Parse(from)
	if err != nil {
		return nil, errors.New("the URL of --from or PARLOR_CHECK_FROM is none") // the error would repeat the secret
	}
	secret, ok := u.User.Password()
	if !ok {
		return nil, errors.New("the URL of --from or PARLOR_CHECK_FROM has no API key and secret")
	}
	flags := clientFlags{keyFlags: keyFlags{apiKey: u.User.Username(), secret: secret}}
	u.User = nil
	flags.url = u.String()
	return flags.connect(env)
}
