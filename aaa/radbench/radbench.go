// Package radbench measures RADIUS servers side by side: the front door, a bare UDP echo server as the floor of what a
// datagram costs, and FreeRADIUS where it is installed. Each runs as a process of its own; what is compared is the CPU
// time the server spends per verified reply, in rounds that take turns, as medians. Rates on a shared machine wander,
// CPU per reply hardly does.
package radbench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"wispgate/aaa/packet"
	"wispgate/aaa/radclient"
)

// Secret is the shared secret of every benchmark server.
const Secret = "testing123"

// Kind is what a round asks for.
type Kind string

// The kinds of load.
const (
	PAP        Kind = "pap"
	CHAP       Kind = "chap"
	Accounting Kind = "accounting"
)

// Options of a comparison. Zero values stand for the defaults named.
type Options struct {
	Kind     Kind // PAP
	Rounds   int  // 5
	Requests int  // per round and server; 40,000
	Window   int  // outstanding requests; 64
	Logins   int  // 10,000
	Now      func() time.Time
}

// Process is a running server.
type Process struct {
	Name       string
	PID        int
	Auth, Acct string
	Echo       bool // sends back what it gets
	Unsigned   bool // its replies carry no Message-Authenticator
	stop       func() error
}

// Stop ends the server and waits for it.
func (p *Process) Stop() error { return p.stop() }

// Row is the result of one server.
type Row struct {
	Name      string
	CPU       time.Duration // per good reply: median of the rounds
	Rate      float64       // good replies per second: median
	P50, P99  time.Duration // medians
	Good      int
	Lost, Bad int
	Codes     map[packet.Code]int // of the good replies
}

func (o *Options) defaults() error {
	if o.Now == nil {
		return errors.New("radbench: Now must be set")
	}
	if o.Kind == "" {
		o.Kind = PAP
	}
	for _, d := range []struct {
		v   *int
		def int
	}{{&o.Rounds, 5}, {&o.Requests, 40_000}, {&o.Window, 64}, {&o.Logins, 10_000}} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	return nil
}

// Compare loads the servers in turns. One extra round goes first and is not counted.
func Compare(ctx context.Context, o Options, servers ...*Process) ([]Row, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	rows := make([]Row, len(servers))
	for i := range rows {
		rows[i].Codes = map[packet.Code]int{}
	}
	cpu, rate := make([][]time.Duration, len(servers)), make([][]float64, len(servers))
	p50, p99 := make([][]time.Duration, len(servers)), make([][]time.Duration, len(servers))
	for round := range o.Rounds + 1 {
		for i, s := range servers {
			rows[i].Name = s.Name
			before, err := CPU(s.PID)
			if err != nil {
				return nil, err
			}
			res, err := o.load(s, round).Run(ctx)
			if err != nil {
				return nil, fmt.Errorf("load %s: %w", s.Name, err)
			}
			after, err := CPU(s.PID)
			if err != nil {
				return nil, err
			}
			if round == 0 || res.Good == 0 {
				continue
			}
			rows[i].Good += res.Good
			rows[i].Lost += res.Lost
			rows[i].Bad += res.Bad
			for code, n := range res.Codes {
				rows[i].Codes[code] += n
			}
			cpu[i] = append(cpu[i], (after-before)/time.Duration(res.Good))
			rate[i] = append(rate[i], res.Rate())
			p50[i], p99[i] = append(p50[i], res.P50), append(p99[i], res.P99)
		}
	}
	for i := range rows {
		if rows[i].Good == 0 {
			return rows, fmt.Errorf("%s answered nothing", rows[i].Name)
		}
		rows[i].CPU, rows[i].Rate, rows[i].P50, rows[i].P99 = median(cpu[i]), median(rate[i]), median(p50[i]), median(p99[i])
	}
	return rows, nil
}

func median[T time.Duration | float64](v []T) T {
	slices.Sort(v)
	return v[len(v)/2]
}

func (o *Options) load(s *Process, round int) radclient.Load {
	l := radclient.Load{
		Server: s.Auth, Secret: []byte(Secret), Requests: o.Requests, Window: o.Window, Sockets: max(4, (o.Window+255)/256),
		Code: packet.AccessRequest, Echo: s.Echo, AllowUnsigned: s.Unsigned, Now: o.Now, Wait: 5 * time.Second,
		Password: func(n int) []byte { return []byte("secret") }, CHAP: o.Kind == CHAP,
		Attrs: func(dst []byte, n int) []byte {
			dst = packet.AppendString(dst, packet.UserName, Login(n%o.Logins))
			dst = packet.AppendString(dst, packet.CallingStationID, "00:E1:0C:38:C8:F8")
			dst = packet.AppendString(dst, packet.CalledStationID, "pppoe-tower-3")
			dst = packet.AppendString(dst, packet.NASPortID, "ether1")
			dst = packet.AppendUint32(dst, packet.NASPortType, 15)
			return packet.AppendUint32(dst, packet.ServiceType, 2)
		},
	}
	l.Window = max(l.Window, l.Sockets)
	if o.Kind == Accounting {
		common := l.Attrs
		l.Server, l.Code, l.Password = s.Acct, packet.AccountingRequest, nil
		l.Attrs = func(dst []byte, n int) []byte {
			dst = packet.AppendUint32(common(dst, n), packet.AcctStatusType, 3)
			dst = packet.AppendString(dst, packet.AcctSessionID, Login(n))
			dst = packet.AppendUint32(dst, packet.AcctInputOctets, uint32(n))
			return packet.AppendUint32(dst, packet.AcctSessionTime, uint32(round))
		}
	}
	return l
}

// Login is the name of login n.
func Login(n int) string { return "sub" + strconv.Itoa(100_000+n) }

// clockTick is USER_HZ, fixed at 100 in the kernel's interface on every architecture Go runs on.
const clockTick = 10 * time.Millisecond

// CPU returns the user and system time a process has used, from /proc/PID/stat (10 ms steps).
func CPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read the server's CPU time: %w", err)
	}
	_, rest, ok := strings.Cut(string(b), ") ") // the name in brackets may hold blanks
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, errors.New("read the server's CPU time: /proc has another form")
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * clockTick, errors.Join(err1, err2)
}

// Table words the rows for people, with every server's cost relative to the first.
func Table(rows []Row) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-12s %12s %8s %12s %10s %10s %8s\n", "server", "CPU/reply", "ratio", "replies/s", "p50", "p99", "lost")
	for _, r := range rows {
		ratio := float64(r.CPU) / float64(max(rows[0].CPU, 1))
		fmt.Fprintf(&b, "%-12s %12s %7.2fx %12.0f %10s %10s %8d\n", r.Name, r.CPU, ratio, r.Rate, r.P50.Round(time.Microsecond),
			r.P99.Round(time.Microsecond), r.Lost+r.Bad)
	}
	return b.String()
}
