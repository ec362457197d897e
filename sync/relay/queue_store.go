package relay

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"wispgate/edge"
	"wispgate/edge/store"
)

// lookahead bounds how far Lease looks past keys that are blocked by an earlier delivery with the same one.
const lookahead = 1000

// storeQueue is the embedded Queue. Rows and records lie in the store; leases are in memory, so that a crash ends them.
type storeQueue struct {
	st *store.Store
	c  *committer

	mu  sync.Mutex
	eps map[edge.ID]*endpointQueue
}

// endpointQueue is what memory knows of one endpoint's rows.
type endpointQueue struct {
	tenant string
	leased map[uint64]string // event seq to ordering key
	head   uint64            // no ready row lies below: saves walking over what was deleted
	depth  int               // rows
}

func newStoreQueue(st *store.Store, c *committer) *storeQueue {
	return &storeQueue{st: st, c: c, eps: map[edge.ID]*endpointQueue{}}
}

// load counts the rows of every endpoint once, at start.
func (q *storeQueue) load() error {
	sn := q.st.Snapshot()
	defer sn.Close()
	prefix := keyRoot + "q/"
	q.mu.Lock()
	defer q.mu.Unlock()
	err := sn.Scan([]byte(prefix), nil, func(k, _ []byte) (bool, error) {
		tenant, rest, _ := strings.Cut(string(k[len(prefix):]), "/")
		id, _, _ := strings.Cut(rest, "/")
		q.endpointLocked(tenant, edge.ID(id)).depth++
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("count queue: %w", err)
	}
	return nil
}

func (q *storeQueue) endpointLocked(tenant string, id edge.ID) *endpointQueue {
	e := q.eps[id]
	if e == nil {
		e = &endpointQueue{tenant: tenant, leased: map[uint64]string{}}
		q.eps[id] = e
	}
	return e
}

// depth is the number of deliveries that wait or are under way.
func (q *storeQueue) depth(endpoint edge.ID) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.eps[endpoint]; e != nil {
		return e.depth
	}
	return 0
}

// endpoints lists those that have rows or leases, with their tenants.
func (q *storeQueue) endpoints() map[edge.ID]string {
	q.mu.Lock()
	defer q.mu.Unlock()
	ids := make(map[edge.ID]string, len(q.eps))
	for id, e := range q.eps {
		ids[id] = e.tenant
	}
	return ids
}

// deliveryID holds the event's sequence number, by which the delivery is found, and a digest of the endpoint's id.
func deliveryID(endpoint edge.ID, seq uint64) edge.ID {
	var u [16]byte
	h := uint64(14695981039346656037) // FNV-1a: spreads, protects nothing
	for i := range len(endpoint) {
		h = (h ^ uint64(endpoint[i])) * 1099511628211
	}
	binary.BigEndian.PutUint64(u[:8], h)
	binary.BigEndian.PutUint64(u[8:], seq)
	u[6] = 0x80 | u[6]&0x0f
	u[8] = 0x80 | u[8]&0x3f
	return edge.ID("del_" + edge.FormatUUID(u))
}

// seqOfDelivery is the event's sequence number in a delivery's id.
func seqOfDelivery(id edge.ID) (uint64, bool) {
	if !id.Valid() || id.Prefix() != "del" {
		return 0, false
	}
	n, ok := unhex16(strings.ReplaceAll(string(id[len(id)-17:]), "-", ""))
	return n &^ (3 << 62), ok
}

// Enqueue implements Queue. Memory learns of the jobs by enqueued, once they are committed.
func (q *storeQueue) Enqueue(tx Tx, jobs ...Job) error {
	for _, j := range jobs {
		d := newDelivery(j)
		if err := putDelivery(tx, &d); err != nil {
			return err
		}
		tx.Put(readyKey(j.Tenant, j.Endpoint, j.Seq), []byte(j.Key))
	}
	return nil
}

// enqueued tells memory that jobs have been committed.
func (q *storeQueue) enqueued(jobs []Job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, j := range jobs {
		e := q.endpointLocked(j.Tenant, j.Endpoint)
		e.depth++
		e.head = min(e.head, j.Seq)
	}
}

