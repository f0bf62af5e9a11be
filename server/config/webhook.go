package config

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"parlor/rooms/log"
)

func (l *loader) validateWebhook(c *Config) {
	w := &c.Webhook
	seen := map[string]string{} // URL → the key that names it
	for i, u := range w.URLs {
		l.webhookURL(seen, u, fmt.Sprintf("webhook.urls[%d]", i))
	}
	l.oneOf("webhook.ordering", w.Ordering, "relaxed", "strict")
	l.eventTypes("webhook.filter_params", w.FilterParams)
	ownKeys := 0
	for i := range w.Endpoints {
		path := fmt.Sprintf("webhook.endpoints[%d]", i)
		l.webhookURL(seen, w.Endpoints[i].URL, path+".url")
		l.validateEndpoint(c, &w.Endpoints[i], path)
		if w.Endpoints[i].APIKey != "" {
			ownKeys++
		}
	}
	if len(w.URLs) > 0 || ownKeys < len(w.Endpoints) {
		if w.APIKey == "" {
			l.problem(nil, "webhook.api_key", "is missing; it names the key that signs the webhooks")
		}
		l.apiKey(c, "webhook.api_key", w.APIKey)
	}
	if w.MaxPending < 0 {
		l.problem(nil, "webhook.max_pending", "must not be negative; 0 is no limit")
	}
	if w.AfterReplication && c.Replica == "" {
		l.problem(nil, "webhook.after_replication", "needs a replica to wait for; set replica")
	}
}

func (l *loader) validateEndpoint(c *Config, e *WebhookEndpoint, path string) {
	l.apiKey(c, path+".api_key", e.APIKey)
	l.oneOf(path+".ordering", e.Ordering, "relaxed", "strict")
	l.eventTypes(path+".filter_params", e.FilterParams)
	for i, s := range e.Secrets {
		b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s, "whsec_"))
		if err != nil || len(b) < 24 || len(b) > 64 {
			l.problem(nil, fmt.Sprintf("%s.secrets[%d]", path, i), "must be whsec_ and the base64 of 24 to 64 bytes")
		}
	}
	if e.RetryFor == Forever {
		l.problem(nil, path+".retry_for", "must be a time span: what nobody ever takes would be kept for ever")
	}
	if e.Concurrency < 0 {
		l.problem(nil, path+".concurrency", "must not be negative")
	}
}

// webhookURL checks that a URL is valid and occurs once, because it identifies the
// endpoint. It does not repeat the URL, which may have a password.
func (l *loader) webhookURL(seen map[string]string, raw, path string) {
	if !isHTTP(raw) {
		l.problem(nil, path, "is not an http or https URL")
		return
	}
	if other := seen[raw]; other != "" {
		l.problem(nil, path, "is the same URL as %s", other)
		return
	}
	seen[raw] = path
}

func (l *loader) apiKey(c *Config, path, name string) {
	if _, known := c.Keys[name]; name != "" && !known {
		l.problem(nil, path, "%q is not one of keys", name)
	}
}

func (l *loader) oneOf(path, value string, choices ...string) {
	if value != "" && !slices.Contains(choices, value) {
		l.problem(nil, path, "must be %s", strings.Join(choices, " or "))
	}
}

// eventTypes warns of types that are never sent. That is no error: a filter may name
// events of LiveKit's services that Parlor does not have.
func (l *loader) eventTypes(path string, f FilterParams) {
	known := log.Names()
	for _, typ := range slices.Concat(f.IncludeEvents, f.ExcludeEvents) {
		if typ != "*" && !slices.Contains(known, typ) {
			l.warn("%s: Parlor sends no event of the type %q; it sends %s", path, typ, strings.Join(known, ", "))
		}
	}
}
