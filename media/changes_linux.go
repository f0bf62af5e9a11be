package media

import (
	"context"
	"errors"
	"log/slog"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// systemChanges calls changed, until ctx ends, when the machine's interfaces or their
// addresses may have changed. The kernel reports changes over netlink (rtnetlink(7)).
// Where the process may not use netlink, changed is called every pollInterval.
func systemChanges(ctx context.Context, log *slog.Logger, changed func()) {
	err := kernelChanges(ctx, changed)
	if ctx.Err() == nil {
		log.Info("no word from the kernel when addresses change; looking now and then", "error", err)
		pollChanges(ctx, changed)
	}
}

func kernelChanges(ctx context.Context, changed func()) error {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{
		Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR,
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // closing the connection ends Receive
	defer stop()
	changed() // changes before the subscription
	for {
		if _, err := conn.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) { // ENOBUFS: messages were lost
			return err
		}
		changed()
	}
}
