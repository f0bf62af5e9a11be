package program

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"parlor/media/udp"
	"parlor/server/api"
)

// manyFiles is how many file descriptors a server should be allowed: each participant has
// a socket for signalling, and may have one for media over TCP.
const manyFiles = 65536

// checkLimits checks the kernel's limits.
func checkLimits(ctx context.Context) []api.Check {
	all := []api.Check{checkFiles()}
	for _, name := range []string{"rmem_max", "wmem_max"} {
		text, err := os.ReadFile("/proc/sys/net/core/" + name)
		if err != nil {
			continue // a container without it: the media socket logs what it got
		}
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			all = append(all, judgeBuffer("net.core."+name, n))
		}
	}
	return append(all, checkOffload(ctx))
}

func checkFiles() api.Check {
	const what = "file descriptors"
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return rowWarning(what, "their limit cannot be told: "+err.Error(), "look with ulimit -Hn")
	}
	// The Go runtime raises the soft limit to the hard one.
	return judgeFiles(limit.Max)
}

func judgeFiles(most uint64) api.Check {
	const what = "file descriptors"
	if most < manyFiles {
		return rowWarning(what, fmt.Sprintf("a process may have %d", most), "let the server have more, as the unit of parlor init does (LimitNOFILE=1048576), or ulimit -Hn in its shell: each participant takes one or two")
	}
	return rowOK(what, fmt.Sprintf("a process may have %d", most))
}

func judgeBuffer(name string, most int) api.Check {
	if most < udp.DefaultBuffer {
		return rowWarning(name, fmt.Sprintf("%d bytes, and media asks for %d", most, udp.DefaultBuffer),
			fmt.Sprintf("put %s=%d into /etc/sysctl.d/parlor.conf, and run sysctl --system: a burst overflows less", name, udp.DefaultBuffer))
	}
	return rowOK(name, fmt.Sprintf("%d bytes are enough for media", most))
}

// checkOffload checks whether the kernel supports UDP segmentation offload.
func checkOffload(ctx context.Context) api.Check {
	const what = "segmentation offload"
	err := func() error {
		c, err := new(net.ListenConfig).ListenPacket(ctx, "udp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer c.Close()
		raw, err := c.(*net.UDPConn).SyscallConn()
		if err != nil {
			return err
		}
		var asked error
		if err := raw.Control(func(fd uintptr) { _, asked = unix.GetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT) }); err != nil {
			return err
		}
		return asked
	}()
	if err != nil {
		return rowWarning(what, "this kernel does not have it for UDP: "+err.Error(), "take Linux 4.18 or newer: a packet costs more without it")
	}
	return rowOK(what, "this kernel has it for UDP")
}
