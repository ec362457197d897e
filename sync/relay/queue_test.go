package relay

import (
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/store"
)

const (
	queueTenant = "acme"
	queueEnd    = edge.ID("whe_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33")
)

func TestRefusedWritesDoNotTakeTheirNeighboursAlong(t *testing.T) {
	t.Parallel()
	free := uint64(1 << 40)
	st, err := store.Open(store.Options{
		Dir: t.TempDir(), BallastBytes: -1, PollEvery: time.Hour,
		FreeSpace: func(string) (uint64, uint64, error) { return free, 1 << 40, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	c := newCommitter(st)
	big, small, kept := &writes{}, &writes{}, &writes{reserved: true}
	big.Put([]byte(keyRoot+"big"), make([]byte, store.MaxBatchBytes+1))
	small.Put([]byte(keyRoot+"small"), []byte("x"))
	kept.Put([]byte(keyRoot+"kept"), []byte("x"))
	for _, w := range []*writes{big, small, kept} {
		w.done = make(chan error, 1)
	}
	c.commit([]*writes{big, small, kept})
	if err := <-big.done; err == nil {
		t.Error("a transaction larger than the store takes was accepted")
	}
	if err := <-small.done; err != nil {
		t.Errorf("its neighbour was refused: %v", err)
	}
	<-kept.done
	free = 700 << 20 // below the low watermark, above the critical one
	c.commit([]*writes{small, kept})
	if err := <-small.done; !isDiskLow(err) {
		t.Errorf("on a full disk an event was stored: %v", err)
	}
	if err := <-kept.done; err != nil {
		t.Errorf("on a full disk an outcome was refused: %v", err)
	}
}
