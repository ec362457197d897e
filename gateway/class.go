package gateway

import (
	"time"

	"wispgate/edge"
)

// care says what the gateway does with one class of operations. All policy hangs on this table; a resource names its class and
// nothing else.
type care struct {
	cost     int           // units taken from the throttles
	body     int           // octets of body at most
	timeout  time.Duration // after which the answer is 503
	rank     int           // of being shed: lower ranks give way first
	lane     int           // which concurrency limit holds
	audited  bool          // a line in the journal before the answer; else a line in the access log
	needsKey bool          // refused without Idempotency-Key
}

// Lanes of the fair queue: reads cost CPU, writes wait for the disk.
const (
	readLane = iota
	writeLane
	lanes
)

// Bounds that no class exceeds.
const (
	maxBody    = 96 << 10 // an entry is at most 128 KB
	maxHeaders = 100
	maxHeader  = 8 << 10 // request line and headers together
	maxBearer  = 8 << 10
	maxProblem = 16 << 10
	maxBatch   = 100
)

var classes = map[edge.Class]care{
	edge.Read:      {cost: 1, body: maxBody, timeout: 5 * time.Second, rank: 2, lane: readLane},
	edge.Personal:  {cost: 1, body: maxBody, timeout: 5 * time.Second, rank: 2, lane: readLane, audited: true},
	edge.Report:    {cost: 10, body: maxBody, timeout: 30 * time.Second, rank: 0, lane: readLane},
	edge.Write:     {cost: 3, body: maxBody, timeout: 15 * time.Second, rank: 1, lane: writeLane, audited: true},
	edge.Provision: {cost: 3, body: maxBody, timeout: 15 * time.Second, rank: 3, lane: writeLane, audited: true},
	edge.Money:     {cost: 3, body: maxBody, timeout: 15 * time.Second, rank: 4, lane: writeLane, audited: true, needsKey: true},
	edge.Admin:     {cost: 5, body: 16 << 10, timeout: 15 * time.Second, rank: 4, lane: writeLane, audited: true},
}

// careFor is the class's care, seen for one operation: commands are always audited, and never wait in the lane of reads.
func careFor(op *edge.Op) (care, bool) {
	c, ok := classes[op.Class]
	if op.Command {
		c.audited, c.lane = true, writeLane
	} else {
		c.lane, c.needsKey = readLane, false
	}
	return c, ok
}
