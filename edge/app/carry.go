package app

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"wispgate/edge"
	"wispgate/edge/bundle"
	"wispgate/edge/exec"
	"wispgate/sync/cluster"
)

// Bundles: what waits at a node that is cut off, carried to the cluster, and what the cluster has committed, carried back. edge/bundle is the
// file, edge/exec the queue, sync/cluster the log; here they meet. DESIGN.md of edge/bundle tells the whole way.

// CarryOut says what to export.
type CarryOut struct {
	For  string  `json:"for,omitempty"`  // the node that is cut off; "": this node's own writes
	From *uint64 `json:"from,omitempty"` // its last log entry, where nobody here knows it
}

// Exported is what a bundle holds that was written.
type Exported struct {
	File        string    `json:"file,omitempty"`
	Kind        string    `json:"kind"`
	Cluster     string    `json:"cluster"`
	Incarnation string    `json:"incarnation"`
	Node        string    `json:"node"`
	For         string    `json:"for,omitempty"`
	MadeAt      time.Time `json:"made_at"`
	Writes      int       `json:"writes"`
	First       uint64    `json:"first_place,omitempty"`
	Last        uint64    `json:"last_place,omitempty"`
	Entries     uint64    `json:"entries"`
	FromIndex   uint64    `json:"from_index,omitempty"`
	ToIndex     uint64    `json:"to_index,omitempty"`
	State       bool      `json:"state"`             // the whole state stands before the entries
	Removed     bool      `json:"removed,omitempty"` // the node that made it was removed from the cluster, as it has heard
	Bytes       int64     `json:"bytes"`
}

// Imported is what became of a bundle.
type Imported struct {
	Kind    string    `json:"kind"`
	Cluster string    `json:"cluster"`
	Node    string    `json:"node"` // that made it
	For     string    `json:"for,omitempty"`
	MadeAt  time.Time `json:"made_at"`

	Writes int `json:"writes"`
	exec.TakenOver

	cluster.LogTaken
	Settled int64 `json:"settled"` // writes of this node that the cluster turned out to have
	Waiting int64 `json:"waiting"` // writes of this node that still wait
}

// carriedWrites is the manifest of a bundle of writes: the queue, and how far the node's log goes, for the way back.
type carriedWrites struct {
	exec.QueueRest
	Position cluster.Position `json:"position"`
}

// errCarryBusy refuses a second one at a time: each holds a file, or the state.
var errCarryBusy = edge.Reason{Code: "bundle_busy", Says: "Another bundle is being exported or imported at this node", Fix: "Wait until it is done"}

// carryReasons are the refusals of this file, for the documentation.
func carryReasons() []edge.Reason { return append(bundle.Reasons(), errCarryBusy) }

// fileKey of a bundle; its place in the vault's eyes.
const (
	carryRecord = "bundle"
	carryField  = "key"
	keyOctets   = 32
)

// carryHead is the head of a new bundle, but for its key.
func (c *core) carryHead(kind, to string) bundle.Head {
	return bundle.Head{
		Kind: kind, Cluster: c.id.Cluster, Incarnation: c.id.Incarnation, Node: c.id.Node, For: to, MadeAt: c.now().UTC().Truncate(time.Second), Program: c.opts.Version,
	}
}

// exportBundle writes a bundle.
func (c *core) exportBundle(ctx context.Context, o CarryOut, w io.Writer) (Exported, error) {
	if o.For != "" {
		return c.exportLog(ctx, o, w)
	}
	if o.From != nil {
		return Exported{}, edge.ErrInput.Error(edge.Invalid, edge.Field("/from", "is for a bundle to another node", "name the node with --for"))
	}
	return c.exportWrites(ctx, w)
}

// exportWrites writes what waits here, for any member of the cluster: the key of the file is sealed under the platform's, which all of them
// hold, also those that joined while this node was cut off.
func (c *core) exportWrites(ctx context.Context, w io.Writer) (out Exported, err error) {
	m := carriedWrites{}
	if m.Position, err = c.cluster.Position(); err != nil {
		return out, err
	}
	if m.QueueRest, err = c.exec.QueueRest(); err != nil {
		return out, err
	}
	key := newFileKey()
	sealed, err := c.vault.Seal(edge.System, carryRecord, carryField, key)
	if err != nil {
		return out, err
	}
	h := c.carryHead(bundle.Writes, "")
	h.Key = []byte(sealed)
	b, err := bundle.NewWriter(w, h, key, m)
	if err == nil {
		err = c.exec.EachPending(ctx, m.QueueRest, b.Record)
	}
	if err == nil {
		err = b.Close(c.signBundle)
	}
	if err != nil {
		return out, err
	}
	out = exportedAs(h, b)
	out.Writes, out.First, out.Last, out.Removed = m.Count, m.First, m.Last, c.cluster.Status().Removed
	return out, nil
}

