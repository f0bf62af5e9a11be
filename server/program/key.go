package program

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"parlor/server/config"
)

// installedConfig is where an installed server has its configuration. Commands that
// are told of none read it.
const installedConfig = "/etc/parlor/parlor.yaml"

// errUnconfigured: neither a flag nor the environment nor an installed server tells the
// configuration.
var errUnconfigured = errors.New("there is no API key to sign with: name the configuration with --config or PARLOR_CONFIG, " +
	"or the keys in LIVEKIT_KEYS; --dev takes the key of development, which a server in use does not accept")

// keyFlags are the flags by which a command finds its API key and the configuration.
type keyFlags struct {
	config, apiKey, secret string
	dev                    bool
}

func (k *keyFlags) register(f *flag.FlagSet) {
	k.registerConfig(f)
	f.StringVar(&k.apiKey, "api-key", "", "API `key` to sign with (the first of the configuration)")
	f.StringVar(&k.secret, "api-secret", "", "its `secret`, if it is not in the configuration")
}

func (k *keyFlags) registerConfig(f *flag.FlagSet) {
	f.StringVar(&k.config, "config", "", "configuration `file` to take the API key from")
	f.BoolVar(&k.dev, "dev", false, "take the configuration of development, as parlor --dev")
}

// sources are where the configuration comes from; more are settings over it.
func (k *keyFlags) sources(env Environment, more ...config.Setting) config.Sources {
	s := config.Sources{File: k.config, Environ: env.Environ, Flags: more}
	if k.dev {
		s.Flags = append(s.Flags, config.Setting{Path: "development", Value: "true", From: "--dev"})
	}
	if s.Empty() {
		if _, err := os.Stat(installedConfig); err == nil { // else it is as if there were none
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

// keys are the API keys to choose from, and the configuration that they are from; it is
// nil if the key was given with its secret. keys chooses if none was named.
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