func newDelivery(j Job) Delivery {
	return Delivery{
		ID: deliveryID(j.Endpoint, j.Seq), Endpoint: j.Endpoint, Event: j.Event, Type: j.Type, Status: Pending, EnqueuedAt: j.At.UTC(),
		Tenant: j.Tenant, Seq: j.Seq, Key: j.Key,
	}
}

func putDelivery(tx Tx, d *Delivery) error {
	val, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode delivery %s: %w", d.ID, err)
	}
	tx.Put(deliveryKey(d.Tenant, d.Endpoint, d.Seq), val)
	return nil
}

func getDelivery(sn *store.Snapshot, tenant string, endpoint edge.ID, seq uint64) (d Delivery, ok bool, err error) {
	val, err := sn.Get(deliveryKey(tenant, endpoint, seq))
	if errors.Is(err, store.ErrNotFound) {
		return d, false, nil
	}
	if err != nil {
		return d, false, fmt.Errorf("get delivery: %w", err)
	}
	if err := json.Unmarshal(val, &d); err != nil {
		return d, false, fmt.Errorf("decode delivery: %w", err)
	}
	d.Tenant, d.Seq = tenant, seq
	return d, true, nil
}

// row is one entry of an endpoint's queue.
type row struct {
	name []byte // the store's key
	seq  uint64
	key  string
	due  time.Time // zero in the ready list
}

// Lease implements Queue.
func (q *storeQueue) Lease(tenant string, endpoint edge.ID, order Order, n int, now time.Time) ([]Delivery, time.Time, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	sn := q.st.Snapshot() // under mu: a row that head was lowered for must be in it
	defer sn.Close()
	e := q.endpointLocked(tenant, endpoint)
	p := picker{q: q, sn: sn, e: e, tenant: tenant, endpoint: endpoint, order: order, want: n, now: now}
	if err := p.pick(); err != nil {
		return nil, time.Time{}, err
	}
	leased := make([]Delivery, 0, len(p.rows))
	for _, r := range p.rows {
		d, ok, err := getDelivery(sn, tenant, endpoint, r.seq)
		if err != nil {
			return nil, time.Time{}, err
		}
		if !ok {
			return nil, time.Time{}, fmt.Errorf("queue row %q has no delivery", r.name)
		}
		d.row, d.Key = r.name, r.key
		leased = append(leased, d)
	}
	for _, d := range leased {
		e.leased[d.Seq] = d.Key
	}
	return leased, p.next, nil
}

// picker chooses the rows of one Lease.
type picker struct {
	q        *storeQueue
	sn       *store.Snapshot
	e        *endpointQueue
	tenant   string
	endpoint edge.ID
	order    Order
	want     int
	now      time.Time

	blocked map[string]bool // ordering keys with a delivery before
	rows    []row
	next    time.Time
}

func (p *picker) pick() error {
	if p.order == OrderStrict && len(p.e.leased) > 0 {
		return nil
	}
	p.blocked = make(map[string]bool, len(p.e.leased))
	for _, key := range p.e.leased {
		p.blocked[key] = true
	}
	goOn, err := p.waiting()
	if err != nil || !goOn || len(p.rows) >= p.want {
		return err
	}
	return p.ready()
}

// take adds a row if its turn has come.
func (p *picker) take(r row) {
	if _, leased := p.e.leased[r.seq]; leased {
		return
	}
	if p.order == OrderPerKey && p.blocked[r.key] {
		return
	}
	p.blocked[r.key] = true
	p.rows = append(p.rows, r)
}

// waiting goes through rows that were tried before; goOn says that the ready list may follow.
func (p *picker) waiting() (goOn bool, err error) {
	prefix := waitPrefix(p.tenant, p.endpoint)
	seen := 0
	err = p.sn.Scan([]byte(prefix), nil, func(k, v []byte) (bool, error) {
		due, seq, ok := parseWait(string(k[len(prefix):]))
		if !ok {
			return false, fmt.Errorf("queue row %q is damaged", k)
		}
		seen++
		r := row{name: append([]byte(nil), k...), seq: seq, key: string(v), due: due}
		if due.After(p.now) {
			if _, leased := p.e.leased[seq]; !leased && (p.next.IsZero() || due.Before(p.next)) {
				p.next = due
			}
			p.blocked[r.key] = true // of an ordered endpoint: nobody overtakes
			return p.order == OrderPerKey && seen < lookahead, nil
		}
		p.take(r)
		return p.order != OrderStrict && seen < lookahead && len(p.rows) < p.want, nil
	})
	return !(p.order == OrderStrict && seen > 0) && seen < lookahead, err
}

