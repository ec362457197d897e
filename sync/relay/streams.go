package relay

import (
	"cmp"
	"slices"
	"time"

	"wispgate/edge"
	"wispgate/sync/wire"
)

// StreamInfo is where a stream stands, for people.
type StreamInfo struct {
	Source      string     `json:"source" check:"max=64" doc:"Cluster or node whose events these are."`
	Incarnation string     `json:"incarnation" check:"max=64"`
	Since       uint64     `json:"since" doc:"Position after which this relay began."`
	Stored      uint64     `json:"stored" doc:"Everything up to this position is stored."`
	Events      uint64     `json:"events" doc:"Events stored."`
	SeenAt      *time.Time `json:"seen_at,omitempty" doc:"When the last message arrived."`
	GapSince    *time.Time `json:"gap_since,omitempty" doc:"Since when something before what has arrived is missing."`
	Lost        []Range    `json:"lost,omitempty" doc:"Ranges that the sender has forgotten and this relay never stored."`
	Online      *bool      `json:"online,omitempty" doc:"Whether the sender is connected; absent when it has not said."`
	Node        string     `json:"node,omitempty" check:"max=64" doc:"The node that speaks for the stream."`
	StateAt     *time.Time `json:"state_at,omitempty"`

	session string
}

func (s *stream) info() StreamInfo {
	return StreamInfo{
		Source: s.name.Source, Incarnation: s.name.Incarnation, Since: s.mark.Since, Stored: s.mark.Stored, Events: s.mark.Events,
		SeenAt: optional(s.mark.SeenAt), GapSince: optional(s.gapSince), Lost: slices.Clone(s.mark.Lost),
	}
}

// publishStreams shows what the ingest knows of the touched streams.
func (r *Relay) publishStreams(touched map[*stream]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range touched {
		next, was := s.info(), r.streams[s.name]
		next.Online, next.Node, next.StateAt, next.session = was.Online, was.Node, was.StateAt, was.session
		r.streams[s.name] = next
	}
}

// noteState takes in a birth or death. A death counts only for the session that was born last: a late will buries nobody.
func (r *Relay) noteState(tenant, source string, payload []byte) {
	st, err := wire.ParseState(payload)
	if err != nil {
		r.count("wispgate_relay_messages_refused_total", 1)
		return
	}
	name := streamName{tenant, source, st.Incarnation}
	r.mu.Lock()
	defer r.mu.Unlock()
	s, known := r.streams[name]
	if !known && len(r.streams) >= maxStreams || known && !st.Online && s.session != "" && s.session != st.Session {
		return
	}
	s.Source, s.Incarnation = source, st.Incarnation
	s.Online, s.Node, s.StateAt, s.session = &st.Online, st.Node, optional(st.Since.UTC()), st.Session
	r.streams[name] = s
}

// StreamList chooses streams.
type StreamList struct {
	edge.ListInput
	Source string `json:"source,omitempty" check:"max=64" doc:"Only of this cluster or node."`
}

func (r *Relay) listStreams() edge.Query[StreamList, edge.Page[StreamInfo]] {
	return edge.Query[StreamList, edge.Page[StreamInfo]]{
		Name: "relay.stream.list", Scope: "relay:read", Class: edge.Read, Summary: "List the streams of clusters and nodes, with how far each is stored",
		Handle: func(v edge.View, in StreamList) (edge.Page[StreamInfo], error) {
			if r == nil {
				return edge.Page[StreamInfo]{}, edge.ErrStarting.Error(edge.Unavailable)
			}
			tenant := v.Actor().Tenant
			page := edge.Page[StreamInfo]{Data: []StreamInfo{}}
			r.mu.Lock()
			for name, s := range r.streams {
				if name.Tenant == tenant && (in.Source == "" || in.Source == name.Source) && s.cursor() > in.Cursor {
					s.session = ""
					page.Data = append(page.Data, s)
				}
			}
			r.mu.Unlock()
			slices.SortFunc(page.Data, func(a, b StreamInfo) int { return cmp.Compare(a.cursor(), b.cursor()) })
			if n := limit(in.ListInput); len(page.Data) > n {
				page.Data, page.HasMore = page.Data[:n], true
				page.NextCursor = page.Data[n-1].cursor()
			}
			return page, nil
		},
	}
}

func (s *StreamInfo) cursor() string { return s.Source + "/" + s.Incarnation }

func limit(in edge.ListInput) int {
	if in.Limit <= 0 {
		return edge.DefaultLimit
	}
	return min(in.Limit, edge.MaxLimit)
}
