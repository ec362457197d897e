package app

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"wispgate/edge"
	"wispgate/edge/backup"
	"wispgate/edge/config"
	"wispgate/edge/exec"
	"wispgate/edge/obs"
	"wispgate/edge/store"
	"wispgate/edge/vault"
	"wispgate/gateway/identity"
	"wispgate/sync/cluster"
)

// RestoreOptions of RestoreBackup.
type RestoreOptions struct {
	Config   config.Config // of the node that is to be: its data folder, and its names where they are set
	File     string
	Openers  BackupOpeners
	Node     string // name of the new node; "": the configuration's, else one is drawn
	SameNode bool   // it takes the place of the node that made the backup, under that node's name
	Progress BackupProgress
	Log      io.Writer
}

// Restored says what a restore made.
type Restored struct {
	DataDir     string          `json:"data_dir"`
	Node        string          `json:"node"`
	Site        string          `json:"site"`
	Cluster     string          `json:"cluster"`
	Incarnation string          `json:"incarnation"`
	Version     uint64          `json:"version"` // of the state: the backup's, and one more for the tenants' keys
	Checksum    string          `json:"checksum"`
	Removed     []string        `json:"removed_nodes"`
	Backup      backup.Manifest `json:"backup"`
	Next        []string        `json:"next"`
}

// restoring is the folder inside the data folder in which a restore is made. It is moved out of there when it is whole.
const restoring = ".restoring"

// seriesGap is what a node that keeps its name leaves out of each of its series at least: numbers that the old one may have given after the backup.
const seriesGap = 1_000_000

// seriesGapAt is the gap of a restore at a time: one more for each second since the backup, so that a node which was restored from it before, and went
// on, gave none of the numbers that this one gives.
func seriesGapAt(made, now time.Time) uint64 {
	return seriesGap + uint64(max(now.Sub(made), 0)/time.Second)
}

// RestoreBackup makes a node of a backup in an empty folder: a cluster of its own, with the backup's state and a new history. Whatever goes
// wrong, the folder is left as it was.
func RestoreBackup(ctx context.Context, o RestoreOptions) (out Restored, err error) {
	dir := o.Config.Node.DataDir
	made, err := emptyFolder(dir)
	if err != nil {
		return out, err
	}
	r := &restore{opts: o, dir: filepath.Join(dir, restoring)}
	if err = os.Mkdir(r.dir, 0o700); err == nil {
		err = r.run(ctx)
	}
	if err == nil {
		err = moveOut(r.dir, dir)
	}
	if err != nil {
		_ = os.RemoveAll(r.dir)
		if made {
			_ = os.Remove(dir)
		}
		return out, firstKnown(err)
	}
	return r.result(dir), nil
}

// emptyFolder makes the data folder, or proves that nothing is in it. The folder that ext4 makes at the root of a partition counts as nothing.
func emptyFolder(dir string) (made bool, err error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return false, folderError(dir, err)
		}
		return true, nil
	}
	held, err := os.ReadDir(dir)
	if err != nil {
		return false, folderError(dir, err)
	}
	held = slices.DeleteFunc(held, func(e fs.DirEntry) bool { return e.Name() == "lost+found" })
	if len(held) > 0 {
		return false, &edge.Error{
			Kind: edge.Conflict, Code: "restore_not_empty", Message: fmt.Sprintf("The folder %s is not empty: it holds %s", dir, held[0].Name()),
			Fix: "Name an empty folder with --data-dir. To replace a node, stop it and move its folder aside first; keep that until the new one is well",
		}
	}
	return false, nil
}

// moveOut gives what was made its place. The node's name comes last: without it the folder is no node's.
func moveOut(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, _ fs.DirEntry) int {
		if a.Name() == "node.json" {
			return 1
		}
		return -1
	})
	for _, e := range entries {
		if err := os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
	}
	return errors.Join(os.Remove(from), syncFolder(to))
}