// exportLog writes what a member lacks, for that member alone.
func (c *core) exportLog(ctx context.Context, o CarryOut, w io.Writer) (out Exported, err error) {
	x, err := c.cluster.ExcerptFor(ctx, o.For, o.From)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, x.Close()) }()
	key, h := newFileKey(), c.carryHead(bundle.Entries, o.For)
	if h.Key, err = c.cluster.SealForMember(o.For, key); err != nil {
		return out, err
	}
	b, err := bundle.NewWriter(w, h, key, x.Part)
	if err == nil {
		err = x.WriteState(b)
	}
	if err == nil {
		err = x.Each(ctx, b.Record)
	}
	if err == nil {
		err = b.Close(c.signBundle)
	}
	if err != nil {
		return out, err
	}
	out = exportedAs(h, b)
	out.Entries, out.FromIndex, out.ToIndex, out.State = x.Part.Entries(), x.Part.Prev, x.Part.Commit, x.Part.State != nil
	return out, nil
}

func exportedAs(h bundle.Head, b *bundle.Writer) Exported {
	return Exported{Kind: h.Kind, Cluster: h.Cluster, Incarnation: h.Incarnation, Node: h.Node, For: h.For, MadeAt: h.MadeAt, Bytes: b.Bytes()}
}

func newFileKey() []byte {
	key := make([]byte, keyOctets)
	_, _ = rand.Read(key) // never fails: it ends the program instead
	return key
}

func (c *core) signBundle(digest []byte) (s bundle.Signature, err error) {
	s.Value, s.Certificate, err = c.cluster.SignBundle(digest)
	return s, err
}

// openBundle judges a head and opens the file's key.
func (c *core) openBundle(h bundle.Head, former string) (key []byte, err error) {
	if err := (bundle.Expect{Cluster: c.id.Cluster, Incarnation: c.id.Incarnation, Node: c.id.Node, Former: former}).Check(h); err != nil {
		return nil, err
	}
	if h.Kind == bundle.Writes {
		key, err = c.vault.Unseal(edge.System, carryRecord, carryField, string(h.Key))
	} else {
		key, err = c.cluster.OpenForMember(h.Key)
	}
	if e, ok := edge.AsError(err); err != nil && ok && e.Code == cluster.ErrCarryAlone.Code {
		return nil, e
	}
	if err != nil || len(key) != keyOctets {
		return nil, bundle.ErrLocked.Error(edge.Denied)
	}
	return key, nil
}

// carryIn is an import that is under way.
type carryIn struct {
	*core
	open   func() (*bundle.Reader, error)
	told   func(done, total uint64) // hears how much is done
	former string                   // the node that was removed and whose writes are taken all the same
	gone   bool                     // it is indeed
}

// judge holds a signature against the members. Only what waited at a removed node is taken, and only where the operator names it.
func (c *carryIn) judge(h bundle.Head, digest []byte, s bundle.Signature) error {
	node, gone, err := c.cluster.VerifyBundle(digest, s.Value, s.Certificate)
	if e, ok := edge.AsError(err); err != nil && ok {
		return e
	}
	if err != nil || node != h.Node {
		c.log.Warn("a bundle was refused", "node", h.Node, "error", err)
		return bundle.ErrSigner.Error(edge.Denied)
	}
	if gone && (node != c.former || h.Kind != bundle.Writes) {
		return bundle.ErrRemoved.Error(edge.Denied)
	}
	c.gone = gone
	return nil
}

// importBundle takes a bundle over. It is read twice: nothing of it counts before it is proved to be whole, in order, and a member's, or the node's
// that the operator names as removed.
func (c *core) importBundle(ctx context.Context, f io.ReadSeeker, former string, told func(done, total uint64)) (Imported, error) {
	in := &carryIn{core: c, former: former, told: told, open: func() (*bundle.Reader, error) {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, fmt.Errorf("read bundle: %w", err)
		}
		return bundle.NewReader(bufio.NewReaderSize(f, readPiece), func(h bundle.Head) ([]byte, error) { return c.openBundle(h, former) })
	}}
	r, err := in.open()
	if err != nil {
		return Imported{}, err
	}
	h := r.Head()
	if former != "" && former != h.Node {
		return Imported{}, edge.ErrInput.Error(edge.Invalid, edge.Field("/removed", "is not the node that made the bundle", "name "+h.Node+", if it was removed"))
	}
	out := Imported{Kind: h.Kind, Cluster: h.Cluster, Node: h.Node, For: h.For, MadeAt: h.MadeAt}
	if h.Kind == bundle.Writes {
		return in.takeWrites(ctx, r, out)
	}
	return in.takeLog(ctx, r, out)
}

