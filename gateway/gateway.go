// Package gateway is the HTTP edge: it turns the declarations of the modules into routes and answers them. It is the only place that
// knows Fiber. A request passes, in this order, the listener's limits, authentication, scope, rate and fairness, schema, operation and
// audit; every refusal is a problem document (RFC 9457) that names what was wrong and what to do, and never repeats a value from the
// request. DESIGN.md in this folder says why.
package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"

	"wispgate/edge"
)

// Listen is one address the gateway answers at.
type Listen struct {
	Network string      // tcp, tcp4, tcp6 or unix; "" is tcp
	Address string      // host:port, or the path of a unix socket
	TLS     *tls.Config // required except on loopback and unix sockets
}

// Page is a fixed answer that needs no credential: a file of the field app, the site's CA certificate. It is served under exactly its
// path, with a strong tag.
type Page struct {
	Path string // begins with /, no pattern
	Type string // Content-Type
	Body []byte
	Head [][2]string // further headers, such as Content-Security-Policy
}

// Config is how the gateway runs. Now and Logger are required; zero values take the defaults.
type Config struct {
	Modules []edge.Module
	Listen  []Listen
	Pages   []Page
	Title   string // of the OpenAPI document; "WISPGate Edge"
	Version string // of the program, for the OpenAPI document
	Node    string // id of the node, for the audit lines

	Now       func() time.Time // carries a monotonic reading
	Logger    *slog.Logger
	AccessLog io.Writer    // a JSON line per plain read; nil keeps none. Written by one goroutine, never by a request
	Isolated  func() bool  // whether the node is cut off from the quorum, for the answers' headers; nil: never
	Ready     func() error // why the node cannot serve yet (an *edge.Error, answered to all operations), nil when it can; nil: always

	Queue        QueueConfig
	Connections  int           // open at once; 4,000
	PerAddress   int           // of them from one address; 256
	ReadTimeout  time.Duration // headers and body together; 10 s
	WriteTimeout time.Duration // 30 s
	IdleTimeout  time.Duration // between two requests; 75 s
	SmallBoard   bool          // trades CPU for memory on idle connections
}

// The defaults of Config.
const (
	defaultConnections  = 4000
	defaultPerAddress   = 256
	defaultReadTimeout  = 10 * time.Second
	defaultWriteTimeout = 30 * time.Second
	defaultIdleTimeout  = 75 * time.Second
)

func (c Config) withDefaults() Config {
	orInt(&c.Connections, defaultConnections)
	orInt(&c.PerAddress, defaultPerAddress)
	orTime(&c.ReadTimeout, defaultReadTimeout)
	orTime(&c.WriteTimeout, defaultWriteTimeout)
	orTime(&c.IdleTimeout, defaultIdleTimeout)
	if c.Title == "" {
		c.Title = "WISPGate Edge"
	}
	if c.Version == "" {
		c.Version = "dev"
	}
	if c.Isolated == nil {
		c.Isolated = func() bool { return false }
	}
	if c.Ready == nil {
		c.Ready = func() error { return nil }
	}
	return c
}

func orInt(v *int, otherwise int) {
	if *v <= 0 {
		*v = otherwise
	}
}

func orTime(v *time.Duration, otherwise time.Duration) {
	if *v <= 0 {
		*v = otherwise
	}
}

// Server answers the modules' routes. Make it with New.
type Server struct {
	cfg     Config
	ports   Ports
	log     *slog.Logger
	app     *fiber.App
	routes  []*route
	tree    branch
	ops     map[string]*route // by operation, for batches: the inputs whole
	reasons []edge.Reason
	docs    *documents
	queue   *fairQueue
	access  *accessLog
	floods  *floods
	counts  *counters

	auditBroken atomic.Bool // the last audit line could not be written
	auditLimit  sharedLimit

	mu        sync.Mutex
	listeners []net.Listener
	base      context.Context // ends with Shutdown: what handlers derive theirs from
	cancel    context.CancelFunc
	wg        sync.WaitGroup
}

