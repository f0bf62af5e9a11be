package media

import (
	"context"
	"errors"
	"log/slog"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// systemChanges tells, until ctx ends, when the machine's interfaces or their addresses
// may have changed: the kernel says so over netlink (rtnetlink(7)). Where it may not be
// asked, changes are looked for now and then.
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
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // which ends Receive
	defer stop()
	changed() // what came before
	for {
		if _, err := conn.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) { // with it, messages were lost
			return err
		}
		changed()
	}
}
