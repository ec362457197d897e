//go:build !linux

package obs

// readClock knows nothing elsewhere: unsynced.
func readClock() (ClockState, bool) { return ClockState{}, false }
