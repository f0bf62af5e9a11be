package main

import (
	"errors"
	"fmt"
	"syscall"
)

// portHint adds to an error of taking a port what can be done about it; setting names
// what chooses the port.
func portHint(err error, setting string) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: another program has the port, such as a second Parlor; choose another with %s", err, setting)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w: ports below 1024 are for root, and for programs with the capability cap_net_bind_service "+
			"(AmbientCapabilities=CAP_NET_BIND_SERVICE in a unit of systemd); give it, or choose another port with %s", err, setting)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w: this machine does not have the address; mend bind_addresses", err)
	}
	return err
}
