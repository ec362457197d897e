package journal

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"strconv"
	"strings"
	"time"
)

// Quality says how far a record's wall time can be trusted.
type Quality uint8

// The qualities, worst first, so that the zero value claims nothing.
const (
	Unsynced Quality = iota // never set since boot: the wall time may be years off
	Holdover                // was set, the source is lost: drifts by seconds a day
	Synced                  // disciplined now
)

// String is the word used in records and metrics.
func (q Quality) String() string {
	switch q {
	case Synced:
		return "synced"
	case Holdover:
		return "holdover"
	}
	return "unsynced"
}

// BootID names one boot of the machine: the kernel's random boot_id.
type BootID [16]byte

// String is the usual hexadecimal form without dashes.
func (b BootID) String() string { return hex.EncodeToString(b[:]) }

// Boot is the identity of the running boot and how long ago it began.
type Boot struct {
	ID     BootID
	Uptime time.Duration
}

// KernelBoot reads the boot identity and uptime from the kernel. Where it cannot be read, it makes one up for this
// process: then offsets compare within the process only, which is still true.
func KernelBoot() Boot {
	var b Boot
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	raw, decodeErr := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	if err != nil || decodeErr != nil || len(raw) != len(b.ID) {
		_, _ = rand.Read(b.ID[:]) // never fails: it ends the program instead
		return b
	}
	copy(b.ID[:], raw)
	if text, err = os.ReadFile("/proc/uptime"); err == nil {
		seconds, _, _ := strings.Cut(string(text), " ")
		if f, err := strconv.ParseFloat(seconds, 64); err == nil {
			b.Uptime = time.Duration(f * float64(time.Second))
		}
	}
	return b
}

// Anchor ties a boot's monotonic offset to a wall time that is believed. Taken once NTP is reached, it dates the
// records that the node wrote earlier in the same boot, when it did not know the time.
type Anchor struct {
	Boot BootID
	Mono time.Duration
	Wall time.Time
}

// Anchor is the present moment, to be used when the clock has just become trustworthy.
func (j *Journal) Anchor() Anchor {
	now := j.opt.Now()
	return Anchor{Boot: j.stamp.boot, Mono: j.stamp.mono(now), Wall: now}
}

// Time dates a record: its own wall time when that was synced or the anchor is of another boot (known false then for
// an unsynced one), else the anchor's time shifted by the distance between them.
func (a Anchor) Time(r Record) (at time.Time, known bool) {
	switch {
	case r.Quality == Synced:
		return r.Wall, true
	case r.Boot == a.Boot:
		return a.Wall.Add(r.Mono - a.Mono), true
	}
	return r.Wall, r.Quality == Holdover
}

// stamper turns the clock into offsets from boot.
type stamper struct {
	boot   BootID
	opened time.Time
	offset time.Duration // age of the boot at opened
}

func newStamper(boot Boot, now time.Time) stamper {
	return stamper{boot: boot.ID, opened: now, offset: boot.Uptime}
}

// mono is the time since boot. Go's monotonic reading makes it immune to steps of the wall clock.
func (s stamper) mono(now time.Time) time.Duration { return s.offset + now.Sub(s.opened) }
