package exec

import (
	"fmt"

	"wispgate/edge"
)

// inside is a transaction as another actor sees it: what it reads and writes is the same draft, inside that actor's tenant.
type inside struct {
	*tx
	actor edge.Actor
}

// emitted is an event with the actor in whose tenant it happened.
type emitted struct {
	edge.Event
	actor edge.Actor
}

// Inside implements edge.Inside: only operations of the platform itself step into a tenant.
func (t *tx) Inside(actor edge.Actor) (edge.Tx, error) {
	if t.intent.Actor.Tenant != edge.System {
		return nil, fmt.Errorf("an operation of tenant %s cannot step into another", t.intent.Actor.Tenant)
	}
	return t.as(actor), nil
}

// as is the transaction for the actor: itself where it is the intent's own.
func (t *tx) as(actor edge.Actor) edge.Tx {
	if actor.Tenant == t.intent.Actor.Tenant && actor.Subject == t.intent.Actor.Subject {
		return t
	}
	return inside{t, actor}
}

func (s inside) Actor() edge.Actor { return s.actor }

func (s inside) Emit(e edge.Event) { s.events = append(s.events, emitted{e, s.actor}) }

func (s inside) Get(key string) ([]byte, error) {
	if err := guard(s.actor.Tenant, key); err != nil {
		return nil, err
	}
	return s.get(key)
}

func (s inside) Put(key string, val []byte) {
	if val == nil {
		val = []byte{}
	}
	s.write(key, val)
}

func (s inside) Delete(key string) { s.write(key, nil) }

func (s inside) write(key string, val []byte) {
	if err := guard(s.actor.Tenant, key); err != nil {
		panic(err)
	}
	s.writes[key] = val
}

func (s inside) Scan(prefix, from string, visit func(string, []byte) (bool, error)) error {
	if err := guard(s.actor.Tenant, prefix); err != nil {
		return err
	}
	return s.scan(prefix, from, visit)
}
