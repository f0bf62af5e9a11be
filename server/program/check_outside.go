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
	"parlor/server/config"
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
	var ask api.ReachRequest
	var all []api.Check
	for _, p := range ports {
		switch {
		case p.protocol == "TCP":
			ask.TCP = append(ask.TCP, uint32(p.first))
		case !answersSTUN(cfg, p):
			all = append(all, rowWarning(what, p.String()+" was not tried: media alone answers nobody who is in no call",
				"turn on turn.enabled with that port as turn.udp_port, or have two people call each other with UDP alone"))
		default:
			ask.UDP = append(ask.UDP, uint32(cfg.TURN.UDPPort))
		}
	}
	if len(ask.TCP)+len(ask.UDP) == 0 {
		return all
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
	return all
}

// answersSTUN reports whether the TURN server has a UDP port.
func answersSTUN(cfg *config.Config, p openPort) bool {
	return cfg.TURN.Enabled && slices.Contains(p.uses, "TURN")
}

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
