package program

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"parlor/server/config"
)

// installedConfig is the configuration of an installed server. Commands read it if no
// other configuration is given.
const installedConfig = "/etc/parlor/parlor.yaml"

// errUnconfigured: no flag, environment variable or installed server gives a
// configuration.
var errUnconfigured = errors.New("there is no API key to sign with: name the configuration with --config or PARLOR_CONFIG, " +
	"or the keys in LIVEKIT_KEYS; --dev takes the key of development, which a server in use does not accept")

// keyFlags are the flags by which a command finds its API key and the configuration.
type keyFlags struct {
	config, domain, apiKey, secret string
	dev                            bool
}

func (k *keyFlags) register(f *flag.FlagSet) {
	k.registerConfig(f)
	f.StringVar(&k.apiKey, "api-key", "", "API `key` to sign with (the first of the configuration)")
	f.StringVar(&k.secret, "api-secret", "", "its `secret`, if it is not in the configuration")
}

func (k *keyFlags) registerConfig(f *flag.FlagSet) {
	f.StringVar(&k.config, "config", "", "configuration `file` to take the API key from")
	f.StringVar(&k.domain, "domain", "", "take the configuration of parlor --domain `name`, in the same folder")
	f.BoolVar(&k.dev, "dev", false, "take the configuration of development, as parlor --dev")
}

// sources are the sources of the configuration, with more settings on top.
func (k *keyFlags) sources(env Environment, more ...config.Setting) config.Sources {
	s := config.Sources{File: k.config, Environ: env.Environ, Flags: more}
	if k.dev {
		s.Flags = append(s.Flags, config.Setting{Path: "development", Value: "true", From: "--dev"})
	}
	if k.domain != "" {
		s.Flags = append(s.Flags, config.Setting{Path: "domain", Value: k.domain, From: "--domain"})
	}
	if s.Empty() {
		if _, err := os.Stat(installedConfig); err == nil { // else it counts as absent
			s.File = installedConfig
		}
	}
	return s
}

// load reads the configuration.
func (k *keyFlags) load(env Environment) (*config.Config, error) {
	s := k.sources(env)
	if s.Empty() {
		return nil, errUnconfigured
	}
	cfg, _, err := config.Load(s)
	if err != nil {
		return nil, fmt.Errorf("the configuration cannot be used:\n%w", err)
	}
	return cfg, nil
}

// keys returns the API keys to choose from, and their configuration, which is nil if the
// key was given with its secret. If no key was named, keys chooses one.
func (k *keyFlags) keys(env Environment) (map[string]string, *config.Config, error) {
	if k.secret != "" {
		if k.apiKey == "" {
			return nil, nil, errors.New("--api-secret needs --api-key")
		}
		return map[string]string{k.apiKey: k.secret}, nil, nil
	}
	cfg, err := k.load(env)
	if err != nil {
		return nil, nil, err
	}
	if k.apiKey == "" {
		k.apiKey = firstKey(cfg)
	}
	return cfg.Keys, cfg, nil
}
