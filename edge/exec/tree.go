package exec

import (
	"math/rand/v2"
	"strings"
)

// tree is an immutable sorted map of effects that are not in the store: a treap whose changes share everything but the paths they took.
// nil is empty. Readers hold a root as long as they like.
type tree struct {
	key         string
	val         []byte
	version     uint64 // that wrote it
	left, right *tree
	maker       *maker
	priority    uint32
	delete      bool
}

// maker is one call of with: nobody else holds a node that it made before it ends, so it may change that one again.
type maker struct{ _ byte }

func (o *tree) get(key string) *tree {
	for o != nil {
		switch c := strings.Compare(key, o.key); {
		case c == 0:
			return o
		case c < 0:
			o = o.left
		default:
			o = o.right
		}
	}
	return nil
}

// with returns the map with ops written at version, in order.
func (o *tree) with(ops []Op, version uint64) *tree {
	m := new(maker)
	for i := range ops {
		o = o.put(&ops[i], version, m)
	}
	return o
}

func (o *tree) put(op *Op, version uint64, m *maker) *tree {
	if o == nil {
		return &tree{key: op.Key, val: op.Val, delete: op.Delete, version: version, priority: rand.Uint32(), maker: m}
	}
	n := o.own(m)
	switch c := strings.Compare(op.Key, n.key); {
	case c == 0:
		n.val, n.delete, n.version = op.Val, op.Delete, version
	case c < 0:
		if n.left = n.left.put(op, version, m); n.left.priority > n.priority {
			up := n.left
			n.left, up.right = up.right, n
			return up
		}
	default:
		if n.right = n.right.put(op, version, m); n.right.priority > n.priority {
			up := n.right
			n.right, up.left = up.left, n
			return up
		}
	}
	return n
}

// own returns the node, or a copy of one that others may hold.
func (o *tree) own(m *maker) *tree {
	if o.maker == m {
		return o
	}
	n := *o
	n.maker = m
	return &n
}

// after returns the map with only what was written after version.
func (o *tree) after(version uint64) *tree {
	if o == nil {
		return nil
	}
	left, right := o.left.after(version), o.right.after(version)
	if o.version <= version {
		return join(left, right)
	}
	if left == o.left && right == o.right {
		return o
	}
	n := *o
	n.left, n.right = left, right
	return &n
}

// join makes one map of two, where all keys of the first are below those of the second.
func join(a, b *tree) *tree {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.priority > b.priority:
		n := *a
		n.right = join(a.right, b)
		return &n
	default:
		n := *b
		n.left = join(a, b.left)
		return &n
	}
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
