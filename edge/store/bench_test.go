package store

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"syscall"
	"testing"
)

// written is what the device of s wrote between two calls. syncfs makes the figure exact; other writers on the device count too.
func written(b *testing.B, s *Store) uint64 {
	b.Helper()
	syscall.Sync()
	return s.Stats().DeviceBytes
}

// BenchmarkCommit is one durable record of 1 KB, and the octets that the flash takes for it.
func BenchmarkCommit(b *testing.B) {
	s := open(b, Options{})
	val := bytes.Repeat([]byte{7}, 1024)
	start := written(b, s)
	b.ResetTimer()
	n := 0
	for b.Loop() {
		var batch Batch
		batch.Put(fmt.Appendf(nil, "r/%08d", n%1000), val)
		if err := s.Commit(&batch); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.StopTimer()
	b.ReportMetric(float64(written(b, s)-start)/float64(n), "device-B/op")
	b.ReportMetric(float64(s.Stats().ReadAhead)/1024, "readahead-KB")
}

// BenchmarkLoad is a bulk load: the write amplification of the profile, compaction included.
func BenchmarkLoad(b *testing.B) {
	const records, perBatch = 50_000, 250
	for b.Loop() {
		s := open(b, Options{})
		start := written(b, s)
		load(b, s, records, perBatch)
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(written(b, s)-start)/float64(records*800), "WA")
	}
}

func load(b *testing.B, s *Store, records, perBatch int) {
	b.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	val := make([]byte, 800)
	var batch Batch
	for i, key := range rng.Perm(records) {
		for j := range val {
			val[j] = byte(rng.Uint32())
		}
		batch.Put(fmt.Appendf(nil, "r/%08d", key), val)
		if i%perBatch == perBatch-1 || i == records-1 {
			if err := s.Commit(&batch); err != nil {
				b.Fatal(err)
			}
			batch = Batch{}
		}
	}
}

// BenchmarkDumpAndRestore moves 40 MB.
func BenchmarkDumpAndRestore(b *testing.B) {
	const records = 50_000
	s := open(b, Options{})
	load(b, s, records, 250)
	var stream bytes.Buffer
	b.Run("dump", func(b *testing.B) {
		for b.Loop() {
			sn := s.Snapshot()
			if _, err := sn.Dump(io.Discard, Replicated); err != nil {
				b.Fatal(err)
			}
			sn.Close()
		}
		b.SetBytes(records * 800)
	})
	b.Run("checksum", func(b *testing.B) {
		for b.Loop() {
			sn := s.Snapshot()
			if _, err := sn.Checksum(Replicated); err != nil {
				b.Fatal(err)
			}
			sn.Close()
		}
		b.SetBytes(records * 800)
	})
	sn := s.Snapshot()
	if _, err := sn.Dump(&stream, Replicated); err != nil {
		b.Fatal(err)
	}
	sn.Close()
	b.Run("restore", func(b *testing.B) {
		start := written(b, s)
		n := 0
		for b.Loop() {
			if _, err := s.Restore(bytes.NewReader(stream.Bytes()), nil); err != nil {
				b.Fatal(err)
			}
			n++
		}
		b.SetBytes(records * 800)
		b.ReportMetric(float64(written(b, s)-start)/float64(n)/float64(stream.Len()), "WA")
	})
}

// BenchmarkGet reads one record of 50,000 at random.
func BenchmarkGet(b *testing.B) {
	const records = 50_000
	s := open(b, Options{})
	load(b, s, records, 250)
	sn := s.Snapshot()
	defer sn.Close()
	rng := rand.New(rand.NewPCG(3, 4))
	for b.Loop() {
		if _, err := sn.Get(fmt.Appendf(nil, "r/%08d", rng.IntN(records))); err != nil {
			b.Fatal(err)
		}
	}
}
