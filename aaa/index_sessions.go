package aaa

import (
	"encoding/json"
	"hash/maphash"
	"sync"

	"wispgate/aaa/packet"
	"wispgate/edge"
)

func hashLogin(ix *Index, login string) uint64 { return maphash.String(ix.seed, login) % shards }

// openSession is an open session as the limit sees it.
type openSession struct {
	cred uuid
	mac  packet.MAC
}

// openShard keeps the open sessions of some logins. Its lock is held for a few comparisons.
type openShard struct {
	mu     sync.Mutex
	byCred map[uuid]*openList
}

// openList is one login's sessions: those that accounting told of, and accepts that await their Start.
type openList struct {
	told    []packet.MAC
	awaited [4]awaited
}

// awaited is an accept whose Start has not been applied yet.
type awaited struct {
	mac   packet.MAC
	until int64 // Unix seconds; 0: free
}

// startWithin is how many seconds an accept may wait for its Start before it no longer counts.
const startWithin = 30

// session keeps the open sessions of a login. Only what the limit needs is decoded.
func (b *builder) session(c *edge.Change) error {
	t, id := b.tenant(c.Tenant), uuidOf(c.ID)
	var rec struct {
		State      SessionState `json:"state" doc:"active, stale or closed."`
		Credential edge.ID      `json:"credential_id" doc:"The credential."`
		MAC        string       `json:"mac" doc:"The device's address."`
	}
	if c.Val != nil {
		if err := json.Unmarshal(c.Val, &rec); err != nil {
			return err
		}
	}
	was, had := t.sessions[id]
	has := rec.State == SessionStateActive && rec.Credential != ""
	now := openSession{cred: uuidOf(rec.Credential)}
	now.mac, _ = packet.ParseMAC([]byte(rec.MAC))
	if had == has && (!has || was == now) {
		return nil
	}
	if had {
		t.openOf(was.cred).remove(was)
		delete(t.sessions, id)
	}
	if has {
		t.openOf(now.cred).add(now)
		t.sessions[id] = now
	}
	return nil
}

func (t *tenantIndex) openOf(cred uuid) *openShard { return &t.open[cred[15]] }

func (o *openShard) listLocked(cred uuid) *openList {
	l := o.byCred[cred]
	if l == nil {
		if o.byCred == nil {
			o.byCred = map[uuid]*openList{}
		}
		l = &openList{}
		o.byCred[cred] = l
	}
	return l
}

func (o *openShard) add(s openSession) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l := o.listLocked(s.cred)
	l.told = append(l.told, s.mac)
	for i := range l.awaited {
		if l.awaited[i].until != 0 && l.awaited[i].mac == s.mac {
			l.awaited[i].until = 0
			break
		}
	}
}

func (o *openShard) remove(s openSession) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l := o.listLocked(s.cred)
	for i, m := range l.told {
		if m == s.mac {
			l.told[i] = l.told[len(l.told)-1]
			l.told = l.told[:len(l.told)-1]
			break
		}
	}
	if len(l.told) == 0 && l.awaited == [4]awaited{} {
		delete(o.byCred, s.cred)
	}
}

// admit reports whether one more session of the device fits the limit, and if so awaits its Start.
func (o *openShard) admit(cred uuid, mac packet.MAC, limit int, now int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	l := o.listLocked(cred)
	n, back := 0, false
	for _, m := range l.told {
		if !back && !mac.IsZero() && m == mac {
			back = true // its old session is dead, whatever accounting says
			continue
		}
		n++
	}
	place := -1
	for i := range l.awaited {
		a := &l.awaited[i]
		switch {
		case a.until <= now:
			*a = awaited{}
			if place < 0 {
				place = i
			}
		case a.mac == mac: // the same device asks again
			place = i
		default:
			n++
		}
	}
	if n >= limit {
		return false
	}
	if place >= 0 {
		l.awaited[place] = awaited{mac, now + startWithin}
	}
	return true
}
