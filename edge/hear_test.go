package edge

import "testing"

func TestWhatCameBeforeTheEndIsHeard(t *testing.T) {
	t.Parallel()
	ended, empty := make(chan struct{}), make(chan int)
	close(ended)
	for range 64 { // a coin at a time
		answer := make(chan int, 1)
		answer <- 7
		if got, ok := Hear(answer, ended, ended); !ok || got != 7 {
			t.Fatalf("got %d, %v; want the answer", got, ok)
		}
	}
	for name, ends := range map[string][2]chan struct{}{"gone": {ended, nil}, "done": {nil, ended}} {
		if _, ok := Hear(empty, ends[0], ends[1]); ok {
			t.Errorf("%s: heard what nobody said", name)
		}
	}
}
