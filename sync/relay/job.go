package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"wispgate/edge"
	"wispgate/edge/store"
	"wispgate/sync/wire"
)

// JobKind says what a job does.
type JobKind string

// The kinds of job.
const (
	JobReplay JobKind = "replay" // deliver stored events again
	JobTest   JobKind = "test"   // deliver one made-up event
)

// Values lists the kinds for the schema.
func (JobKind) Values() []string { return []string{string(JobReplay), string(JobTest)} }

// JobStatus says where a job stands.
type JobStatus string

// The states of a job.
const (
	JobPending JobStatus = "pending"
	JobDone    JobStatus = "done"
	JobFailed  JobStatus = "failed"
)

// Values lists the states for the schema.
func (JobStatus) Values() []string {
	return []string{string(JobPending), string(JobDone), string(JobFailed)}
}

// ReplayJob is work on a tenant's deliveries that somebody asked for and a worker does.
type ReplayJob struct {
	edge.Meta
	Kind     JobKind    `json:"kind"`
	Filter   Filter     `json:"filter"`
	Expected int        `json:"expected" doc:"Deliveries that matched when it was asked for."`
	Status   JobStatus  `json:"status"`
	Cursor   uint64     `json:"cursor,omitempty" doc:"How far the worker is, so that it goes on there after a restart."`
	Count    int        `json:"count" doc:"Deliveries made due so far."`
	Problem  string     `json:"problem,omitempty" check:"max=64" doc:"Reason code when it failed."`
	DoneAt   *time.Time `json:"done_at,omitempty"`
}

// Filter chooses deliveries; what is absent does not restrict. Times are when the relay stored the event.
type Filter struct {
	Endpoint   edge.ID        `json:"endpoint_id,omitempty" check:"prefix=whe" doc:"Only at this endpoint; absent: at every endpoint that wants the event."`
	Event      edge.ID        `json:"event_id,omitempty" doc:"Only this event."`
	Deliveries []edge.ID      `json:"delivery_ids,omitempty" check:"max=200 item.prefix=del" doc:"Only these deliveries."`
	Types      []string       `json:"event_types,omitempty" check:"max=16 item.max=128" doc:"Event names, prefixes ending in .*, or *."`
	Since      *time.Time     `json:"since,omitempty" doc:"Stored at this time or later."`
	Until      *time.Time     `json:"until,omitempty" doc:"Stored before this time."`
	Status     DeliveryStatus `json:"status,omitempty" doc:"Only deliveries in this state, such as dead."`
}

var jobs = &edge.Table[ReplayJob]{
	Name: "relay.job", Prefix: "whj", Meta: func(j *ReplayJob) *edge.Meta { return &j.Meta },
	Indexes: []edge.Index[ReplayJob]{{Name: "status", Keys: func(j *ReplayJob) []string { return []string{string(j.Status)} }}},
}

// Events of jobs.
type (
	// JobRequested says that somebody asked for a replay or a test.
	JobRequested struct {
		ID   edge.ID `json:"id"`
		Kind JobKind `json:"kind"`
	}
	// JobFinished says that a job is done or has failed.
	JobFinished struct {
		ID     edge.ID   `json:"id"`
		Status JobStatus `json:"status"`
		Count  int       `json:"count"`
	}
)

// EventName implements edge.Event.
func (JobRequested) EventName() string { return "relay.job.requested" }
func (JobFinished) EventName() string  { return "relay.job.finished" }

// Subject implements edge.Event.
func (e JobRequested) Subject() edge.ID { return e.ID }
func (e JobFinished) Subject() edge.ID  { return e.ID }

var (
	reasonFilter = edge.Reason{Code: "replay_unbounded", Says: "A replay must say what to deliver again", Fix: "Give event_id, delivery_ids, since, status or event_types"}
	reasonGone   = edge.Reason{Code: "endpoint_gone", Says: "The endpoint was deleted before the job ran", Fix: "Create the endpoint again and ask once more"}
)

func (f *Filter) check() error {
	for i, t := range f.Types {
		if !filterForm.MatchString(t) {
			return reasonEvents.Error(edge.Invalid, edge.Field(fmt.Sprintf("/event_types/%d", i), "is not a filter", reasonEvents.Fix))
		}
	}
	if f.Event == "" && len(f.Deliveries) == 0 && f.Since == nil && f.Status == "" && len(f.Types) == 0 {
		return reasonFilter.Error(edge.Invalid, edge.Field("/since", "is missing, and so is every other choice", reasonFilter.Fix))
	}
	return nil
}

// ReplayInput asks for deliveries to be made again.
type ReplayInput struct {
	Filter
	Expected int `json:"expected,omitempty" check:"internal"`
}

