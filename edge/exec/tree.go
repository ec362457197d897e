package exec

import "math/rand/v2"

// tree is an immutable sorted map of effects that are not in the store: a treap whose inserts share everything but one path. nil is
// empty. Readers hold a root as long as they like.
type tree struct {
	key         string
	val         []byte
	delete      bool
	version     uint64 // that wrote it
	priority    uint32
	left, right *tree
}

func (o *tree) get(key string) *tree {
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
func (o *tree) with(op Op, version uint64) *tree {
	if o == nil {
		return &tree{key: op.Key, val: op.Val, delete: op.Delete, version: version, priority: rand.Uint32()}
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
func (o *tree) rotateRight() *tree {
	up := o.left
	n := *o
	n.left, up.right = up.right, &n
	return up
}

func (o *tree) rotateLeft() *tree {
	up := o.right
	n := *o
	n.right, up.left = up.left, &n
	return up
}

// after returns the map with only what was written after version.
func (o *tree) after(version uint64) *tree {
	var kept *tree
	for it := o.seek(""); it.node != nil; it.next() {
		if n := it.node; n.version > version {
			kept = kept.with(Op{n.key, n.val, n.delete}, n.version)
		}
	}
	return kept
}

// cursor walks a tree in key order. node is nil at the end.
type cursor struct {
	node  *tree
	stack []*tree
}

// seek stands on the first key not below from.
func (o *tree) seek(from string) cursor {
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

// peek implements writes.
func (c *cursor) peek() (key string, val []byte, ok bool) {
	switch {
	case c.node == nil:
		return "", nil, false
	case c.node.delete:
		return c.node.key, nil, true
	case c.node.val == nil:
		return c.node.key, []byte{}, true
	}
	return c.node.key, c.node.val, true
}

// next implements writes.
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