// New compiles the declarations. What is missing, unknown, unbounded or in each other's way refuses to start, all findings at once.
func New(cfg Config, ports Ports) (*Server, error) {
	cfg = cfg.withDefaults()
	if cfg.Now == nil || cfg.Logger == nil {
		return nil, errors.New("gateway: Now and Logger are required")
	}
	if ports.Executor == nil || ports.Authenticator == nil || ports.Limiter == nil || ports.Auditor == nil {
		return nil, errors.New("gateway: Executor, Authenticator, Limiter and Auditor are required")
	}
	s := &Server{
		cfg: cfg, ports: ports, log: cfg.Logger, ops: map[string]*route{}, queue: newFairQueue(cfg.Queue), auditLimit: sharedLimit{limit: auditTimeout},
		access: newAccessLog(cfg.AccessLog), counts: newCounters(),
	}
	s.floods = newFloods(s)
	s.base, s.cancel = context.WithCancel(context.Background()) //nolint:forbidigo // ended by Shutdown; handlers outlive no request
	errs := []error{edge.Check(cfg.Modules)}
	errs = append(errs, checkListen(cfg.Listen)...)
	errs = append(errs, s.compile()...)
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	var err error
	if s.docs, err = newDocuments(s); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	s.build()
	return s, nil
}

// checkListen refuses plain text beyond the machine.
func checkListen(list []Listen) (errs []error) {
	for _, l := range list {
		if l.TLS != nil || l.Network == "unix" {
			continue
		}
		host, _, err := net.SplitHostPort(l.Address)
		if err != nil {
			errs = append(errs, fmt.Errorf("listen %s: %w", l.Address, err))
			continue
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			errs = append(errs, fmt.Errorf("listen %s: without TLS only loopback addresses and unix sockets are allowed", l.Address))
		}
	}
	return errs
}

// Start opens the listeners and answers until Shutdown. It returns once all of them are open.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lc net.ListenConfig
	for _, l := range s.cfg.Listen {
		network := l.Network
		if network == "" {
			network = "tcp"
		}
		ln, err := lc.Listen(ctx, network, l.Address)
		if err != nil {
			for _, open := range s.listeners {
				_ = open.Close()
			}
			return fmt.Errorf("gateway: listen: %w", err)
		}
		ln = lingering{ln}
		if l.TLS != nil {
			c := l.TLS.Clone()
			c.NextProtos = []string{"http/1.1"} // fasthttp speaks nothing else
			ln = tls.NewListener(ln, c)
		}
		s.listeners = append(s.listeners, ln)
	}
	for _, ln := range s.listeners {
		s.wg.Go(func() {
			if err := s.app.Server().Serve(ln); err != nil && s.base.Err() == nil {
				s.log.Error("listener ended", "address", ln.Addr().String(), "error", err)
			}
		})
	}
	s.wg.Go(func() { s.access.run(s.base) })
	s.wg.Go(func() { s.floods.run(s.base) })
	return nil
}

// Addr is the first listener's address, nil before Start.
func (s *Server) Addr() net.Addr {
	if a := s.Addrs(); len(a) > 0 {
		return a[0]
	}
	return nil
}

// Addrs are the listeners' addresses in the order of Config.Listen.
func (s *Server) Addrs() (addrs []net.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ln := range s.listeners {
		addrs = append(addrs, ln.Addr())
	}
	return addrs
}

// Shutdown stops listening, waits for running requests until ctx ends, and writes what the logs still hold.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.app.Server().ShutdownWithContext(ctx)
	s.floods.flush()
	s.cancel()
	s.mu.Lock()
	for _, ln := range s.listeners { // fasthttp knows only those whose Serve had begun
		_ = ln.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	if err != nil {
		return fmt.Errorf("gateway: shut down: %w", err)
	}
	return nil
}