// ready goes through rows that were never tried, in order of position.
func (p *picker) ready() error {
	prefix := readyPrefix(p.tenant, p.endpoint)
	seen, first := 0, true
	err := p.sn.Scan([]byte(prefix), readyKey(p.tenant, p.endpoint, p.e.head), func(k, v []byte) (bool, error) {
		seq, ok := unhex16(string(k[len(prefix):]))
		if !ok {
			return false, fmt.Errorf("queue row %q is damaged", k)
		}
		if first {
			p.e.head, first = seq, false
		}
		seen++
		p.take(row{name: append([]byte(nil), k...), seq: seq, key: string(v)})
		return p.order != OrderStrict && seen < lookahead && len(p.rows) < p.want, nil
	})
	return err
}

func parseWait(s string) (due time.Time, seq uint64, ok bool) {
	a, b, _ := strings.Cut(s, "/")
	ns, ok1 := unhex16(a)
	seq, ok2 := unhex16(b)
	return time.Unix(0, int64(ns)), seq, ok1 && ok2
}

// Ack implements Queue.
func (q *storeQueue) Ack(ctx context.Context, d Delivery, a Attempt) error {
	d.Status, d.NextAt, d.DoneAt = Delivered, nil, new(a.At.UTC())
	return q.settle(ctx, d, a, nil, true)
}

// Nack implements Queue.
func (q *storeQueue) Nack(ctx context.Context, d Delivery, a Attempt, due time.Time) error {
	d.NextAt = new(due.UTC())
	return q.settle(ctx, d, a, waitKey(d.Tenant, d.Endpoint, due, d.Seq), false)
}

// Dead implements Queue.
func (q *storeQueue) Dead(ctx context.Context, d Delivery, a Attempt) error {
	d.Status, d.NextAt, d.DoneAt = Dead, nil, new(a.At.UTC())
	return q.settle(ctx, d, a, nil, true)
}

// settle records an attempt and puts the row where it belongs now.
func (q *storeQueue) settle(ctx context.Context, d Delivery, a Attempt, to []byte, done bool) error {
	d.Attempts++
	d.Log = append(d.Log, a)
	if n := len(d.Log); n > MaxLog {
		d.Log = d.Log[n-MaxLog:]
	}
	w := &writes{reserved: true}
	w.Delete(d.row)
	if to != nil {
		w.Put(to, []byte(d.Key))
	}
	if d.Status == Dead {
		w.Put(deadKey(d.Tenant, d.Endpoint, d.Seq), []byte(d.Event))
	}
	if err := putDelivery(w, &d); err != nil {
		return err
	}
	if len(a.Answer) > 0 {
		w.Put(answerKey(d.Tenant, d.Endpoint, d.Seq, d.Replays*1000+d.Attempts, a.At),
			append([]byte(a.At.UTC().Format(time.RFC3339Nano)+"\n"), a.Answer...))
	}
	err := q.c.do(ctx, w)
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.endpointLocked(d.Tenant, d.Endpoint)
	delete(e.leased, d.Seq)
	if err == nil && done {
		e.depth--
	}
	return err
}

// remove stages the end of a delivery that is not under way, whatever its state.
func (q *storeQueue) remove(tx Tx, d *Delivery) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.endpointLocked(d.Tenant, d.Endpoint)
	if _, leased := e.leased[d.Seq]; leased && d.row == nil {
		return false
	}
	if d.Status == Pending {
		e.depth--
		if d.NextAt != nil {
			tx.Delete(waitKey(d.Tenant, d.Endpoint, *d.NextAt, d.Seq))
		} else {
			tx.Delete(readyKey(d.Tenant, d.Endpoint, d.Seq))
		}
	}
	tx.Delete(deliveryKey(d.Tenant, d.Endpoint, d.Seq))
	tx.Delete(deadKey(d.Tenant, d.Endpoint, d.Seq))
	return true
}

