package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"wispgate/edge"
	"wispgate/edge/backup"
	"wispgate/edge/config"
	"wispgate/edge/exec"
	"wispgate/edge/obs"
	"wispgate/edge/store"
	"wispgate/edge/vault"
	"wispgate/sync/cluster"
)

// BackupOptions of MakeBackup.
type BackupOptions struct {
	Config   config.Config // of the node; node.data_dir says where it lives
	Version  string
	Out      string
	Force    bool // a file that is there is replaced
	Locks    BackupLocks
	Progress BackupProgress
	Log      io.Writer
}

// MakeBackup writes a backup of the node of a data folder. Where the node runs, it hands the state over through its socket and goes on;
// where it is stopped, the folder is read.
func MakeBackup(ctx context.Context, o BackupOptions) (BackupFile, error) {
	dir := o.Config.Node.DataDir
	if o.Out == "" {
		return BackupFile{}, edge.ErrInput.Error(edge.Invalid, edge.Field("/out", "is missing", "name the file to write with --out"))
	}
	if keys, err := o.Locks.keys(); err != nil {
		return BackupFile{}, err
	} else if _, err := backup.NewWriter(io.Discard, backup.NewFileKey(), keys); err != nil { // before a node is asked to hold its state
		return BackupFile{}, err
	}
	if _, err := os.Lstat(o.Out); err == nil && !o.Force { // it may be the only good one
		return BackupFile{}, &edge.Error{Kind: edge.Conflict, Code: "file_exists", Message: "The file " + o.Out + " is there already", Fix: "Name another, or replace it with --force"}
	}
	key := backup.NewFileKey()
	public, err := vault.SeedPublicKey(key.Seed(carrySeed))
	if err != nil {
		return BackupFile{}, err
	}
	conn := localClient(dir)
	if conn == nil {
		return o.stopped(ctx, key, public)
	}
	s, done, err := conn.backup(ctx, public)
	if err != nil {
		return BackupFile{}, err
	}
	defer done()
	s.key = key
	return writeBackup(ctx, o.Out, o.Locks, s, o.Progress)
}

// stopped makes the backup of a folder whose node does not run.
func (o BackupOptions) stopped(ctx context.Context, key backup.FileKey, public []byte) (out BackupFile, err error) {
	src, closeAll, err := openStopped(ctx, o.Config, o.Version, o.Log)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	p, err := src.begin(public)
	if err != nil {
		return out, err
	}
	defer p.close()
	return writeBackup(ctx, o.Out, o.Locks, backupStream{key, p.size(), p.write}, o.Progress)
}

// errNoNode is a folder that no node has made.
func errNoNode(dir string) error {
	return &edge.Error{
		Kind: edge.NotFound, Code: "data_dir", Message: "There is no node in the data folder " + dir, Fix: "Name the folder with --data-dir, or its configuration with --config",
	}
}

// openStopped opens the folder of a node that does not run, and brings its state to the end of its log: after a power cut, up to a second of
// what was acknowledged is only there. A member of a cluster cannot know alone how much of its log counts; its state is taken as it is.
func openStopped(ctx context.Context, cfg config.Config, program string, log io.Writer) (src backupSource, closeAll func() error, err error) {
	dir := cfg.Node.DataDir
	if _, err := os.Stat(filepath.Join(dir, "node.json")); err != nil {
		return src, nil, errNoNode(dir)
	}
	logger, _, err := obs.NewLogger(log, obs.LogOptions{Level: "error"})
	if err != nil {
		return src, nil, err
	}
	c := &core{}
	closeAll = c.stop
	defer func() {
		if err != nil {
			err = errors.Join(err, c.stop())
		}
	}()
	if src.id, err = loadNodeID(dir, cfg.Node); err != nil {
		return src, closeAll, err
	}
	st, err := store.Open(store.Options{Dir: filepath.Join(dir, "state"), Logger: logger, BallastBytes: -1})
	if err != nil {
		return src, closeAll, err
	}
	c.onStop("store", func(context.Context) error { return st.Close() })
	if src.machine, err = exec.NewMachine(st, exec.MachineOptions{Logger: logger}); err != nil {
		return src, closeAll, err
	}
	c.onStop("state machine", func(context.Context) error { return src.machine.Close() })
	if src.vault, err = vault.Open(filepath.Join(dir, "keys")); err != nil {
		return src, closeAll, err
	}
	src.dir, src.program, src.now = dir, program, time.Now
	return src, closeAll, replay(ctx, cluster.Config{Dir: logDir(dir), NodeID: src.id.Node, ClusterID: src.id.Cluster, Logger: logger, Now: time.Now}, src.machine)
}

