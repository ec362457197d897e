package app

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"wispgate/edge"
	"wispgate/edge/flock"
	"wispgate/sync/wire"
)

// demoState is what a second run needs: demo.json, mode 0600, for it holds keys. The demo's data are invented, and its keys open nothing
// else.
type demoState struct {
	Seed        uint64    `json:"seed"`
	Subscribers int       `json:"subscribers"`
	Ports       demoPorts `json:"ports"`
	NodeKey     string    `json:"node_key,omitempty"`
	RelayKey    string    `json:"relay_key,omitempty"`
	NASSecret   string    `json:"nas_secret"`
	OtherSecret string    `json:"other_nas_secret"`
	StaleSecret string    `json:"stale_nas_secret"`
	HookSecret  string    `json:"webhook_secret"`
	HookURL     string    `json:"webhook_url,omitempty"`
	Endpoint    edge.ID   `json:"webhook_endpoint,omitempty"`
	Seeded      demoSeed  `json:"seeded"`
}

// demoPorts are kept, so that what was printed once goes on working.
type demoPorts struct {
	API      int `json:"api"`
	Admin    int `json:"admin"`
	RelayAPI int `json:"relay_api"`
	RelayAdm int `json:"relay_admin"`
	MQTT     int `json:"mqtt"`
	Link     int `json:"link"`
	Hook     int `json:"webhook_receiver"`
	Auth     int `json:"radius_auth"`
	Acct     int `json:"radius_acct"`
}

// Where the demo's RADIUS listens unless something else does.
const (
	demoAuthPort = 11812
	demoAcctPort = 11813
)

var errDemoFolder = edge.Reason{
	Code: "demo_folder", Says: "The folder holds no demo that this version can continue", Fix: "Name another folder with --data, or remove this one to begin anew",
}

var errDemoRuns = edge.Reason{
	Code: "demo_runs", Says: "Another demo runs in this folder", Fix: "Stop it, or name another folder with --data",
}

// lockDemo makes this process the folder's only demo until flock.Release. It makes the folder when there is none.
func lockDemo(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, folderError(dir, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, demoLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, folderError(dir, err)
	}
	ok, err := flock.Take(f, false)
	if err == nil && !ok {
		err = errDemoRuns.Error(edge.Unavailable)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

const demoLock = ".lock"

func statePath(dir string) string { return filepath.Join(dir, "demo.json") }

// loadDemoState reads the state of the run before, or draws a new one. A folder that holds other things is left alone.
func loadDemoState(dir string, o DemoOptions) (*demoState, error) {
	s := &demoState{}
	raw, err := os.ReadFile(statePath(dir))
	switch {
	case err == nil:
		if json.Unmarshal(raw, s) != nil || s.Subscribers == 0 || s.HookSecret == "" {
			return nil, errDemoFolder.Error(edge.Invalid)
		}
		return s, nil
	case !errors.Is(err, os.ErrNotExist):
		return nil, folderError(dir, err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) > 1 || len(list) == 1 && list[0].Name() != demoLock {
		return nil, errDemoFolder.Error(edge.Invalid)
	}
	if o.Subscribers < fewestSubscribers || o.Subscribers > 20_000 {
		return nil, edge.ErrInput.Error(edge.Invalid, edge.Field("/subscribers", "is out of bounds", fmt.Sprintf("use %d to 20,000", fewestSubscribers)))
	}
	var key [32]byte
	_, _ = rand.Read(key[:])
	s = &demoState{
		Seed: o.Seed, Subscribers: o.Subscribers, NASSecret: rand.Text(), OtherSecret: rand.Text(), StaleSecret: rand.Text(),
		HookSecret: wire.FormatSecret(key[:]).Reveal(),
	}
	return s, s.save(dir)
}

func (s *demoState) save(dir string) error {
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("keep the demo's state: %w", err)
	}
	return writeFile(statePath(dir), append(raw, '\n'), 0o600)
}

var errDemoPort = edge.Reason{
	Code: "port_in_use", Says: "The API's port is in use", Fix: "Stop the program that uses it (perhaps another demo), or choose another with --port",
}

// choosePorts keeps the ports of the run before where they are free, and finds others where not. The API's is the one that was asked for:
// when that is in use, somebody has to decide.
func (s *demoState) choosePorts(asked int) error {
	if asked < 0 || asked > 65535 {
		return edge.ErrInput.Error(edge.Invalid, edge.Field("/port", "is not a port", "use 1 to 65535"))
	}
	var held holder
	defer held.close()
	p := &s.Ports
	if asked != 0 {
		if !held.tcp(asked) {
			e := errDemoPort.Error(edge.Unavailable)
			e.Message = fmt.Sprintf("Port %d on 127.0.0.1 is in use", asked)
			return e
		}
		p.API = asked
	}
	for _, c := range []struct {
		port  *int
		wish  int
		hold  func(int) bool
		found func() int
	}{
		{&p.API, 0, held.tcp, held.freeTCP}, {&p.RelayAPI, beside(asked, 1), held.tcp, held.freeTCP},
		{&p.Admin, beside(asked, 2), held.tcp, held.freeTCP}, {&p.RelayAdm, beside(asked, 3), held.tcp, held.freeTCP},
		{&p.MQTT, beside(asked, 4), held.tcp, held.freeTCP}, {&p.Link, beside(asked, 5), held.tcp, held.freeTCP},
		{&p.Hook, beside(asked, 6), held.tcp, held.freeTCP},
		{&p.Auth, fixed(asked, demoAuthPort), held.udp, held.freeUDP}, {&p.Acct, fixed(asked, demoAcctPort), held.udp, held.freeUDP},
	} {
		if asked != 0 && c.port == &p.API {
			continue
		}
		if *c.port == 0 {
			*c.port = c.wish
		}
		if *c.port != 0 && c.hold(*c.port) {
			continue
		}
		if *c.port = c.found(); *c.port == 0 {
			return edge.Reason{Code: "no_free_port", Says: "No free port was found on 127.0.0.1", Fix: "Close programs that hold many ports, then start again"}.Error(edge.Unavailable)
		}
	}
	return nil
}

// beside is a port near the asked one, 0 for any.
func beside(asked, n int) int {
	if asked == 0 || asked+n > 65535 {
		return 0
	}
	return asked + n
}

func fixed(asked, port int) int {
	if asked == 0 {
		return 0
	}
	return port
}

// holder tries ports by listening on them, and holds them until all are chosen, so that none is chosen twice.
type holder struct{ list []interface{ Close() error } }

func (h *holder) close() {
	for _, c := range h.list {
		_ = c.Close()
	}
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (h *holder) tcp(port int) bool {
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", loopback(port))
	if err == nil {
		h.list = append(h.list, ln)
	}
	return err == nil
}

func (h *holder) udp(port int) bool {
	conn, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp", loopback(port))
	if err == nil {
		h.list = append(h.list, conn)
	}
	return err == nil
}

func (h *holder) freeTCP() int {
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", loopback(0))
	if err != nil {
		return 0
	}
	h.list = append(h.list, ln)
	return portOf(ln.Addr())
}

func (h *holder) freeUDP() int {
	conn, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp", loopback(0))
	if err != nil {
		return 0
	}
	h.list = append(h.list, conn)
	return portOf(conn.LocalAddr())
}

func portOf(a net.Addr) int {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.Port
	case *net.UDPAddr:
		return a.Port
	}
	return 0
}
