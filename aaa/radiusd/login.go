package radiusd

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"hash"
	"log/slog"
	"sync/atomic"
	"time"

	"wispgate/aaa/dict"
	"wispgate/aaa/packet"
	"wispgate/edge"
)

// Method is how a login proves itself.
type Method uint8

// The methods; a Login's Methods is a set of them.
const (
	MethodNone Method = 1 << iota // no credential in the request: MAC authentication without a password
	MethodPAP
	MethodCHAP
)

// Request is what the pipeline knows of an Access-Request before it decides. It is reused: keep nothing of it.
type Request struct {
	NAS           *NAS
	Now           time.Time
	Login         []byte     // User-Name as sent
	LoginMAC      packet.MAC // User-Name, if it is a hardware address
	MAC           packet.MAC // Calling-Station-Id, if it is one
	CalledStation []byte
	NASPortID     []byte
	ServiceType   uint32
	NASPortType   uint32
	Method        Method
}

// Login is one credential as the index holds it. It is immutable once published.
type Login struct {
	ID       string // of the credential
	Password *Password
	Methods  Method  // allowed ones; 0: all the password can serve
	Address  Address // of this login
	Ref      any     // the directory's own
}

// Address holds a login's static addresses as octets (dict.RenderStatic), and says which pools they replace.
type Address struct {
	Attrs  []byte
	V4, V6 bool
}

// Verdict is what Decide says.
type Verdict uint8

// The verdicts. Allow, Throttle and Walled are all accepts; they differ in policy and reason.
const (
	Refuse Verdict = iota
	Allow
	Throttle
	Walled
)

// Decision is what a login may do now.
type Decision struct {
	Verdict  Verdict
	Reason   *edge.Reason   // why not, or why less; nil with Allow
	Policy   *dict.Rendered // of an accept; nil: no attributes
	Until    int64          // Unix seconds at which the session must end; 0: open
	Revision uint64         // of the entitlement, written into Class
	Message  string         // Reply-Message of a refusal; empty: the reason's sentence
}

type passwordKind uint8

const (
	passwordNone passwordKind = iota
	passwordClear
	passwordHashed
	passwordAny
)

// Password verifies one credential. Keep the same Password across changes of the entitlement, and make a new one when
// the credential changes: it remembers which password a slow hash has already proved.
type Password struct {
	kind     passwordKind
	id       string
	clear    []byte
	verify   func(password []byte) bool
	revision uint64

	proof, wrong atomic.Pointer[[sha256.Size]byte]
}

// ClearPassword serves PAP and CHAP.
func ClearPassword(clear []byte, revision uint64) *Password {
	return &Password{kind: passwordClear, clear: append([]byte(nil), clear...), revision: revision}
}

// HashedPassword serves PAP alone. verify may take long (argon2id): it runs in a bounded pool, once per password and
// start of the program; afterwards an HMAC under a key of this boot is compared.
func HashedPassword(id string, revision uint64, verify func(password []byte) bool) *Password {
	return &Password{kind: passwordHashed, id: id, verify: verify, revision: revision}
}

// NoPassword is MAC authentication: the password must be empty, the name itself, or the address in any notation.
func NoPassword(revision uint64) *Password { return &Password{revision: revision} }

// AnyPassword takes whatever is offered, by PAP or CHAP. It is for a login that is refused whatever its password, such as a revoked one
// whose secret is gone: the request then reaches the decision, which says why. Decide must never allow such a login.
func AnyPassword() *Password { return &Password{kind: passwordAny} }

func (*Password) String() string       { return "***" }
func (*Password) GoString() string     { return "***" }
func (*Password) LogValue() slog.Value { return slog.StringValue("***") }

// prover computes proofs of slow passwords in memory of its own. One per goroutine.
type prover struct {
	mac hash.Hash
	sum [sha256.Size]byte
}

func newProver(bootKey []byte) *prover { return &prover{mac: hmac.New(sha256.New, bootKey)} }

// answer is the outcome of a password check.
type answer uint8

const (
	wrongPassword answer = iota
	rightPassword
	askSlowly // only the slow hash knows
)

func (v *prover) prove(p *Password, password []byte) {
	v.mac.Reset()
	v.sum = [sha256.Size]byte{byte(len(p.id))}
	v.mac.Write(v.sum[:1])
	for id := p.id; id != ""; { // a string, fed through the scratch: no copy on the heap
		n := copy(v.sum[:], id)
		v.mac.Write(v.sum[:n])
		id = id[n:]
	}
	v.mac.Write(password)
	v.mac.Sum(v.sum[:0])
}

// check compares a PAP password.
func (v *prover) check(p *Password, password []byte, r *Request) answer {
	ok := false
	switch p.kind {
	case passwordClear:
		ok = subtle.ConstantTimeCompare(p.clear, password) == 1
	case passwordAny:
		ok = true
	case passwordNone:
		ok = len(password) == 0 || string(password) == string(r.Login)
		if !ok && !r.LoginMAC.IsZero() {
			m, isMAC := packet.ParseMAC(password)
			ok = isMAC && m == r.LoginMAC
		}
	case passwordHashed:
		v.prove(p, password)
		if seen := p.proof.Load(); seen != nil && subtle.ConstantTimeCompare(seen[:], v.sum[:]) == 1 {
			return rightPassword
		}
		if seen := p.wrong.Load(); seen == nil || subtle.ConstantTimeCompare(seen[:], v.sum[:]) != 1 {
			return askSlowly
		}
	}
	if ok {
		return rightPassword
	}
	return wrongPassword
}

// settle runs the slow hash and remembers its answer.
func (v *prover) settle(p *Password, password []byte) bool {
	ok := p.verify(password)
	v.prove(p, password)
	sum := v.sum
	if ok {
		p.proof.Store(&sum)
	} else {
		p.wrong.Store(&sum)
	}
	return ok
}