// replay makes the command. Its dry run is the plan: the answer's expected says how many deliveries would be made again.
func (r *Relay) replay() edge.Command[ReplayInput, ReplayJob] {
	return edge.Command[ReplayInput, ReplayJob]{
		Name: "relay.delivery.replay", Scope: "relay:write", Class: edge.Write,
		Summary: "Deliver stored events again, with the same ids; with dry_run, count them",
		Prepare: func(p edge.Prep, in *ReplayInput) error {
			if err := in.check(); err != nil || r == nil {
				return err
			}
			n, err := r.countReplay(p.Actor().Tenant, &in.Filter)
			in.Expected = n
			return err
		},
		Handle: func(tx edge.Tx, in ReplayInput) (ReplayJob, error) {
			if err := in.check(); err != nil {
				return ReplayJob{}, err
			}
			if in.Endpoint != "" {
				if _, err := endpoints.Get(tx, in.Endpoint); err != nil {
					return ReplayJob{}, err
				}
			}
			return requestJob(tx, ReplayJob{Kind: JobReplay, Filter: in.Filter, Expected: in.Expected})
		},
	}
}

func requestJob(tx edge.Tx, j ReplayJob) (ReplayJob, error) {
	j.ID, j.Status = tx.NewID(jobs.Prefix), JobPending
	if err := jobs.Put(tx, &j); err != nil {
		return ReplayJob{}, err
	}
	tx.Emit(JobRequested{ID: j.ID, Kind: j.Kind})
	return j, nil
}

// JobProgress is what the worker reports.
type JobProgress struct {
	ID      edge.ID   `json:"id" check:"prefix=whj"`
	Cursor  uint64    `json:"cursor"`
	Count   int       `json:"count" check:"min=0"`
	Status  JobStatus `json:"status"`
	Problem string    `json:"problem,omitempty" check:"max=64"`
}

// reportJob notes how far a job is. It has no route: only the worker uses it.
var reportJob = edge.Command[JobProgress, ReplayJob]{
	Name: "relay.job.report", Scope: "relay:write", Class: edge.Write, Summary: "Note how far a job is (the relay's worker does)",
	Handle: func(tx edge.Tx, in JobProgress) (ReplayJob, error) {
		j, err := jobs.Get(tx, in.ID)
		if err != nil || j.Status != JobPending {
			return j, err
		}
		j.Cursor, j.Count, j.Status, j.Problem = in.Cursor, in.Count, in.Status, in.Problem
		if j.Status != JobPending {
			j.DoneAt = new(tx.Now())
			tx.Emit(JobFinished{ID: j.ID, Status: j.Status, Count: j.Count})
		}
		return j, jobs.Put(tx, &j)
	},
}

// TestInput asks for a made-up event.
type TestInput struct {
	ID edge.ID `json:"id" check:"prefix=whe"`
}

var testEndpoint = edge.Command[TestInput, ReplayJob]{
	Name: "relay.endpoint.test", Scope: "relay:write", Class: edge.Write, Summary: "Deliver a made-up event to an endpoint",
	Handle: func(tx edge.Tx, in TestInput) (ReplayJob, error) {
		if _, err := endpoints.Get(tx, in.ID); err != nil {
			return ReplayJob{}, err
		}
		return requestJob(tx, ReplayJob{Kind: JobTest, Filter: Filter{Endpoint: in.ID}, Expected: 1})
	},
}

// testEvent is the name of the made-up event.
const testEvent = "relay.endpoint.tested"

