package edge

// Hear waits for an answer until one of two ends comes; nil is an end that never comes, and a closed channel answers with the zero value. ok is
// false when there is no answer. One that was there before the end is heard all the same: a select of several that are ready takes any of them,
// and would report as lost what arrived.
func Hear[T any](answer <-chan T, gone, done <-chan struct{}) (a T, ok bool) {
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
