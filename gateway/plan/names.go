package plan

import "hash/maphash"

// nameSet finds names that come twice in one object. Names are compared by a seeded 64-bit hash: the chance of refusing two different
// names is about n²/2^65, and a client cannot steer it. Up to 16 names are compared one by one, above that through a table, so that
// no document is quadratic. The objects around the one being read keep theirs below base.
type nameSet struct {
	hashes []uint64
	table  map[uint64]struct{}
}

var seed = maphash.MakeSeed()

const fewNames = 16

func (s *nameSet) begin() int { return len(s.hashes) }

// add takes a name into the object that began at base and reports whether it was there.
func (s *nameSet) add(base int, name []byte) (twice bool) {
	h := maphash.Bytes(seed, name) + uint64(base)*0x9e3779b97f4a7c15
	here := s.hashes[base:]
	switch {
	case len(here) < fewNames:
		for _, o := range here {
			twice = twice || o == h
		}
	default:
		if s.table == nil {
			s.table = make(map[uint64]struct{}, 4*fewNames)
		}
		if len(here) == fewNames {
			for _, o := range here {
				s.table[o] = struct{}{}
			}
		}
		_, twice = s.table[h]
		s.table[h] = struct{}{}
	}
	s.hashes = append(s.hashes, h)
	return twice
}

// end forgets the object that began at base.
func (s *nameSet) end(base int) {
	if here := s.hashes[base:]; len(here) > fewNames {
		for _, h := range here {
			delete(s.table, h)
		}
	}
	s.hashes = s.hashes[:base]
}
