package program

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// elapsed counts the time since the machine booted, suspended or not. boot names the boot, as
// processes see it that share a time namespace; "" = it is not known.
func elapsed() (count func() time.Duration, boot string) {
	count = func() time.Duration {
		var t unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // it has worked before
		return time.Duration(t.Nano())
	}
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return nil, ""
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return count, ""
	}
	offsets, err := os.ReadFile("/proc/self/timens_offsets")
	if err != nil { // a kernel without such namespaces
		offsets = nil
	}
	return count, strings.Join(strings.Fields(string(id)+" "+string(offsets)), " ")
}
