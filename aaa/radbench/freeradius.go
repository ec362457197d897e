package radbench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"wispgate/aaa/packet"
	"wispgate/aaa/radclient"
)

// ErrNoFreeRADIUS says that there is nothing to compare with.
var ErrNoFreeRADIUS = errors.New("freeradius is not installed")

// FreeRADIUS starts the installed FreeRADIUS with a fair configuration in dir: two threads, users in memory, the modules
// that PAP, CHAP and MS-CHAP need and no others, no reject delay, room for every outstanding request.
func FreeRADIUS(ctx context.Context, dir string, logins int, now func() time.Time) (*Process, error) {
	return freeRADIUS(ctx, dir, logins, now, "detail", "")
}

// freeRADIUS starts the server with accounting into one of its modules; more is the configuration of that module.
func freeRADIUS(ctx context.Context, dir string, logins int, now func() time.Time, accounting, more string) (*Process, error) {
	program, err := lookPath("freeradius")
	if err != nil {
		return nil, ErrNoFreeRADIUS
	}
	auth, err := freePort()
	if err != nil {
		return nil, err
	}
	acct, err := freePort()
	if err != nil {
		return nil, err
	}
	var users strings.Builder
	for i := range logins {
		fmt.Fprintf(&users, "%s Cleartext-Password := \"secret\"\n\tFramed-IP-Address = 100.64.%d.%d,\n\tMikrotik-Rate-Limit = \"5M/20M\",\n"+
			"\tIdle-Timeout = 900,\n\tSession-Timeout = 40000,\n\tAcct-Interim-Interval = 300,\n\tClass = 0x0123456789abcdef\n\n", Login(i), i>>8&255, i&255)
	}
	for name, text := range map[string]string{
		"radiusd.conf": fmt.Sprintf(freeradiusConf, dir, dir, dir, dir, dir, dir, more, auth, acct, accounting),
		"users":        users.String(),
		"dictionary":   "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(program, "-f", "-d", dir)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start freeradius: %w", err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it ends by a signal
		close(done)
	}()
	p := &Process{
		Name: "freeradius", PID: cmd.Process.Pid, Unsigned: true,
		Auth: fmt.Sprintf("127.0.0.1:%d", auth), Acct: fmt.Sprintf("127.0.0.1:%d", acct),
		stop: func() error {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-done:
			case <-time.After(5 * time.Second):
				_ = cmd.Process.Kill()
				<-done
			}
			return nil
		},
	}
	if err := p.ready(ctx, now); err != nil {
		_ = p.Stop()
		log, _ := os.ReadFile(filepath.Join(dir, "radius.log"))
		return nil, fmt.Errorf("start freeradius: %w: %s", err, log)
	}
	return p, nil
}

// ready asks until the server answers.
func (p *Process) ready(ctx context.Context, now func() time.Time) error {
	c, err := radclient.Dial(p.Auth, []byte(Secret), now, radclient.Options{Timeout: 200 * time.Millisecond, Tries: 50, AllowUnsigned: true})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_, err = c.Do(ctx, radclient.Request{Code: packet.StatusServer})
	return err
}

func freePort() (int, error) {
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	return c.LocalAddr().(*net.UDPAddr).Port, nil
}

// lookPath finds a daemon: it is not on the PATH of every user.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	return path, err
}

// Arguments: logdir, raddbdir, run_dir, log file, users, detail, more modules, auth port, acct port, accounting module.
const freeradiusConf = `prefix = /usr
logdir = %s
raddbdir = %s
run_dir = %s
libdir = /usr/lib/freeradius
name = radiusd
max_request_time = 30
cleanup_delay = 2
max_requests = 131072
hostname_lookups = no
log {
	destination = files
	file = %s/radius.log
	auth = no
}
security {
	max_attributes = 200
	reject_delay = 0
	status_server = yes
}
proxy_requests = no
thread pool {
	start_servers = 2
	max_servers = 2
	min_spare_servers = 1
	max_spare_servers = 2
	max_requests_per_server = 0
	auto_limit_acct = no
}
client bench {
	ipaddr = 127.0.0.1
	secret = testing123
	require_message_authenticator = no
	limit {
		max_connections = 0
	}
}
modules {
	chap {
	}
	mschap {
	}
	pap {
	}
	files {
		filename = %s/users
	}
	detail {
		filename = %s/detail
		permissions = 0600
		locking = no
	}
%s}
server default {
	listen {
		type = auth
		ipaddr = 127.0.0.1
		port = %d
	}
	listen {
		type = acct
		ipaddr = 127.0.0.1
		port = %d
	}
	authorize {
		chap
		mschap
		files
		pap
	}
	authenticate {
		Auth-Type PAP {
			pap
		}
		Auth-Type CHAP {
			chap
		}
		Auth-Type MS-CHAP {
			mschap
		}
	}
	accounting {
		%s
	}
}
`
