package exec

import (
	"fmt"
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// Whatever happens to a map afterwards, each of its earlier states stays what it was.
func TestATreeIsAMapWhoseStatesStay(t *testing.T) {
	type cell struct {
		val     string
		delete  bool
		version uint64
	}
	read := func(t *rapid.T, o *tree) map[string]cell {
		got, last := map[string]cell{}, ""
		for it := o.seek(""); it.node != nil; it.next() {
			n := it.node
			if n.key <= last {
				t.Fatalf("%q comes after %q", n.key, last)
			}
			if o.get(n.key) != n {
				t.Fatalf("%q is not found", n.key)
			}
			got[n.key], last = cell{string(n.val), n.delete, n.version}, n.key
		}
		return got
	}
	rapid.Check(t, func(t *rapid.T) {
		var roots []*tree
		var models []map[string]cell
		var root *tree
		model := map[string]cell{}
		for version := uint64(1); version <= 20; version++ {
			model = maps.Clone(model)
			if rapid.IntRange(0, 3).Draw(t, "step") == 0 {
				upto := rapid.Uint64Range(0, version).Draw(t, "after")
				root = root.after(upto)
				maps.DeleteFunc(model, func(_ string, c cell) bool { return c.version <= upto })
			} else {
				var ops []Op
				for _, k := range rapid.SliceOfN(rapid.IntRange(1, 60), 0, 12).Draw(t, "keys") {
					op := Op{Key: fmt.Sprintf("k%02d", k), Delete: rapid.Bool().Draw(t, "delete")}
					if !op.Delete {
						op.Val = fmt.Append(nil, version, "-", len(ops))
					}
					ops = append(ops, op)
					model[op.Key] = cell{string(op.Val), op.Delete, version}
				}
				root = root.with(ops, version)
			}
			roots, models = append(roots, root), append(models, model)
		}
		for i := range roots {
			if got := read(t, roots[i]); !maps.Equal(got, models[i]) {
				t.Fatalf("state %d: got %v, want %v", i, got, models[i])
			}
		}
	})
}

// BenchmarkTree writes entries of 64 writes with eight effects each into a map of as many as a flush takes.
func BenchmarkTree(b *testing.B) {
	b.ReportAllocs()
	var root *tree
	var version uint64
	ops := make([]Op, 512)
	for i := range ops {
		ops[i].Key = fmt.Sprintf("r/tenant/collection/%04d/field", i*7919%9973)
	}
	for b.Loop() {
		version++
		if root = root.with(ops, version); version%4 == 0 {
			root = root.after(version - 1)
		}
	}
}
