package cluster

// hear waits for an answer until one of two ends comes. An answer that was there before the end is heard all the same: a select of several
// that are ready takes any of them, and would report as lost what arrived.
func hear[T any](answer <-chan T, gone, done <-chan struct{}) (a T, ok bool) {
	select {
	case a = <-answer:
		return a, true
	case <-gone:
	case <-done:
	}
	select {
	case a = <-answer:
		return a, true
	default:
		return a, false
	}
}
