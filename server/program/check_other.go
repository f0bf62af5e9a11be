//go:build !linux

package program

import (
	"context"

	"parlor/server/api"
)

// checkLimits has no checks on this system.
func checkLimits(context.Context) []api.Check { return nil }