// replay applies what the log holds beyond the state, where this node alone decides what counts.
func replay(ctx context.Context, conf cluster.Config, m *exec.Machine) error {
	if exists, err := cluster.Exists(conf.Dir); err != nil || !exists {
		return err
	}
	node, err := cluster.Open(conf, m)
	if err != nil {
		return err
	}
	if len(node.Status().Voters) == 1 {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err = node.WaitLeader(ctx); err == nil {
			err = node.Barrier(ctx)
		}
	}
	return errors.Join(err, node.Shutdown())
}

// local speaks to a daemon through the socket for its administration: whoever can open it may read the folder, too.
type local struct{ http *http.Client }

func adminSocket(dir string) string { return filepath.Join(dir, "admin.sock") }

// localClient is nil where no daemon listens.
func localClient(dir string) *local {
	path := adminSocket(dir)
	dial := func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "unix", path) }
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return nil
	}
	_ = conn.Close()
	return &local{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }, DisableKeepAlives: true,
	}}}
}

func errInterrupted(err error) error {
	return &edge.Error{
		Kind: edge.Unavailable, Code: "backup_interrupted", Message: fmt.Sprintf("The node stopped sending the backup: %v", err),
		Fix: "See that wispgate still runs, and what its log says; then begin again",
	}
}

// do asks and returns an answer that is not a refusal.
func (l *local) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return l.send(ctx, method, path, bytes.NewReader(raw), errInterrupted)
}

// send streams a body to the daemon and returns an answer that is not a refusal. broken makes the error of a daemon that goes away.
func (l *local) send(ctx context.Context, method, path string, body io.Reader, broken func(error) error) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://local"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := l.http.Do(req)
	if err != nil {
		return nil, broken(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	e := new(edge.Error)
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(e); err != nil || e.Code == "" {
		return nil, broken(errors.New(resp.Status))
	}
	return nil, e
}

// backup begins to receive a payload.
func (l *local) backup(ctx context.Context, public []byte) (s backupStream, done func(), err error) {
	resp, err := l.do(ctx, http.MethodPost, "/backup", backupRequest{For: public}) //nolint:bodyclose // done closes it
	if err != nil {
		return s, nil, err
	}
	s.total = resp.ContentLength
	s.write = func(_ context.Context, w io.Writer) error {
		from := &firstError{r: resp.Body}
		_, err := io.Copy(w, from)
		if from.err != nil {
			return errInterrupted(from.err)
		}
		return err
	}
	return s, func() { _ = resp.Body.Close() }, nil
}

// backupRequest asks for a payload over the socket.
type backupRequest struct {
	For []byte `json:"for"` // the public key to which tenants' keys are wrapped
}

// sendWithin bounds how long a receiver may be idle: it holds the state, which on a full disk delays the change to reading only.
const sendWithin = 30 * time.Second

// serveBackup sends a payload, one at a time.
func (c *core) serveBackup() http.HandlerFunc {
	one := make(chan struct{}, 1)
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case one <- struct{}{}:
			defer func() { <-one }()
		default:
			answerError(w, &edge.Error{Kind: edge.Unavailable, Code: "backup_running", Message: "Another backup of this node is being made", Fix: "Wait until it has ended"})
			return
		}
		var req backupRequest
		if err := json.NewDecoder(io.LimitReader(r.Body, 4<<10)).Decode(&req); err != nil {
			answerError(w, edge.ErrInput.Error(edge.Invalid, edge.Field("/for", "is missing", "send a public key")))
			return
		}
		p, err := c.source().begin(req.For)
		if err != nil {
			answerError(w, err)
			return
		}
		defer p.close()
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", fmt.Sprint(p.size()))
		out := http.NewResponseController(w)
		_ = out.SetReadDeadline(time.Time{}) // the listener's would end the request in the middle
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(c.ctx, cancel)() // a node that stops does not wait for it
		err = p.write(ctx, writerFunc(func(b []byte) (int, error) {
			if err := out.SetWriteDeadline(time.Now().Add(sendWithin)); err != nil {
				return 0, err
			}
			return w.Write(b)
		}))
		if err != nil {
			c.log.Warn("a backup was not sent to its end", "error", err)
			panic(http.ErrAbortHandler) // the receiver must not take half of it for the whole
		}
		c.log.Info("state handed over for a backup", "version", p.pre.Manifest.Version, "bytes", p.size())
	}
}

func (c *core) source() backupSource {
	return backupSource{dir: c.dir, id: c.id, machine: c.machine, vault: c.vault, program: c.opts.Version, now: c.effectiveTime}
}

// answerError is an error on the local socket.
func answerError(w http.ResponseWriter, err error) {
	e, _ := edge.AsError(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusServiceUnavailable)
	_ = json.NewEncoder(w).Encode(e)
}
