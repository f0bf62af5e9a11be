package program

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
)

// printVersion prints the version of the build, and its commit with the date.
func printVersion(_ context.Context, env Environment) error {
	_, err := fmt.Fprintf(env.Out, "parlor %s%s %s %s/%s\n", version(), commit(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// commit is the commit of the build with its date; "" if the build does not tell.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if settings["vcs.revision"] == "" {
		return ""
	}
	return fmt.Sprintf(" commit %.12s of %s", settings["vcs.revision"], settings["vcs.time"])
}

// version is the module's version, or the commit of the build.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	revision, dirty := "devel", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			revision = s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+changes"
		}
	}
	return revision + dirty
}
