package exec

import "strings"

// visitor is handed keys in order; it says whether to go on.
type visitor = func(key string, val []byte) (more bool, err error)

// writes walks writes in key order. peek is where it stands, ok false at the end; a nil value is a removal.
type writes interface {
	peek() (key string, val []byte, ok bool)
	next()
}

// merge visits, in key order and under prefix, what upper writes over what lower holds. lower hands all of its keys to the visitor it is
// given until that says no more.
func merge(upper writes, prefix string, lower func(visitor) error, visit visitor) error {
	ended := false
	// before visits what upper has before key, or all that is left.
	before := func(key string, all bool) error {
		for !ended {
			k, val, ok := upper.peek()
			if !ok || !strings.HasPrefix(k, prefix) || !all && k >= key {
				return nil
			}
			upper.next()
			if val == nil {
				continue
			}
			more, err := visit(k, val)
			if ended = err != nil || !more; err != nil {
				return err
			}
		}
		return nil
	}
	err := lower(func(key string, val []byte) (bool, error) {
		if err := before(key, false); err != nil || ended {
			return false, err
		}
		if k, over, ok := upper.peek(); ok && k == key {
			upper.next()
			if over == nil {
				return true, nil
			}
			val = over
		}
		more, err := visit(key, val)
		ended = err != nil || !more
		return more, err
	})
	if err != nil || ended {
		return err
	}
	return before("", true)
}
