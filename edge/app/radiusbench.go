package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"wispgate/aaa/packet"
	"wispgate/aaa/radclient"
	"wispgate/edge"
)

// RadiusBench loads a RADIUS server with a fixed number of requests outstanding and verifies every answer: "wispgate bench radius".
type RadiusBench struct {
	Server      string // host:port
	Kind        string // pap, chap, acct or status
	Login       string // %d in it counts from 0 to Logins-1
	Logins      int
	Outstanding int
	Duration    time.Duration
	PID         int // process on this machine whose CPU time to measure; 0: none
	Secret      edge.Secret
	Password    edge.Secret

	// Files that the command line reads Secret and Password from.
	SecretFile, PasswordFile string
}

// RadiusBenchResult is what a RadiusBench measured. Latencies are from sending to the verified answer.
type RadiusBenchResult struct {
	Kind        string         `json:"kind"`
	Outstanding int            `json:"outstanding"`
	Seconds     float64        `json:"seconds"`
	Sent        int            `json:"sent"`
	Good        int            `json:"good"`
	Lost        int            `json:"lost"`
	Bad         int            `json:"bad"` // answers that did not verify
	PerSecond   float64        `json:"per_second"`
	P50         string         `json:"p50"`
	P99         string         `json:"p99"`
	Max         string         `json:"max"`
	Answers     map[string]int `json:"answers"`
	CPUMicros   float64        `json:"server_cpu_us_per_answer,omitempty"`
}

var errBench = edge.Reason{Code: "bench_input", Says: "The load cannot be sent as described", Fix: "Correct the named fields"}

func (b *RadiusBench) check() error {
	var bad []edge.FieldError
	add := func(wrong bool, at, reason, fix string) {
		if wrong {
			bad = append(bad, edge.Field(at, reason, fix))
		}
	}
	access := b.Kind == "pap" || b.Kind == "chap"
	add(!access && b.Kind != "acct" && b.Kind != "status", "/kind", "is not a kind of load", "use pap, chap, acct or status")
	add(b.Secret == "", "/secret", "is missing", "give the secret that the server holds for this client: --secret-file or WISPGATE_RADIUS_SECRET")
	add(access && b.Login == "", "/login", "is missing", "give a login that the server accepts; %d in it counts")
	add(b.Logins < 1 || b.Logins > 10_000_000, "/logins", "is out of bounds", "use 1 to 10,000,000")
	add(b.Outstanding < 1 || b.Outstanding > 1<<16, "/outstanding", "is out of bounds", "use 1 to 65,536")
	add(b.Duration < 10*time.Millisecond || b.Duration > time.Hour, "/duration", "is out of bounds", "use 10ms to 1h")
	add(len(b.Login) > packet.MaxValue-10 || len(b.Password) > packet.MaxPassword, "/login", "or the password is too long for RADIUS", "use at most 243 octets, the password at most 128")
	if bad != nil {
		return errBench.Error(edge.Invalid, bad...)
	}
	return nil
}

// Run measures for about Duration, after a short run that warms the server up and finds the rate to ask for.
func (b RadiusBench) Run(ctx context.Context) (any, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	load := b.load()
	load.Requests = 8*b.Outstanding + 256
	warm, err := load.Run(ctx)
	if err != nil {
		return nil, benchError(err)
	}
	if warm.Good == 0 {
		return nil, errTestSilent.Error(edge.Unavailable)
	}
	load.Requests = max(int(warm.Rate()*b.Duration.Seconds()), b.Outstanding)
	cpu, err := processCPU(b.PID)
	if err != nil {
		return nil, err
	}
	res, err := load.Run(ctx)
	if err != nil {
		return nil, benchError(err)
	}
	after, err := processCPU(b.PID)
	if err != nil {
		return nil, err
	}
	out := RadiusBenchResult{
		Kind: b.Kind, Outstanding: b.Outstanding, Seconds: res.Took.Seconds(), Sent: res.Sent, Good: res.Good, Lost: res.Lost, Bad: res.Bad,
		PerSecond: res.Rate(), P50: res.P50.String(), P99: res.P99.String(), Max: res.Max.String(), Answers: map[string]int{},
	}
	for code, n := range res.Codes {
		out.Answers[code.String()] = n
	}
	if b.PID != 0 && res.Good > 0 {
		out.CPUMicros = float64((after - cpu).Microseconds()) / float64(res.Good)
	}
	return out, nil
}

// benchError words what the socket said; a context's end stays as it is.
func benchError(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &edge.Error{
		Kind: edge.Unavailable, Code: errTestSilent.Code, Message: "The load could not be sent: " + err.Error(), Fix: "Check that the server runs at this address and port",
	}
}

func (b *RadiusBench) load() radclient.Load {
	l := radclient.Load{
		Server: b.Server, Secret: []byte(b.Secret.Reveal()), Window: b.Outstanding, CHAP: b.Kind == "chap", Now: time.Now, Code: packet.AccessRequest,
	}
	login := func(n int) string { return strings.Replace(b.Login, "%d", strconv.Itoa(n%b.Logins), 1) }
	switch b.Kind {
	case "status":
		l.Code = packet.StatusServer
	case "acct":
		l.Code = packet.AccountingRequest
		run := strconv.FormatInt(time.Now().UnixNano(), 36)
		l.Attrs = func(dst []byte, n int) []byte {
			dst = packet.AppendUint32(dst, packet.AcctStatusType, 3) // Interim
			if b.Login != "" {
				dst = packet.AppendString(dst, packet.UserName, login(n))
			}
			dst = packet.AppendString(dst, packet.AcctSessionID, run+"-"+strconv.Itoa(n%b.Logins))
			dst = packet.AppendUint32(dst, packet.AcctSessionTime, uint32(60+n/b.Logins))
			dst = packet.AppendUint32(dst, packet.AcctInputOctets, uint32(n/b.Logins))
			return packet.AppendUint32(dst, packet.AcctOutputOctets, uint32(n/b.Logins))
		}
	default:
		password := []byte(b.Password.Reveal())
		l.Password = func(int) []byte { return password }
		l.Attrs = func(dst []byte, n int) []byte { return packet.AppendString(dst, packet.UserName, login(n)) }
	}
	return l
}

// processCPU is the CPU time that a process of this machine has used so far: user and system, all threads, in steps of 10 ms.
func processCPU(pid int) (time.Duration, error) {
	if pid == 0 {
		return 0, nil
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, errBench.Error(edge.Invalid, edge.Field("/pid", "names no process of this machine", "give the server's process id, or leave it out"))
	}
	// The name in parentheses may hold anything: the fields are counted from its end. utime and stime are fields 14 and 15 (proc(5)).
	_, rest, _ := strings.Cut(string(raw[strings.LastIndexByte(string(raw), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("read CPU time of process %d: unknown form", pid)
	}
	var ticks uint64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseUint(f, 10, 63)
		if err != nil {
			return 0, fmt.Errorf("read CPU time of process %d: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
