package cluster

import (
	"cmp"
	"encoding/json"
	"fmt"
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
	sums    sums
	changed chan struct{} // closed and renewed at each change
}

// NewDirectory makes an empty one.
func NewDirectory() *Directory {
	return &Directory{records: map[edge.ID]Peer{}, byName: map[string]edge.ID{}, changed: make(chan struct{})}
}

// Peer is the record of a node, removed ones too.
func (d *Directory) Peer(node string) (Peer, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if len(d.records) == 0 {
		p, ok := d.noted[node]
		return p, ok
	}
	p, ok := d.records[d.byName[node]]
	return p, ok
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
