package config

// HookKey is the API key that signs the hooks' questions: webhook.api_key, or the only
// key; "" if there is neither.
func (c *Config) HookKey() string {
	if c.Webhook.APIKey != "" {
		return c.Webhook.APIKey
	}
	if len(c.Keys) == 1 {
		for key := range c.Keys {
			return key
		}
	}
	return ""
}

func (l *loader) validateHooks(c *Config) {
	h := &c.Hooks
	if h.OnFailure != "allow" && h.OnFailure != "deny" {
		l.problem(nil, "hooks.on_failure", "must be allow or deny")
	}
	if h.Timeout <= 0 {
		l.problem(nil, "hooks.timeout", "must be more than nothing")
	}
	if h.Cache < 0 {
		l.problem(nil, "hooks.cache", "must not be negative; 0 keeps no answers")
	}
	if h.Authorize == "" {
		return
	}
	if !isHTTP(h.Authorize) {
		l.problem(nil, "hooks.authorize", "is not an http or https URL")
	}
	if c.Keys[c.HookKey()] == "" {
		l.problem(nil, "hooks.authorize", "needs a key to sign with: set webhook.api_key to one of keys")
	}
}
