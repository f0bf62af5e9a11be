package program

import (
	"fmt"
	"net/netip"
	"time"

	"parlor/server/authorize"
	"parlor/server/config"
	"parlor/server/ratelimit"
	"parlor/webhooks"
)

// redeemsPerAddress is the number of invitations that one client address may redeem each
// second. The people of a company may share one address and join a meeting at the same time,
// so the burst is large.
const redeemsPerAddress = 10

// rateLimits makes the limits of API requests, of joins and of redeemed invitations.
func (p *program) rateLimits() (requests, joins, redeems *ratelimit.Limits) {
	l := p.cfg.Limit
	requests = ratelimit.New(ratelimit.Config{
		What: "requests", PerAddress: l.RequestsPerAddress, PerKey: l.RequestsPerKey, Burst: time.Duration(l.Burst),
	})
	joins = ratelimit.New(ratelimit.Config{
		What: "joins", PerAddress: l.JoinsPerAddress, PerKey: l.JoinsPerKey, Burst: time.Duration(l.Burst),
	})
	redeems = ratelimit.New(ratelimit.Config{What: "invitations", PerAddress: redeemsPerAddress, Burst: time.Duration(l.Burst)})
	p.registry.MustRegister(requests, joins, redeems)
	return requests, joins, redeems
}

func trustedProxies(cfg *config.Config) []netip.Prefix {
	all := make([]netip.Prefix, 0, len(cfg.TrustedProxies))
	for _, cidr := range cfg.TrustedProxies {
		if p, err := netip.ParsePrefix(cidr); err == nil { // loading has checked them
			all = append(all, p)
		}
	}
	return all
}

// openAuthorize makes the authorization hook.
func (p *program) openAuthorize() error {
	key := p.cfg.HookKey()
	signer, err := webhooks.NewSigner(key, p.cfg.Keys[key])
	if err != nil {
		return fmt.Errorf("hooks.authorize: %w", err)
	}
	hooks := p.cfg.Hooks
	p.asks = authorize.New(authorize.Config{
		URL: hooks.Authorize, Timeout: time.Duration(hooks.Timeout), AllowOnFailure: hooks.OnFailure == "allow",
		Cache: time.Duration(hooks.Cache), Signer: signer, UserAgent: "Parlor/" + version(), Log: p.log,
	})
	p.registry.MustRegister(p.asks)
	return nil
}
