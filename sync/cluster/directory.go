package cluster

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"wispgate/edge"
)

// Directory holds in memory who belongs to the cluster and where each is reached. A watch feeds it from the records. Until there are any,
// on a node that has just joined or wiped its state, it goes by what was last written down beside the log.
type Directory struct {
	mu      sync.RWMutex
	records map[edge.ID]Peer
	byName  map[string]edge.ID
	noted   map[string]Peer
	hints   map[string]hint
	sums    sums
	changed chan struct{} // closed and renewed at each change
}

// hint is where a member has said itself that it is reached, while its record said otherwise: the record follows only once a leader commits
// it, and there may be none until the member is found. The next change of the recorded address ends it.
type hint struct{ address, record string }

// NewDirectory makes an empty one.
func NewDirectory() *Directory {
	return &Directory{records: map[edge.ID]Peer{}, byName: map[string]edge.ID{}, hints: map[string]hint{}, changed: make(chan struct{})}
}

// Peer is the record of a node, removed ones too.
func (d *Directory) Peer(node string) (Peer, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.peerLocked(node)
}

func (d *Directory) peerLocked(node string) (Peer, bool) {
	if len(d.records) == 0 {
		p, ok := d.noted[node]
		return p, ok
	}
	p, ok := d.records[d.byName[node]]
	return p, ok
}

// heard takes up where a member says that it is reached. The word must be its own, over a connection on which it was proved.
func (d *Directory) heard(node, address string) {
	if checkAddress(address) != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch p, ok := d.peerLocked(node); {
	case !ok || p.Status == Removed:
	case p.Address == address:
		delete(d.hints, node)
	default:
		d.hints[node] = hint{address, p.Address}
	}
}

// hint is where a member has said to be reached, if its record says otherwise; else "".
func (d *Directory) hint(node string) string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.hints[node].address
}

// addresses are where a member may be reached: where it has said so itself, then where its record says. None: it is no member.
func (d *Directory) addresses(node string) []string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	p, ok := d.peerLocked(node)
	if !ok || p.Status == Removed {
		return nil
	}
	if h, ok := d.hints[node]; ok {
		return []string{h.address, p.Address}
	}
	return []string{p.Address}
}

// Peers are the nodes that are not removed, by name.
func (d *Directory) Peers() []Peer {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var list []Peer
	for _, p := range d.records {
		list = append(list, p)
	}
	if len(list) == 0 {
		for _, p := range d.noted {
			list = append(list, p)
		}
	}
	list = slices.DeleteFunc(list, func(p Peer) bool { return p.Status == Removed })
	slices.SortFunc(list, func(a, b Peer) int { return cmp.Compare(a.Node, b.Node) })
	return list
}

// recorded says whether there are records at all.
func (d *Directory) recorded() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return len(d.records) > 0
}

// Changed is closed at the next change.
func (d *Directory) Changed() <-chan struct{} {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.changed
}

func (d *Directory) watch() edge.Watch {
	return edge.Watch{Name: "sync.directory", Tables: []string{peerTable.Name}, Apply: func(reset bool, _ uint64, changes []edge.Change) {
		d.apply(reset, changes)
	}}
}

func (d *Directory) apply(reset bool, changes []edge.Change) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if reset {
		d.records, d.byName = map[edge.ID]Peer{}, map[string]edge.ID{}
	}
	for _, c := range changes {
		var p Peer
		if c.Tenant != edge.System || c.Val == nil || json.Unmarshal(c.Val, &p) != nil {
			continue // never removed, and written by this program only
		}
		d.records[c.ID], d.byName[p.Node] = p, c.ID
	}
	maps.DeleteFunc(d.hints, func(node string, h hint) bool {
		p, ok := d.peerLocked(node)
		return !ok || p.Status == Removed || p.Address != h.record
	})
	close(d.changed)
	d.changed = make(chan struct{})
}

const notedFile = "members.json"

// note writes the members down for the next start without a state; load reads them.
func (d *Directory) note(dir string) error {
	if !d.recorded() {
		return nil
	}
	return noteMembers(dir, d.Peers())
}

func noteMembers(dir string, list []Peer) error {
	raw, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("note members: %w", err)
	}
	return writeAtomic(dir, notedFile, raw)
}

func (d *Directory) load(dir string) error {
	var list []Peer
	if err := readNote(dir, notedFile, &list); err != nil {
		return errNotedDamaged(dir, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.noted = map[string]Peer{}
	for _, p := range list {
		d.noted[p.Node] = p
	}
	return nil
}
