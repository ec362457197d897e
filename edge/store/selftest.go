package store

import (
	"bytes"
	"strconv"

	"github.com/dgraph-io/ristretto/v2/z"

	"wispgate/edge"
)

// selfTest proves that the allocator with which Badger builds its tables does not overwrite its own blocks. On 32-bit targets the
// unpatched ristretto does (it shifts an int by 32 bits) and loses most keys at the first flush, without an error. 64-bit builds
// cannot have the fault. It takes microseconds and nothing turns it off.
func selfTest() error {
	if strconv.IntSize > 32 || allocatorSound() {
		return nil
	}
	return &edge.Error{
		Kind: edge.Internal, Code: "allocator_faulty",
		Message: "This 32-bit program was built with an allocator that corrupts stored data, and refuses to open the store",
		Fix:     "Build 32-bit targets with scripts/gomended in place of go; released packages are built that way",
	}
}

func allocatorSound() bool {
	const block, more = 1000, 200
	a := z.NewAllocator(1024, "self-test")
	defer a.Release()
	first := a.Allocate(block)
	fill(first, 0xA5)
	for range more {
		fill(a.Allocate(block), 0x5A)
	}
	return bytes.Count(first, []byte{0xA5}) == block
}

func fill(b []byte, v byte) {
	for i := range b {
		b[i] = v
	}
}