// expire ends a lease whose event retention has removed.
func (q *storeQueue) expire(ctx context.Context, d Delivery) error {
	w := &writes{reserved: true}
	q.remove(w, &d)
	err := q.c.do(ctx, w)
	q.Release(d)
	return err
}

// Release implements Queue.
func (q *storeQueue) Release(d Delivery) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.endpointLocked(d.Tenant, d.Endpoint).leased, d.Seq)
}

// Replay implements Queue. Jobs must fit one transaction together: a few hundred.
func (q *storeQueue) Replay(ctx context.Context, now time.Time, jobs ...Job) (int, error) {
	var taken []Job
	for _, j := range jobs {
		if q.reserve(j) {
			j.At = now
			taken = append(taken, j)
		}
	}
	defer q.unreserve(taken)
	w := &writes{}
	fresh, err := q.stageReplay(w, taken)
	if err == nil {
		err = q.c.do(ctx, w)
	}
	if err != nil {
		return 0, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, j := range taken {
		e := q.endpointLocked(j.Tenant, j.Endpoint)
		e.head = min(e.head, j.Seq) // Lease must look far enough back to see it
	}
	for _, j := range fresh {
		q.endpointLocked(j.Tenant, j.Endpoint).depth++
	}
	return len(taken), nil
}

// stageReplay stages the jobs, which nobody else touches meanwhile, and returns those that add a row.
func (q *storeQueue) stageReplay(w *writes, jobs []Job) (fresh []Job, err error) {
	sn := q.st.Snapshot()
	defer sn.Close()
	for _, j := range jobs {
		d, ok, err := getDelivery(sn, j.Tenant, j.Endpoint, j.Seq)
		if err != nil {
			return nil, err
		}
		if !ok || d.Status != Pending {
			fresh = append(fresh, j)
		}
		if !ok {
			d = newDelivery(j)
		} else {
			if d.NextAt != nil {
				w.Delete(waitKey(j.Tenant, j.Endpoint, *d.NextAt, j.Seq))
			}
			w.Delete(deadKey(j.Tenant, j.Endpoint, j.Seq))
			d.Status, d.Attempts, d.NextAt, d.DoneAt = Pending, 0, nil, nil
			d.Replays++
		}
		w.Put(readyKey(j.Tenant, j.Endpoint, j.Seq), []byte(j.Key))
		if err := putDelivery(w, &d); err != nil {
			return nil, err
		}
	}
	return fresh, nil
}

// reserve keeps a delivery from being leased while it is replayed; false when it is under way.
func (q *storeQueue) reserve(j Job) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.endpointLocked(j.Tenant, j.Endpoint)
	if _, leased := e.leased[j.Seq]; leased {
		return false
	}
	e.leased[j.Seq] = j.Key
	return true
}

func (q *storeQueue) unreserve(jobs []Job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, j := range jobs {
		delete(q.endpointLocked(j.Tenant, j.Endpoint).leased, j.Seq)
	}
}

// drop removes up to n rows and records of an endpoint that is gone; done says that none is left.
func (q *storeQueue) drop(ctx context.Context, tenant string, endpoint edge.ID, n int) (done bool, err error) {
	sn := q.st.Snapshot()
	w := &writes{reserved: true}
	for _, prefix := range []string{
		queuePrefix(tenant, endpoint), deliveryPrefix(tenant, endpoint), deadPrefix(tenant, endpoint),
		string(healthKey(tenant, endpoint)),
	} {
		err = errors.Join(err, sn.Scan([]byte(prefix), nil, func(k, _ []byte) (bool, error) {
			w.Delete(append([]byte(nil), k...))
			return len(w.ops) < n, nil
		}))
		if len(w.ops) >= n {
			break
		}
	}
	sn.Close()
	if err == nil {
		err = q.c.do(ctx, w)
	}
	if done = err == nil && len(w.ops) < n; done {
		q.mu.Lock()
		delete(q.eps, endpoint)
		q.mu.Unlock()
	}
	return done, err
}

var _ Queue = (*storeQueue)(nil)