func (c *carryIn) takeWrites(ctx context.Context, r *bundle.Reader, out Imported) (Imported, error) {
	var m carriedWrites
	if err := r.Manifest(&m); err != nil {
		return out, err
	}
	checked := m.Carried()
	err := r.Verify(c.judge, func(data []byte, state bool) error {
		if state || m.Node != out.Node {
			return exec.ErrQueueWrong.Error(edge.Invalid)
		}
		_, err := checked.Intent(data)
		return err
	})
	if err == nil {
		err = checked.End()
	}
	if err == nil && m.Node != out.Node {
		err = exec.ErrQueueWrong.Error(edge.Invalid)
	}
	if err != nil {
		return out, err
	}
	if r, err = c.open(); err != nil {
		return out, err
	}
	next := func() ([]byte, error) { data, _, err := r.Next(); return data, err }
	out.Writes = m.Count
	out.TakenOver, err = c.exec.TakeOver(ctx, m.QueueRest, c.gone, next, func(done int) { c.told(uint64(done), uint64(m.Count)) })
	out.Waiting = c.exec.Pending().Waiting
	if err != nil {
		return out, halfWay(err, out)
	}
	if c.gone { // nothing is carried back to it
		return out, nil
	}
	if err := c.cluster.NotePosition(ctx, m.Node, m.Position); err != nil {
		c.log.Info("how far the log of a node goes is not noted", "node", m.Node, "error", err)
	}
	return out, nil
}

// halfWay adds to a refusal how far it had come: what was handed over counts, and the same bundle may simply be imported again.
func halfWay(err error, out Imported) error {
	e, ok := edge.AsError(err)
	if !ok || e.Kind != edge.Unavailable {
		return err
	}
	fixed := *e
	fixed.Fix = fmt.Sprintf("%d of %d writes are settled. Import the same bundle again, at a node that is in touch with the leader (wispgate sync status): each write counts once",
		out.New+out.Already, out.Writes)
	return &fixed
}

func (c *carryIn) takeLog(ctx context.Context, r *bundle.Reader, out Imported) (Imported, error) {
	var part cluster.LogPart
	if err := r.Manifest(&part); err != nil {
		return out, err
	}
	checked, err := part.Carried()
	if err != nil {
		return out, err
	}
	size := int64(0)
	err = r.Verify(c.judge, func(data []byte, state bool) error {
		if state {
			size += int64(len(data))
			return nil
		}
		_, err := checked.Entry(data)
		return err
	})
	if err == nil {
		err = checked.End()
	}
	if err == nil && (part.Leader != out.Node || part.State == nil && size > 0 || part.State != nil && size != part.State.Size) {
		err = cluster.ErrCarryDamaged.Error(edge.Invalid)
	}
	if err != nil {
		return out, err
	}
	if r, err = c.open(); err != nil {
		return out, err
	}
	waited := c.exec.Pending().Waiting
	if out.LogTaken, err = c.cluster.TakeLog(ctx, part, r.State(), func(done uint64) { c.told(done, part.Entries()) }); err != nil {
		return out, err
	}
	if err := c.exec.Reconcile(ctx); err != nil {
		return out, err
	}
	out.Waiting = c.exec.Pending().Waiting
	out.Settled = max(waited-out.Waiting, 0)
	return out, nil
}

const readPiece = 128 << 10 // a chunk and more

// spool keeps a bundle that arrives in a file without a name, so that nothing is left of it whatever happens.
func (c *core) spool(r io.Reader) (*os.File, error) {
	f, err := os.CreateTemp(c.dir, ".bundle-*")
	if err != nil {
		return nil, fmt.Errorf("keep bundle: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("keep bundle: %w", err)
	}
	for {
		if err := c.store.CheckDisk(); err != nil {
			_ = f.Close()
			return nil, err
		}
		_, err := io.CopyN(f, r, spoolStep)
		if errors.Is(err, io.EOF) {
			return f, nil
		}
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("keep bundle: %w", err)
		}
	}
}

// spoolStep is how much is kept between two looks at the disk.
const spoolStep = 4 << 20