// errRestoreCut is a data folder in which a restore was cut off, as by a power cut.
func errRestoreCut(dir string) error {
	return &edge.Error{
		Kind: edge.Conflict, Code: "restore_unfinished", Message: "A restore into " + dir + " was cut off before its end",
		Fix: "Empty the folder and restore again",
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// restore is one restore on its way.
type restore struct {
	opts    RestoreOptions
	dir     string
	id      nodeID
	pre     backup.Preamble
	key     backup.FileKey
	vault   *vault.Vault
	sum     string
	version uint64
	removed []string
}

func (r *restore) run(ctx context.Context) error {
	f, size, err := openBackup(r.opts.File)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	locked, err := openLocks(f, size, r.opts.Openers, r.opts.Progress)
	if err != nil {
		return err
	}
	r.key = locked.Key()
	if r.vault, err = vault.Open(filepath.Join(r.dir, "keys")); err != nil {
		return err
	}
	in := &firstError{r: readerFunc(func(b []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return locked.Read(b)
	})}
	return in.orBetter(r.load(in))
}

// load reads the backup into a store, and makes log and identity for it.
func (r *restore) load(in io.Reader) error {
	log, _, err := obs.NewLogger(r.opts.Log, obs.LogOptions{Level: "warn"})
	if err != nil {
		return err
	}
	c := &core{}
	stopped := false
	defer func() {
		if !stopped {
			_ = c.stop()
		}
	}()
	st, err := store.Open(store.Options{Dir: filepath.Join(r.dir, "state"), Logger: log, BallastBytes: -1})
	if err != nil {
		return err
	}
	c.onStop("store", func(context.Context) error { return st.Close() })
	m, err := exec.NewMachine(st, exec.MachineOptions{Logger: log})
	if err != nil {
		return err
	}
	c.onStop("state machine", func(context.Context) error { return m.Close() })
	_, err = readPayload(in, func(state io.Reader, pre *backup.Preamble) error {
		r.pre = *pre
		return r.seed(state, st, m)
	})
	if err != nil {
		return err
	}
	if err := r.amend(m); err != nil {
		return err
	}
	conf := cluster.Config{Dir: logDir(r.dir), NodeID: r.id.Node, ClusterID: r.id.Cluster, Logger: log, Now: time.Now}
	if err := cluster.Refound(conf, m); err != nil {
		return err
	}
	r.version = m.Version()
	stopped = true
	return errors.Join(c.stop(), r.id.write(r.dir))
}

// seed decides who the node is, and loads the state.
func (r *restore) seed(state io.Reader, st *store.Store, m *exec.Machine) (err error) {
	manifest := &r.pre.Manifest
	if r.id, err = r.opts.identity(manifest); err != nil {
		return err
	}
	if _, err := m.Seed(state); err != nil {
		return err
	}
	if err := r.nameIsFree(m); err != nil {
		return err
	}
	version, sum, err := m.Checksum()
	if err != nil {
		return err
	}
	if r.sum = hex.EncodeToString(sum[:]); version != manifest.Version || r.sum != manifest.Checksum {
		return errBackupContent
	}
	return r.local(st)
}

// identity is who the new node is.
func (o RestoreOptions) identity(m *backup.Manifest) (nodeID, error) {
	set := o.Config.Node
	id := nodeID{
		Node: orElse(o.Node, set.ID), Site: orElse(set.Site, m.Site), Cluster: orElse(set.Cluster, m.Cluster), Incarnation: shortRandom(),
	}
	switch {
	case o.SameNode && id.Node != "" && id.Node != m.Node:
		return id, &edge.Error{
			Kind: edge.Invalid, Code: "restore_node", Message: fmt.Sprintf("The node is to be called %s, but the backup was made by %s", id.Node, m.Node),
			Fix: "Leave out --same-node, or the other name",
		}
	case o.SameNode:
		id.Node = m.Node
	case id.Node == m.Node:
		return id, &edge.Error{
			Kind: edge.Conflict, Code: "restore_same_node",
			Message: fmt.Sprintf("The backup was made by a node of the same name, %s. What that node numbered after the backup (receipts) is not in it, and a second node of its name would give the same numbers again", m.Node),
			Fix:     fmt.Sprintf("Give the new node another name with --node (node.id). Only where %s is gone for good: --same-node keeps the name and leaves a gap of more than %d numbers in each of its series", m.Node, seriesGap),
		}
	case id.Node == "":
		id.Node = "node-" + shortRandom()
	}
	checked := config.Default()
	checked.Node.ID, checked.Node.Site, checked.Node.Cluster = id.Node, id.Site, id.Cluster
	return id, checked.Check()
}

// nameIsFree refuses the name of any node that the old cluster knew, removed ones included. It, too, may have numbered receipts, and how far it
// came stands on its own disk only: a second node of its name would begin at 1 again.
func (r *restore) nameIsFree(m *exec.Machine) error {
	if r.opts.SameNode {
		return nil // the maker's own, whose numbers the backup holds
	}
	st := m.Snapshot()
	defer st.Close()
	var names []string
	err := st.Scan(cluster.PeerPrefix(), "", func(_ string, record []byte) (bool, error) {
		name, err := cluster.PeerName(record)
		names = append(names, name)
		return err == nil, err
	})
	if err != nil || !slices.Contains(names, r.id.Node) {
		return err
	}
	slices.Sort(names)
	fix := "Give the new node a name of its own with --node"
	if r.opts.Node == "" {
		fix = "The name is node.id of the configuration. Give the new node one of its own with --node, and set node.id to it before it starts"
	}
	return &edge.Error{
		Kind: edge.Conflict, Code: "restore_name_taken",
		Message: fmt.Sprintf("The old cluster knew a node named %s. What that node numbered (receipts) is not in the backup, and a second node of its name would give the same numbers again", r.id.Node),
		Fix:     fix + "; taken are " + strings.Join(names, ", "),
	}
}

// local writes the node's own keyspace: the platform's key and, under the old name, how far its series have come.
func (r *restore) local(st *store.Store) error {
	var b store.Batch
	for _, k := range r.keys(edge.System) {
		wrapped, err := r.vault.Adopt(k.Tenant, k.Wrapped, r.key.Seed(carrySeed))
		if err != nil {
			return err
		}
		b.Put([]byte(systemKey), wrapped)
	}
	if r.opts.SameNode {
		gap := seriesGapAt(r.pre.Manifest.MadeAt, time.Now())
		for _, s := range r.pre.Manifest.Series {
			hash, err := hex.DecodeString(s.Hash)
			if err != nil {
				return errBackupContent
			}
			b.Put([]byte(seriesPrefix+s.Tenant+"/"+s.Name), append(binary.BigEndian.AppendUint64(nil, s.Number+gap), hash...))
		}
	}
	return st.Commit(&b)
}

func (r *restore) keys(tenant string) (out []backup.Key) {
	for _, k := range r.pre.Keys {
		if k.Tenant == tenant {
			out = append(out, k)
		}
	}
	return out
}

// amend changes what belonged to the old cluster: the tenants' keys are wrapped for the new node, and the old nodes are removed.
func (r *restore) amend(m *exec.Machine) error {
	st := m.Snapshot()
	defer st.Close()
	var ops []exec.Op
	cost := 0
	put := func(key string, val []byte) error {
		op := exec.Op{Key: key, Val: val}
		if !exec.Fits(len(ops)+1, cost+op.Cost()) {
			if err := m.Amend(ops); err != nil {
				return err
			}
			ops, cost = nil, 0
		}
		ops, cost = append(ops, op), cost+op.Cost()
		return nil
	}
	if err := r.adoptKeys(st, put); err != nil {
		return err
	}
	if err := r.removeNodes(st, m.LastTime(), put); err != nil {
		return err
	}
	if len(ops) == 0 {
		return nil
	}
	return m.Amend(ops)
}

func (r *restore) adoptKeys(st *exec.State, put func(key string, val []byte) error) error {
	carried := map[edge.ID]backup.Key{}
	for _, k := range r.pre.Keys {
		carried[k.Record] = k
	}
	return st.Scan(identity.TenantKeyPrefix(), "", func(key string, record []byte) (bool, error) {
		was, err := identity.ReadTenantKey(record, "")
		if err != nil {
			return false, err
		}
		k, ok := carried[was.Record]
		if !ok || k.Tenant != was.Tenant {
			return false, errBackupContent
		}
		wrapped, err := r.vault.Adopt(k.Tenant, k.Wrapped, r.key.Seed(carrySeed))
		if err != nil {
			return false, err
		}
		now, err := identity.AdoptTenantKey(record, wrapped)
		if err != nil {
			return false, err
		}
		return true, put(key, now)
	})
}

func (r *restore) removeNodes(st *exec.State, at time.Time, put func(key string, val []byte) error) error {
	return st.Scan(cluster.PeerPrefix(), "", func(key string, record []byte) (bool, error) {
		now, name, err := cluster.RefoundPeer(record, r.id.Node, base64.StdEncoding.EncodeToString(r.vault.PublicKey()), at)
		if err != nil || now == nil {
			return err == nil, err
		}
		if name != r.id.Node {
			r.removed = append(r.removed, name)
		}
		return true, put(key, now)
	})
}

// result says what was made and what is to do.
func (r *restore) result(dir string) Restored {
	m := r.pre.Manifest
	out := Restored{
		DataDir: dir, Node: r.id.Node, Site: r.id.Site, Cluster: r.id.Cluster, Incarnation: r.id.Incarnation, Version: r.version, Checksum: r.sum,
		Removed: r.removed, Backup: m,
		Next: []string{
			"Nothing of the old cluster may go on beside this one: wipe its nodes' data folders (" + m.Node + " among them) before they are started again",
			"Give node.data_dir the owner that runs wispgate, set node.id to " + r.id.Node + " and node.cluster to " + r.id.Cluster + " where the configuration names them, and start wispgate serve",
			"Let clients trust the new site CA: tls/ca.crt, made at the first start",
			"Where there is an uplink: the events go on as a new history (incarnation " + r.id.Incarnation + "); what happened after " + m.StateTime.Format(time.RFC3339) + " is known only to the relay, and to who was there",
			"Invite the other nodes again, each with its folder emptied and under a new node.id: wispgate cluster invite",
		},
	}
	if out.Removed == nil {
		out.Removed = []string{}
	}
	if r.opts.SameNode {
		out.Next = append(out.Next, fmt.Sprintf("The node keeps its name: its receipts go on more than %d numbers later, and the gap shows as a broken chain, which it is", seriesGap))
	}
	return out
}
