package radiusd

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"unsafe"

	"wispgate/aaa/packet"

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

	replies [batchSize]queued
	n       int    // replies queued
	arena   []byte // their octets, one after the other
	out     [batchSize]mmsghdr
	outVec  [batchSize]unix.Iovec
	segment []byte // control message UDP_SEGMENT
	plain   bool   // this kernel or device does not segment
	lost    uint64 // replies the kernel refused, until somebody counts them
}

// queued is a reply that waits for flush.
type queued struct {
	to      address
	off     int
	size    int
	control int // octets of ctl in use
	ctl     [controlRoom]byte
	message int // in which message it is; -1 once sent or given up
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// newBatch makes room for datagrams of the largest packet. segments says that the kernel knows UDP_SEGMENT.
func newBatch(segments bool) *batch {
	const size = packet.MaxLen
	b := &batch{arena: make([]byte, 0, 16*size), plain: !segments}
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
	}
	b.segment = make([]byte, unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b.segment[0]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
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
	return b.n == batchSize || len(b.arena)+len(reply) > cap(b.arena)
}

// address is a peer in the kernel's form.
type address struct {
	raw  unix.RawSockaddrInet6
	size uint32
}

// from returns where datagram i came from, in the kernel's form.
func (b *batch) from(i int) address { return address{b.peers[i], b.in[i].hdr.Namelen} }

// queue keeps a reply until flush.
func (b *batch) queue(to *address, reply, oob []byte) {
	q := &b.replies[b.n]
	b.n++
	q.to = *to
	q.off, q.size = len(b.arena), len(reply)
	q.control = copy(q.ctl[:], oob)
	q.message = 0
	b.arena = append(b.arena, reply...)
}

// flush sends what is queued. A reply the kernel refuses is as a lost datagram: the router asks again, and the cache
// answers; the others are sent all the same.
func (b *batch) flush(fd uintptr) {
	for messages := b.plan(); messages > 0; messages = b.plan() {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.out[0])), uintptr(messages), 0, 0, 0)
		switch {
		case errno == unix.EINTR:
			b.settle(0)
		case errno != 0 && b.out[0].hdr.Iovlen > 1:
			b.plain = true // segmentation is not to be had here: plan again without
			b.settle(0)
		case errno != 0:
			b.lost++
			b.settle(1)
		default:
			b.settle(int(n))
		}
	}
	b.n, b.arena = 0, b.arena[:0]
}

// maxSegment is the largest reply that segmentation may carry: with headers it must fit any path.
const maxSegment = 1200

// plan lays out the messages for the replies not sent yet and returns how many there are. Replies of one size to one
// router become one message, which the kernel cuts into datagrams behind its routing and socket work (UDP_SEGMENT):
// after a power cut a router asks with 256 requests at once, and most answers are alike.
func (b *batch) plan() (messages int) {
	vec := 0
	for i := range b.replies[:b.n] {
		first := &b.replies[i]
		if first.message != 0 {
			continue
		}
		messages++
		begin := vec
		for j := i; j < b.n; j++ {
			q := &b.replies[j]
			if j > i && !(q.message == 0 && q.alike(first) && !b.plain && q.size <= maxSegment) {
				continue
			}
			q.message = messages
			b.outVec[vec].Base = &b.arena[q.off]
			b.outVec[vec].SetLen(q.size)
			vec++
		}
		o := &b.out[messages-1].hdr
		o.Name, o.Namelen = (*byte)(unsafe.Pointer(&first.to.raw)), first.to.size
		o.Iov = &b.outVec[begin]
		o.SetIovlen(vec - begin)
		control := first.control
		if vec-begin > 1 {
			binary.NativeEndian.PutUint16(b.segment[unix.CmsgLen(0):], uint16(first.size))
			control += copy(first.ctl[control:], b.segment)
		}
		o.Control = nil
		if control > 0 {
			o.Control = &first.ctl[0]
		}
		o.SetControllen(control)
	}
	return messages
}

// alike reports whether two replies differ in their octets alone.
func (q *queued) alike(o *queued) bool {
	return q.size == o.size && q.to == o.to && q.control == o.control && string(q.ctl[:q.control]) == string(o.ctl[:o.control])
}

// settle marks the replies of the first n messages as done and makes the rest unplanned.
func (b *batch) settle(n int) {
	for i := range b.replies[:b.n] {
		if q := &b.replies[i]; q.message > 0 {
			if q.message <= n {
				q.message = -1
			} else {
				q.message = 0
			}
		}
	}
}