// runJobs is the worker: it runs every unfinished job, and waits for more.
func (r *Relay) runJobs(ctx context.Context, x edge.Executor) error {
	for {
		for id, tenant := range r.reg.unfinished() {
			if err := r.runJob(ctx, x, tenant, id); err != nil && ctx.Err() == nil { // what the end of the program cuts off goes on at the next start
				return fmt.Errorf("job %s: %w", id, err)
			}
		}
		select {
		case <-r.jobPoke:
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *Relay) runJob(ctx context.Context, x edge.Executor, tenant string, id edge.ID) error {
	actor := edge.SystemActor(tenant, "relay")
	in, err := json.Marshal(IDInput{ID: id})
	if err != nil {
		return err
	}
	out, version, err := x.Ask(ctx, actor, getJob.Name, in, 0)
	if err != nil {
		return err
	}
	j, ok := out.(ReplayJob)
	if !ok {
		return fmt.Errorf("query answered a %T", out)
	}
	for j.Status == JobPending {
		step := JobProgress{ID: id, Cursor: j.Cursor, Count: j.Count, Status: JobDone}
		if j.Filter.Endpoint != "" && r.reg.get(tenant, j.Filter.Endpoint) == nil {
			step.Status, step.Problem = JobFailed, reasonGone.Code
		} else if j.Kind == JobTest {
			err = r.deliverTest(ctx, tenant, &j)
			step.Count = 1
		} else {
			err = r.replayStep(ctx, tenant, &j, &step)
		}
		if err != nil {
			return err
		}
		key := fmt.Sprintf("relay-job:%s:%d:%d", id, j.Version, version)
		if _, err := edge.Do(ctx, x, actor, key, reportJob.Name, step); err != nil {
			return err
		}
		j.Cursor, j.Count, j.Status = step.Cursor, step.Count, step.Status
		j.Version++
	}
	return nil
}

// deliverTest stores a made-up event for one endpoint. Its id derives from the job's, so running twice delivers once.
func (r *Relay) deliverTest(ctx context.Context, tenant string, j *ReplayJob) error {
	raw, err := json.Marshal(map[string]edge.ID{"id": j.Filter.Endpoint})
	if err != nil {
		return err
	}
	it, err := wire.NewItem(r.cfg.ID, edge.EventRow{
		ID: j.ID.With("evt"), Type: testEvent, Tenant: tenant, Subject: j.Filter.Endpoint, Time: j.CreatedAt, Actor: j.CreatedBy,
		Operation: string(j.ID), Changed: raw,
	}, "")
	if err != nil {
		return err
	}
	return r.storeOwn(ctx, tenant, it, j.Filter.Endpoint)
}

const (
	replayChunk = 200  // deliveries per transaction
	replayScan  = 5000 // events looked at per step
)

// replayStep makes the next deliveries due and notes how far it is.
func (r *Relay) replayStep(ctx context.Context, tenant string, j *ReplayJob, step *JobProgress) error {
	work, next, err := r.selectJobs(tenant, &j.Filter, j.Cursor, replayChunk, replayScan)
	if err != nil {
		return err
	}
	n, err := r.queue.Replay(ctx, r.now(), work...)
	if err != nil {
		return err
	}
	for _, w := range work {
		r.dlv.wake(w.Tenant, w.Endpoint)
	}
	step.Count += n
	step.Cursor = next
	if next > 0 {
		step.Status = JobPending
	}
	return nil
}

func (r *Relay) countReplay(tenant string, f *Filter) (n int, err error) {
	for next := uint64(0); ; {
		var work []Job
		work, next, err = r.selectJobs(tenant, f, next, replayScan, replayScan)
		n += len(work)
		if err != nil || next == 0 {
			return n, err
		}
	}
}

// selectJobs lists deliveries that a filter chooses, of events from cursor on, and where to go on; 0 at the end.
func (r *Relay) selectJobs(tenant string, f *Filter, cursor uint64, most, scan int) (work []Job, next uint64, err error) {
	sn := r.cfg.Store.Snapshot()
	defer sn.Close()
	s := selector{r: r, sn: sn, tenant: tenant, f: f}
	if len(f.Deliveries) > 0 || f.Event != "" {
		err := s.named()
		return s.work, 0, err
	}
	if f.Since != nil && cursor == 0 {
		if cursor, err = seqAt(sn, tenant, *f.Since, r.lastSeq.Load()); err != nil {
			return nil, 0, err
		}
	}
	seen := 0
	err = scanEvents(sn, tenant, cursor, func(e stored) (bool, error) {
		if seen == scan || len(s.work) >= most {
			next = e.Seq
			return false, nil
		}
		seen++
		if f.Until != nil && !e.Meta.At.Before(*f.Until) {
			return false, nil
		}
		return true, s.add(e, "")
	})
	return s.work, next, err
}

type selector struct {
	r      *Relay
	sn     *store.Snapshot
	tenant string
	f      *Filter
	work   []Job
}

// named adds deliveries that were named by their ids or their event's.
func (s *selector) named() error {
	if s.f.Event != "" {
		seq, ok, err := seqOf(s.sn, s.tenant, s.f.Event)
		if err != nil || !ok {
			return err
		}
		return s.at(seq, "")
	}
	for _, id := range s.f.Deliveries {
		if seq, ok := seqOfDelivery(id); ok {
			if err := s.at(seq, id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *selector) at(seq uint64, only edge.ID) error {
	e, ok, err := getEvent(s.sn, s.tenant, seq)
	if err != nil || !ok {
		return err
	}
	return s.add(e, only)
}

// add adds an event's deliveries that the filter chooses; only restricts them to one id.
func (s *selector) add(e stored, only edge.ID) error {
	it, err := e.item()
	if err != nil {
		return fmt.Errorf("stored event %d: %w", e.Seq, err)
	}
	name := wire.EventName(it.Type)
	if len(s.f.Types) > 0 && !matches(s.f.Types, name) {
		return nil
	}
	ids := []edge.ID{s.f.Endpoint}
	if s.f.Endpoint == "" {
		ids = s.r.reg.of(s.tenant)
	}
	for _, id := range ids {
		d, had, err := getDelivery(s.sn, s.tenant, id, e.Seq)
		if err != nil {
			return err
		}
		t := s.r.reg.get(s.tenant, id)
		switch {
		case only != "" && deliveryID(id, e.Seq) != only:
		case t == nil || !had && (!t.wants(name) || only != "" || e.Meta.Incarnation == ""):
		case s.f.Status != "" && (!had || d.Status != s.f.Status):
		default:
			s.work = append(s.work, Job{
				Tenant: s.tenant, Endpoint: id, Seq: e.Seq, Event: edge.ID(it.ID), Type: name, Key: it.Subject,
			})
		}
	}
	return nil
}
