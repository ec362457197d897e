package obs

import (
	"syscall"
	"time"
)

// From linux/timex.h.
const (
	timeError  = 5
	staUnsync  = 0x0040
	staNano    = 0x2000
	readOnlyAt = 0
)

// readClock asks adjtimex(2) without changing anything, which needs no privilege.
func readClock() (ClockState, bool) {
	t := syscall.Timex{Modes: readOnlyAt}
	state, err := syscall.Adjtimex(&t)
	if err != nil {
		return ClockState{}, false
	}
	unit := time.Microsecond
	if t.Status&staNano != 0 {
		unit = time.Nanosecond
	}
	return ClockState{
		Synced:   state != timeError && t.Status&staUnsync == 0,
		Offset:   time.Duration(t.Offset) * unit,
		MaxError: time.Duration(t.Maxerror) * time.Microsecond,
	}, true
}
