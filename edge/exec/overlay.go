package exec

import "math/rand/v2"

// overlay is an immutable sorted map of the effects that are applied but not yet in the store: a treap whose inserts share everything
// but one path. nil is empty. Readers hold a root as long as they like.
type overlay struct {
	key         string
	val         []byte
	delete      bool
	version     uint64 // that wrote it
	priority    uint32
	left, right *overlay
}

func (o *overlay) get(key string) *overlay {
	for o != nil && o.key != key {
		if key < o.key {
			o = o.left
		} else {
			o = o.right
		}
	}
	return o
}

// with returns the map with op written at version.
func (o *overlay) with(op Op, version uint64) *overlay {
	if o == nil {
		return &overlay{key: op.Key, val: op.Val, delete: op.Delete, version: version, priority: rand.Uint32()}
	}
	n := *o
	switch {
	case op.Key < o.key:
		n.left = o.left.with(op, version)
		if n.left.priority > n.priority {
			return n.rotateRight()
		}
	case op.Key > o.key:
		n.right = o.right.with(op, version)
		if n.right.priority > n.priority {
			return n.rotateLeft()
		}
	default:
		n.val, n.delete, n.version = op.Val, op.Delete, version
	}
	return &n
}

// rotateRight and rotateLeft change nodes that with has just made.
func (o *overlay) rotateRight() *overlay {
	up := o.left
	n := *o
	n.left, up.right = up.right, &n
	return up
}

func (o *overlay) rotateLeft() *overlay {
	up := o.right
	n := *o
	n.right, up.left = up.left, &n
	return up
}

// after returns the map with only what was written after version.
func (o *overlay) after(version uint64) *overlay {
	var kept *overlay
	for it := o.seek(""); it.node != nil; it.next() {
		if n := it.node; n.version > version {
			kept = kept.with(Op{n.key, n.val, n.delete}, n.version)
		}
	}
	return kept
}

// cursor walks an overlay in key order. node is nil at the end.
type cursor struct {
	node  *overlay
	stack []*overlay
}

// seek stands on the first key not below from.
func (o *overlay) seek(from string) cursor {
	var c cursor
	for o != nil {
		if o.key >= from {
			c.stack = append(c.stack, o)
			o = o.left
		} else {
			o = o.right
		}
	}
	c.next()
	return c
}

func (c *cursor) next() {
	if len(c.stack) == 0 {
		c.node = nil
		return
	}
	c.node = c.stack[len(c.stack)-1]
	c.stack = c.stack[:len(c.stack)-1]
	for o := c.node.right; o != nil; o = o.left {
		c.stack = append(c.stack, o)
	}
}
