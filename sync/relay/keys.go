package relay

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"strconv"
	"time"

	"wispgate/edge"
	"wispgate/edge/store"
)

// The relay's keys, all in the node's own keyspace. A sequence number is the place of an event in the order in which this relay stored
// all events; it is written in sixteen hex digits, or inverted where lists show the newest first.
//
//	seq                                     last sequence number given out
//	m/{tenant}/{source}/{incarnation}       Mark: how far a stream is stored
//	e/{tenant}/{seq}                        stored event: a line of meta, then the envelope
//	k/{tenant}/{event id}                   seq of an event, for dedupe and look-up
//	q/{tenant}/{endpoint}/r/{seq}           ready: never tried, or released; the value is the ordering key
//	q/{tenant}/{endpoint}/w/{due}/{seq}     waiting for its next attempt
//	d/{tenant}/{endpoint}/{~seq}            Delivery: everything there is to know about one event at one endpoint
//	z/{tenant}/{endpoint}/{~seq}            dead letters
//	b/{day}/{tenant}/{endpoint}/{~seq}/{n}  first octets of an endpoint's answer to attempt n
//	h/{tenant}/{endpoint}                   Health
const keyRoot = store.Local + "relay/"

func hex16(n uint64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	return hex.EncodeToString(b[:])
}

func unhex16(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 16, 64)
	return n, err == nil && len(s) == 16
}

func inverted(seq uint64) string { return hex16(math.MaxUint64 - seq) }

func uninverted(s string) (uint64, bool) {
	n, ok := unhex16(s)
	return math.MaxUint64 - n, ok
}

func seqKey() []byte { return []byte(keyRoot + "seq") }

func markPrefix() []byte { return []byte(keyRoot + "m/") }

func markKey(n streamName) []byte {
	return []byte(keyRoot + "m/" + n.Tenant + "/" + n.Source + "/" + n.Incarnation)
}

func eventPrefix(tenant string) string { return keyRoot + "e/" + tenant + "/" }

func eventKey(tenant string, seq uint64) []byte { return []byte(eventPrefix(tenant) + hex16(seq)) }

func eventIDKey(tenant string, id edge.ID) []byte {
	return []byte(keyRoot + "k/" + tenant + "/" + string(id))
}

func queuePrefix(tenant string, endpoint edge.ID) string {
	return keyRoot + "q/" + tenant + "/" + string(endpoint) + "/"
}

func readyPrefix(tenant string, endpoint edge.ID) string { return queuePrefix(tenant, endpoint) + "r/" }

func readyKey(tenant string, endpoint edge.ID, seq uint64) []byte {
	return []byte(readyPrefix(tenant, endpoint) + hex16(seq))
}

func waitPrefix(tenant string, endpoint edge.ID) string { return queuePrefix(tenant, endpoint) + "w/" }

func waitKey(tenant string, endpoint edge.ID, due time.Time, seq uint64) []byte {
	return []byte(waitPrefix(tenant, endpoint) + hex16(uint64(due.UnixNano())) + "/" + hex16(seq))
}

func deliveryPrefix(tenant string, endpoint edge.ID) string {
	return keyRoot + "d/" + tenant + "/" + string(endpoint) + "/"
}

func deliveryKey(tenant string, endpoint edge.ID, seq uint64) []byte {
	return []byte(deliveryPrefix(tenant, endpoint) + inverted(seq))
}

func deadPrefix(tenant string, endpoint edge.ID) string {
	return keyRoot + "z/" + tenant + "/" + string(endpoint) + "/"
}

func deadKey(tenant string, endpoint edge.ID, seq uint64) []byte {
	return []byte(deadPrefix(tenant, endpoint) + inverted(seq))
}

const dayLayout = "20060102"

func answerKey(tenant string, endpoint edge.ID, seq uint64, n int, at time.Time) []byte {
	return []byte(keyRoot + "b/" + at.UTC().Format(dayLayout) + "/" + tenant + "/" + string(endpoint) + "/" + inverted(seq) + "/" + strconv.Itoa(n))
}

func healthKey(tenant string, endpoint edge.ID) []byte {
	return []byte(keyRoot + "h/" + tenant + "/" + string(endpoint))
}
