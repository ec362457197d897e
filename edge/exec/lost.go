package exec

import "slices"

// lostBetween is how many places of the queue from first to last are known to be damaged. Their writes are lost: the cluster's mark passes over them with
// the next one that it settles.
func (x *Exec) lostBetween(first, last uint64) (n uint64) {
	if x.cfg.Queue == nil {
		return 0
	}
	for _, l := range x.cfg.Queue.Losses() {
		if from, to := max(l.First, first), min(l.Last, last); from <= to {
			n += to - from + 1
		}
	}
	return n
}

// intactUpTo is the last place of the queue up to one that is not known to be damaged.
func (x *Exec) intactUpTo(last uint64) uint64 {
	for _, l := range slices.Backward(x.cfg.Queue.Losses()) {
		if l.First <= last && last <= l.Last {
			last = l.First - 1
		}
	}
	return last
}
