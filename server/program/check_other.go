//go:build !linux

package program

import (
	"context"

	"parlor/server/api"
)

// checkLimits has nothing to look at that is known here.
func checkLimits(context.Context) []api.Check { return nil }
