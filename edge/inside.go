package edge

import "errors"

// Inside returns tx as another actor sees it: reads, writes, ids and events of the same commit, inside that actor's tenant. Only an
// operation of the System tenant may step into another: making a tenant and its first client is one commit or none.
func Inside(tx Tx, actor Actor) (Tx, error) {
	s, ok := tx.(interface{ Inside(actor Actor) (Tx, error) })
	if !ok {
		return nil, errors.New("this transaction cannot step into another tenant")
	}
	return s.Inside(actor)
}
