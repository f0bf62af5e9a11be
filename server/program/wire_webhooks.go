package program

import (
	"context"
	"fmt"
	"time"

	"parlor/server/authorize"
	"parlor/webhooks"
)

// openWebhooks makes what sends events to the operator's services.
func (p *program) openWebhooks() {
	cfg := p.cfg
	c := webhooks.Config{
		Store: p.store, Keys: cfg.Keys, Key: cfg.Webhook.APIKey, Logger: p.log, Barrier: p.barrier(),
		UserAgent: "Parlor/" + version(), Ordering: webhooks.Ordering(cfg.Webhook.Ordering),
		MaxPending: orNone(cfg.Webhook.MaxPending),
	}
	if p.replica != nil {
		c.Allow = p.replica.Check
	}
	for _, url := range cfg.Webhook.URLs {
		c.Endpoints = append(c.Endpoints, webhooks.Endpoint{
			URL:     url,
			Include: cfg.Webhook.FilterParams.IncludeEvents,
			Exclude: cfg.Webhook.FilterParams.ExcludeEvents,
		})
	}
	for _, e := range cfg.Webhook.Endpoints {
		filter := e.FilterParams
		if filter.Empty() {
			filter = cfg.Webhook.FilterParams
		}
		c.Endpoints = append(c.Endpoints, webhooks.Endpoint{
			URL: e.URL, Name: e.Name, Key: e.APIKey, Include: filter.IncludeEvents, Exclude: filter.ExcludeEvents,
			Ordering: webhooks.Ordering(e.Ordering), Secrets: e.Secrets,
			RetryFor: time.Duration(e.RetryFor), Concurrency: e.Concurrency,
		})
	}
	p.hooks = webhooks.New(c)
}

// barrier returns a function that waits until the replica has everything that is
// committed.
func (p *program) barrier() func(context.Context, int64) error {
	if p.replica == nil || !p.cfg.Webhook.AfterReplication {
		return nil
	}
	return func(ctx context.Context, _ int64) error { return p.replica.Barrier(ctx) }
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
