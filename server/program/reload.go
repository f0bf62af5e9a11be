package program

import (
	"context"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"

	"parlor/server/config"
)

// reloadable are the keys that SIGHUP changes in a running server. It also makes the TLS
// certificates' files be read again.
func reloadable() []string { return []string{"logging.level"} }

// reload reads the configuration again at each SIGHUP, until ctx ends. An invalid
// configuration changes nothing.
func (p *program) reload(ctx context.Context, hangups <-chan os.Signal, sources config.Sources, level *slog.LevelVar) {
	running := *p.cfg // reload's own copy
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		p.supervisor.tell("RELOADING=1")
		p.readAgain(&running, sources, level)
		p.supervisor.tell("READY=1")
	}
}

// readAgain reads the certificates and the configuration again. running is the
// configuration in effect.
func (p *program) readAgain(running *config.Config, sources config.Sources, level *slog.LevelVar) {
	for _, c := range []*certificate{p.certificate, p.turnCertificate} {
		if c != nil {
			c.readAgain()
		}
	}
	now, _, err := config.Load(sources)
	if err != nil {
		p.log.Error("the configuration cannot be used: the one before stays", "error", err)
		return
	}
	p.log.Info("the configuration was read again")
	changed := changedKeys(reflect.ValueOf(*running), reflect.ValueOf(*now), "")
	if before := running.Logging.Level; before != now.Logging.Level {
		running.Logging.Level = now.Logging.Level
		level.Set(logLevel(now.Logging.Level))
		p.log.Warn("a key of the configuration has changed", "key", "logging.level", "from", before, "to", now.Logging.Level)
	}
	ignored := slices.DeleteFunc(changed, func(key string) bool { return slices.Contains(reloadable(), key) })
	if len(ignored) > 0 {
		p.log.Warn("these keys have changed in the configuration, and take a restart", "keys", strings.Join(ignored, " "))
	}
}

// changedKeys are the keys, with dots, whose values differ. It does not return the
// values, because some are secrets.
func changedKeys(a, b reflect.Value, path string) []string {
	if a.Kind() != reflect.Struct || !tagged(a.Type()) {
		if reflect.DeepEqual(a.Interface(), b.Interface()) {
			return nil
		}
		return []string{path}
	}
	var all []string
	for i := range a.NumField() {
		name, _, _ := strings.Cut(a.Type().Field(i).Tag.Get("yaml"), ",")
		if name == "" || name == "-" {
			continue
		}
		if path != "" {
			name = path + "." + name
		}
		all = append(all, changedKeys(a.Field(i), b.Field(i), name)...)
	}
	return all
}

// tagged reports whether t's fields are keys of their own.
func tagged(t reflect.Type) bool {
	return t.NumField() > 0 && t.Field(0).Tag.Get("yaml") != ""
}
