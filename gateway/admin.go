package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"wispgate/edge"
)

// AdminConfig is how the local listener runs: health for a supervisor, metrics, profiles. It needs no credential, so it stands on
// loopback or a unix socket only.
type AdminConfig struct {
	Network string // tcp or unix; "" is tcp
	Address string
	Live    func() error            // why the process must be restarted, nil while it need not; nil: never
	Ready   func() error            // why the node cannot serve yet (an *edge.Error), nil when it can; nil: always
	Metrics []func(io.Writer)       // each writes its part in the text form of Prometheus
	Extra   map[string]http.Handler // further local pages by path
	Profile bool                    // serve /debug/pprof/
	Logger  *slog.Logger
}

// Admin is the local listener.
type Admin struct {
	cfg    AdminConfig
	server *http.Server
	ln     net.Listener
	done   chan struct{}
}

// NewAdmin makes the local listener; Start opens it.
func NewAdmin(cfg AdminConfig) (*Admin, error) {
	if errs := checkListen([]Listen{{Network: cfg.Network, Address: cfg.Address}}); len(errs) > 0 {
		return nil, fmt.Errorf("admin: %w", errors.Join(errs...))
	}
	a := &Admin{cfg: cfg, done: make(chan struct{})}
	a.server = &http.Server{
		Handler: a.Handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}
	return a, nil
}

// Handler serves /livez, /readyz, /metrics and, where allowed, /debug/pprof/.
func (a *Admin) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { health(w, a.cfg.Live) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { health(w, a.cfg.Ready) })
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		for _, write := range a.cfg.Metrics {
			write(w)
		}
	})
	for path, h := range a.cfg.Extra {
		mux.Handle(path, h)
	}
	if a.cfg.Profile {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// health answers 200, or 503 with the reason and its remedy.
func health(w http.ResponseWriter, check func() error) {
	w.Header().Set("Content-Type", jsonType)
	var err error
	if check != nil {
		err = check()
	}
	if err == nil {
		_, _ = io.WriteString(w, `{"status":"ok"}`+"\n")
		return
	}
	e, _ := edge.AsError(err)
	w.WriteHeader(http.StatusServiceUnavailable)
	_ = json.NewEncoder(w).Encode(map[string]string{"status": "unavailable", "code": e.Code, "detail": e.Message, "fix": e.Fix})
}

// Start opens the listener and serves until Shutdown.
func (a *Admin) Start(ctx context.Context) error {
	network := a.cfg.Network
	if network == "" {
		network = "tcp"
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, network, a.cfg.Address)
	if err != nil {
		return fmt.Errorf("admin: listen: %w", err)
	}
	a.ln = ln
	go func() {
		defer close(a.done)
		if err := a.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			a.cfg.Logger.Error("admin listener ended", "error", err)
		}
	}()
	return nil
}

// Addr is the listener's address, nil before Start.
func (a *Admin) Addr() net.Addr {
	if a.ln == nil {
		return nil
	}
	return a.ln.Addr()
}

// Shutdown stops listening and waits for running requests until ctx ends.
func (a *Admin) Shutdown(ctx context.Context) error {
	if a.ln == nil {
		return nil
	}
	if err := a.server.Shutdown(ctx); err != nil {
		return fmt.Errorf("admin: shut down: %w", err)
	}
	<-a.done
	return nil
}
