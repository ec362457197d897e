package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"wispgate/edge"
)

// documents are what the gateway says about itself: OpenAPI, the event catalogue, the reasons, the pages.
type documents struct {
	s       *Server
	events  []byte
	reasons []byte
	pages   map[string]*page

	mu     sync.Mutex
	byView map[string][]byte // OpenAPI documents by the scopes they show
}

// maxViews bounds the OpenAPI documents kept; beyond it they are made for each request.
const maxViews = 4

func newDocuments(s *Server) (*documents, error) {
	d := &documents{s: s, pages: map[string]*page{}, byView: map[string][]byte{}}
	for _, p := range s.cfg.Pages {
		if d.pages[p.Path] != nil {
			return nil, fmt.Errorf("page %s is declared twice", p.Path)
		}
		d.pages[p.Path] = newPage(p)
	}
	d.addOwnPages()
	var err error
	if d.events, err = asyncAPI(s); err != nil {
		return nil, err
	}
	if d.reasons, err = json.Marshal(map[string]any{"data": s.reasons}); err != nil {
		return nil, fmt.Errorf("encode reasons: %w", err)
	}
	if _, err := openAPI(s, func(string) bool { return true }); err != nil {
		return nil, err
	}
	return d, nil
}

// openapi is the document of what the actor may call. Documents are kept by the set of routes they show.
func (d *documents) openapi(a edge.Actor) ([]byte, *edge.Error) {
	var key strings.Builder
	for _, rt := range d.s.routes {
		if rt.scope() == anyScope || a.Has(rt.scope()) {
			key.WriteByte('1')
		} else {
			key.WriteByte('0')
		}
	}
	d.mu.Lock()
	doc := d.byView[key.String()]
	d.mu.Unlock()
	if doc != nil {
		return doc, nil
	}
	doc, err := openAPI(d.s, func(scope string) bool { return scope == anyScope || a.Has(scope) })
	if err != nil {
		d.s.log.Error("openapi document could not be made", "error", err)
		return nil, edge.ErrInternal.Error(edge.Internal)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.byView) < maxViews {
		d.byView[key.String()] = doc
	}
	return doc, nil
}
