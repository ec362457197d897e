package relay

import (
	"testing"

	"wispgate/edge/store"
)

// OpenStoreQueue opens the embedded queue for the conformance suite: with it what enqueues in a transaction of its own, and what ends it.
func OpenStoreQueue(t *testing.T, dir string) (q Queue, commit func(jobs ...Job) error, shut func()) {
	t.Helper()
	st, err := store.Open(store.Options{Dir: dir, BallastBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	c := newCommitter(st)
	c.start()
	own := newStoreQueue(st, c)
	if err := own.load(); err != nil {
		t.Fatal(err)
	}
	commit = func(jobs ...Job) error {
		w := &writes{}
		if err := own.Enqueue(w, jobs...); err != nil {
			return err
		}
		if err := c.do(t.Context(), w); err != nil {
			return err
		}
		own.enqueued(jobs)
		return nil
	}
	closed := false
	shut = func() {
		if !closed {
			closed = true
			c.stop()
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(shut)
	return own, commit, shut
}
