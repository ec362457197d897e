package radiusd

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is how many datagrams one system call takes in or sends out, at most.
const batchSize = 32

// batch moves datagrams with recvmmsg and sendmmsg, in memory allocated once. Under load one system call serves many
// requests; alone, a request costs no more than with recvmsg. One worker owns it.
//
// The calls never block, so they go to the kernel without telling the scheduler (RawSyscall): otherwise the runtime's
// monitor takes a batch of 20 µs and more for a blocked call and hands the processor to another thread and back, which
// costs more than the batch. The price is that a stop of the world may wait for one batch, about 0.1 ms.
type batch struct {
	in    [batchSize]mmsghdr
	peers [batchSize]unix.RawSockaddrInet6 // large enough for IPv4, too
	inVec [batchSize]unix.Iovec
	data  [batchSize][]byte
	ctl   [batchSize][controlRoom]byte

	out    [batchSize]mmsghdr
	to     [batchSize]unix.RawSockaddrInet6
	outVec [batchSize]unix.Iovec
	outCtl [batchSize][controlRoom]byte
	arena  []byte // replies of the batch, one after the other
	queued int
	lost   uint64 // replies the kernel refused
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

func newBatch(size int) *batch {
	b := &batch{arena: make([]byte, 0, 16*size)}
	slab := make([]byte, batchSize*size)
	for i := range b.in {
		b.data[i] = slab[i*size : (i+1)*size]
		b.inVec[i].Base = &b.data[i][0]
		b.inVec[i].SetLen(size)
		in := &b.in[i].hdr
		in.Name = (*byte)(unsafe.Pointer(&b.peers[i]))
		in.Iov = &b.inVec[i]
		in.SetIovlen(1)
		in.Control = &b.ctl[i][0]
		out := &b.out[i].hdr
		out.Name = (*byte)(unsafe.Pointer(&b.to[i]))
		out.Iov = &b.outVec[i]
		out.SetIovlen(1)
		out.Control = &b.outCtl[i][0]
	}
	return b
}

// receive takes what has arrived, without waiting. A count below batchSize means that the socket was empty afterwards.
func (b *batch) receive(fd uintptr) (int, unix.Errno) {
	for i := range b.in {
		b.in[i].hdr.Namelen = unix.SizeofSockaddrInet6
		b.in[i].hdr.SetControllen(controlRoom)
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.in[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// datagram returns what receive put into place i: octets and control messages.
func (b *batch) datagram(i int) (data, oob []byte) {
	return b.data[i][:min(int(b.in[i].n), len(b.data[i]))], b.ctl[i][:min(int(b.in[i].hdr.Controllen), controlRoom)]
}

// peer returns where datagram i came from.
func (b *batch) peer(i int) netip.AddrPort {
	sa := &b.peers[i]
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:])
	if sa.Family == unix.AF_INET {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), port)
	}
	a := netip.AddrFrom16(sa.Addr)
	if sa.Scope_id != 0 {
		a = a.WithZone(strconv.Itoa(int(sa.Scope_id)))
	}
	return netip.AddrPortFrom(a, port)
}

// full says that flush must come before a reply is queued.
func (b *batch) full(reply []byte) bool {
	return b.queued == batchSize || len(b.arena)+len(reply) > cap(b.arena)
}

// queue keeps a reply to datagram i until flush.
func (b *batch) queue(i int, reply, oob []byte) {
	start := len(b.arena)
	b.arena = append(b.arena, reply...)
	o := &b.out[b.queued].hdr
	b.to[b.queued], o.Namelen = b.peers[i], b.in[i].hdr.Namelen
	b.outVec[b.queued].Base = &b.arena[start]
	b.outVec[b.queued].SetLen(len(reply))
	o.SetControllen(copy(b.outCtl[b.queued][:], oob))
	b.queued++
}

// flush sends what is queued. A reply the kernel refuses is as a lost datagram: the router asks again, and the cache
// answers; the others are sent all the same.
func (b *batch) flush(fd uintptr) {
	for sent := 0; sent < b.queued; {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.out[sent])), uintptr(b.queued-sent), 0, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			b.lost++
			sent++
		default:
			sent += int(n)
		}
	}
	b.queued, b.arena = 0, b.arena[:0]
}
