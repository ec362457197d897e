package radbench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"wispgate/aaa/dict"
	"wispgate/aaa/packet"
	"wispgate/aaa/radiusd"
)

// Role is what a child process serves.
type Role string

// The roles.
const (
	RoleEcho  Role = "echo"
	RoleFront Role = "wispgate"
)

// Start runs a child process in a role. command must lead to Child in the new process. The child ends when its standard
// input closes, so it never outlives its parent.
func Start(role Role, command *exec.Cmd) (*Process, error) {
	stdin, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start the %s server: %w", role, err)
	}
	stop := func() error {
		_ = stdin.Close()
		return command.Wait()
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	f := strings.Fields(line)
	if err != nil || len(f) != 3 || f[0] != "ready" {
		_ = stop()
		return nil, fmt.Errorf("start the %s server: it said %q", role, line)
	}
	return &Process{Name: string(role), PID: command.Process.Pid, Auth: f[1], Acct: f[2], Echo: role == RoleEcho, stop: stop}, nil
}

// Child serves a role on loopback until stdin ends. It announces its addresses on stdout. journal may be nil: then
// accounting is acknowledged without being kept, which measures the front door alone.
func Child(ctx context.Context, role Role, stdin io.Reader, stdout io.Writer, now func() time.Time, journal radiusd.Journal) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		cancel()
	}()
	switch role {
	case RoleEcho:
		return echo(ctx, stdout)
	case RoleFront:
		return front(ctx, stdout, now, journal)
	}
	return fmt.Errorf("no such role: %s", role)
}

// echo is the floor: a bare loop over the same calls the front door uses.
func echo(ctx context.Context, stdout io.Writer) error {
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	_ = c.SetReadBuffer(8 << 20)
	fmt.Fprintf(stdout, "ready %s %s\n", c.LocalAddr(), c.LocalAddr())
	context.AfterFunc(ctx, func() { _ = c.Close() })
	buf := make([]byte, packet.MaxLen)
	for {
		n, _, _, peer, err := c.ReadMsgUDPAddrPort(buf, nil)
		if err != nil {
			return nil //nolint:nilerr // closed: the end
		}
		if _, _, err := c.WriteMsgUDPAddrPort(buf[:n], nil, peer); err != nil {
			return nil //nolint:nilerr // closed: the end
		}
	}
}

// directory is the full policy path of a node with 10,000 subscribers, in memory as on a node.
type directory struct {
	logins map[string]*radiusd.Login
	policy *dict.Rendered
}

func (d *directory) Lookup(r *radiusd.Request) *radiusd.Login { return d.logins[string(r.Login)] }

func (d *directory) Decide(r *radiusd.Request, _ *radiusd.Login) radiusd.Decision {
	return radiusd.Decision{Verdict: radiusd.Allow, Policy: d.policy, Until: r.Now.Unix() + 40_000, Revision: 12}
}

// instant is a journal that keeps nothing.
type instant struct{}

func (instant) Submit(_ uint8, _ []byte, done radiusd.Done) { done.Journaled(1, nil) }

func front(ctx context.Context, stdout io.Writer, now func() time.Time, journal radiusd.Journal) error {
	policy, err := dict.Render(&dict.Policy{
		DownKbps: 20_000, UpKbps: 5_000, Pool: "cgnat", SessionTimeout: 86_400, IdleTimeout: 900, InterimInterval: 300,
	})
	if err != nil {
		return err
	}
	d := &directory{logins: map[string]*radiusd.Login{}, policy: policy}
	for i := range 10_000 {
		static, err := dict.RenderStatic(&dict.Static{IPv4: netip.AddrFrom4([4]byte{100, 64, byte(i >> 8), byte(i)})})
		if err != nil {
			return err
		}
		d.logins[Login(i)] = &radiusd.Login{
			ID: "crd_" + Login(i), Password: radiusd.ClearPassword([]byte("secret"), 1), Address: radiusd.Address{Attrs: static, V4: true},
		}
	}
	secret, err := packet.NewSecret([]byte(Secret))
	if err != nil {
		return err
	}
	if journal == nil {
		journal = instant{}
	}
	s, err := radiusd.Listen(radiusd.Config{
		Auth: []string{"127.0.0.1:0"}, Acct: []string{"127.0.0.1:0"}, Directory: d, Journal: journal, Now: now, Workers: 2,
		Logger: slog.New(slog.DiscardHandler), NASRate: -1,
	})
	if err != nil {
		return err
	}
	err = s.SetNAS([]*radiusd.NAS{{
		ID: "nas_bench", Tenant: "bench", Secret: secret, Profile: dict.MikroTik, RequireMA: radiusd.Always,
		Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}})
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "ready %s %s\n", s.Addrs().Auth[0], s.Addrs().Acct[0])
	return s.Run(ctx)
}
