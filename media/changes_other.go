//go:build !linux

package media

import (
	"context"
	"log/slog"
)

// systemChanges calls changed, until ctx ends, when the machine's addresses may have
// changed.
func systemChanges(ctx context.Context, _ *slog.Logger, changed func()) { pollChanges(ctx, changed) }
