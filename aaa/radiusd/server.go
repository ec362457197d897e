package radiusd

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Server is the front door. Listen makes one, SetNAS tells it the routers, Run serves.
type Server struct {
	cfg         Config
	start       time.Time
	bootKey     [32]byte
	nas         atomic.Pointer[nasTable]
	nasMu       sync.Mutex // serialises SetNAS
	reasons     map[string]int
	reasonCodes []string
	lanes       []*lane
	workers     []*worker
	slowEngines []*engine
	addrs       Addrs
	post        *postman
	slow        chan *pending
	strangers   strangers

	inFlight      atomic.Int64
	stopping      atomic.Bool
	journalFailed atomic.Bool
	journalLogged atomic.Int64 // Unix seconds of the last word about it; negative while it is down
}

// slowQueue bounds the requests that wait for a slow hash.
const slowQueue = 256

// Listen binds every address, all or none. The sockets queue from now on; Run begins to answer.
func Listen(cfg Config) (*Server, error) {
	if err := cfg.defaults(runtime.NumCPU()); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, start: cfg.Now(), slow: make(chan *pending, slowQueue), reasons: map[string]int{}}
	if _, err := rand.Read(s.bootKey[:]); err != nil {
		return nil, err
	}
	for i := range own {
		s.reason(own[i].reason.Code)
	}
	for _, r := range cfg.Reasons {
		s.reason(r.Code)
	}
	s.nas.Store(&nasTable{})
	s.post = newPostman(s)
	for _, side := range []struct {
		list       []string
		accounting bool
		bound      *[]netip.AddrPort
	}{{cfg.Auth, false, &s.addrs.Auth}, {cfg.Acct, true, &s.addrs.Acct}} {
		for _, addr := range side.list {
			if err := s.bind(addr, side.accounting, side.bound); err != nil {
				return nil, errors.Join(err, s.close())
			}
		}
	}
	for range cfg.SlowWorkers {
		e := s.newEngine()
		e.slow = true
		s.slowEngines = append(s.slowEngines, e)
	}
	return s, nil
}

func (s *Server) reason(code string) {
	if _, known := s.reasons[code]; !known {
		s.reasons[code] = len(s.reasonCodes)
		s.reasonCodes = append(s.reasonCodes, code)
	}
}

func (s *Server) bind(addr string, accounting bool, bound *[]netip.AddrPort) error {
	conns, granted, err := listen(addr, s.cfg.Workers, s.cfg.ReceiveBuffer)
	if err != nil {
		return err
	}
	for _, c := range conns {
		w := &worker{
			engine: s.newEngine(), conn: c, accounting: accounting, cache: newCache(s.cfg.CacheEntries, int64(s.cfg.CacheFor)),
			io: newBatch(segments(c)), plain: !segments(c), fd: descriptor(c),
		}
		w.oob.init()
		if !accounting {
			w.limits = newBackoff()
		}
		s.workers = append(s.workers, w)
	}
	local := conns[0].LocalAddr().(*net.UDPAddr).AddrPort()
	*bound = append(*bound, local)
	s.cfg.Logger.Info("radius listens", "address", local.String(), "accounting", accounting, "sockets", len(conns),
		"receive_buffer_bytes", granted, "receive_buffer_wanted_bytes", s.cfg.ReceiveBuffer)
	return nil
}

// Addrs returns where the server listens.
func (s *Server) Addrs() Addrs { return s.addrs }

// SetNAS replaces the table of routers at once; what was learned about a NAS stays with its ID. On an error the old
// table stays.
func (s *Server) SetNAS(list []*NAS) error {
	s.nasMu.Lock()
	defer s.nasMu.Unlock()
	t, err := newNASTable(list, s.nas.Load())
	if err != nil {
		return err
	}
	s.nas.Store(t)
	return nil
}

func (s *Server) journalReady() bool {
	if s.cfg.JournalReady != nil {
		return s.cfg.JournalReady()
	}
	return !s.journalFailed.Load()
}

// grace is how long Run waits at its end for the journal and the slow pool.
const grace = 3 * time.Second

// Run serves until ctx ends, then stops reading, sends what is in flight, and closes the sockets. A Server runs once.
func (s *Server) Run(ctx context.Context) error {
	var readers, slow, post sync.WaitGroup
	for _, w := range s.workers {
		readers.Go(w.loop)
	}
	for _, e := range s.slowEngines {
		slow.Go(func() { s.slowLoop(e) })
	}
	stop := make(chan struct{})
	post.Go(func() { s.post.loop(stop) })
	<-ctx.Done()

	s.stopping.Store(true)
	for _, w := range s.workers {
		_ = w.conn.SetReadDeadline(time.Unix(1, 0))
	}
	readers.Wait()
	close(s.slow)
	slow.Wait()
	s.settle()
	close(stop)
	post.Wait()
	return s.close()
}

// settle gives what waits for the journal its time; delayed rejects are sent at once afterwards.
func (s *Server) settle() {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.NewTimer(grace)
	defer deadline.Stop()
	for {
		if s.inFlight.Load() <= s.post.held.Load() {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline.C:
			return
		}
	}
}

func (s *Server) close() error {
	var errs []error
	for _, w := range s.workers {
		errs = append(errs, w.conn.Close())
	}
	return errors.Join(errs...)
}
