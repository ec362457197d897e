package inventory

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"wispgate/edge"
)

// SiteKind says what sort of place a site is.
type SiteKind string

// The kinds of site.
const (
	Tower     SiteKind = "tower"
	Mast      SiteKind = "mast"
	Rooftop   SiteKind = "rooftop"
	PoP       SiteKind = "pop"
	Cabinet   SiteKind = "cabinet"
	Office    SiteKind = "office"
	Warehouse SiteKind = "warehouse"
)

// Values lists the kinds, for the schema.
func (SiteKind) Values() []string {
	return []string{"tower", "mast", "rooftop", "pop", "cabinet", "office", "warehouse"}
}

// Site is a tower or point of presence.
type Site struct {
	edge.Meta
	Code        string     `json:"code" check:"max=32" doc:"Short name on labels and in addresses, unique whatever its case." example:"TWR7"`
	Name        string     `json:"name" check:"max=120" doc:"Name people use." example:"Hill Farm tower"`
	Kind        SiteKind   `json:"kind" doc:"What sort of place it is." example:"tower"`
	Timezone    string     `json:"timezone" check:"format=timezone max=64" doc:"IANA zone of local time at the site." example:"Africa/Harare"`
	Coords      *Coords    `json:"coords,omitempty" doc:"Where it stands."`
	HeightM     int64      `json:"height_m,omitempty" check:"min=0 max=1000" doc:"Height of the structure above ground, in metres." example:"36"`
	Address     string     `json:"address,omitempty" check:"max=300" doc:"Postal address or the way there." example:"Plot 12, Hill Farm Road"`
	Landlord    *Landlord  `json:"landlord,omitempty" doc:"Who owns the ground or the roof."`
	Lease       *Lease     `json:"lease,omitempty" doc:"The agreement under which we stand there."`
	AccessNotes string     `json:"access_notes,omitempty" check:"max=2000" doc:"Keys, gates, dogs, hours: what a technician must know before driving." example:"Gate code with the guard; no climbing in wind above 40 km/h"`
	Power       *Power     `json:"power,omitempty" doc:"How the site is fed."`
	Backhaul    []Backhaul `json:"backhaul,omitempty" check:"max=8" doc:"Ways to the core, in order of preference."`
}

// Coords is a place on Earth (WGS 84) in millionths of a degree: integers, so that every node computes alike.
type Coords struct {
	LatMicrodeg int64 `json:"lat_microdeg" check:"min=-90000000 max=90000000" doc:"Latitude in millionths of a degree, north positive." example:"-17829200"`
	LonMicrodeg int64 `json:"lon_microdeg" check:"min=-180000000 max=180000000" doc:"Longitude in millionths of a degree, east positive." example:"31052200"`
}

// Landlord is who owns the ground or the roof.
type Landlord struct {
	Name  string `json:"name" check:"min=1 max=120" doc:"Person or company." example:"Hill Farm Ltd"`
	Phone string `json:"phone,omitempty" check:"max=16 format=e164" doc:"Phone in E.164." example:"+263771234567"`
	Email string `json:"email,omitempty" check:"max=254 format=email" doc:"E-mail address." example:"office@hillfarm.example"`
}

// Lease is the agreement under which the site stands where it does. Dates are local dates at the site.
type Lease struct {
	Reference string `json:"reference,omitempty" check:"max=64" doc:"Number of the agreement." example:"L-2026-014"`
	Start     string `json:"start" check:"format=date max=10" doc:"First day." example:"2026-01-01"`
	End       string `json:"end,omitempty" check:"format=date max=10" doc:"Last day; absent: open." example:"2035-12-31"`
}

// Power says how a site is fed.
type Power struct {
	Grid       bool       `json:"grid,omitempty" doc:"Whether it is on the grid."`
	SolarW     int64      `json:"solar_w,omitempty" check:"min=0 max=1000000" doc:"Rated power of the panels, in watts." example:"800"`
	GeneratorW int64      `json:"generator_w,omitempty" check:"min=0 max=1000000" doc:"Rated power of the generator, in watts." example:"3000"`
	BatteryAh  int64      `json:"battery_ah,omitempty" check:"min=0 max=100000" doc:"Capacity of the batteries, in ampere-hours." example:"200"`
	NominalMV  int64      `json:"nominal_mv,omitempty" check:"min=0 max=1000000" doc:"Nominal voltage of the battery bank, in millivolts." example:"48000"`
	LastMV     int64      `json:"last_mv,omitempty" check:"min=0 max=1000000" doc:"Last voltage read on the battery bank, in millivolts." example:"51200"`
	LastMVAt   *time.Time `json:"last_mv_at,omitempty" doc:"When last_mv was read."`
}

// BackhaulKind is the medium of a way to the core.
type BackhaulKind string

// Values lists the media, for the schema.
func (BackhaulKind) Values() []string {
	return []string{"fibre", "microwave", "wifi", "lte", "satellite", "copper"}
}

// Backhaul is one way from the site to the core.
type Backhaul struct {
	Kind         BackhaulKind `json:"kind" doc:"Medium." example:"microwave"`
	Provider     string       `json:"provider,omitempty" check:"max=120" doc:"Who runs it; absent: ourselves." example:"Liquid"`
	Circuit      string       `json:"circuit,omitempty" check:"max=64" doc:"The provider's circuit id." example:"LQ-88123"`
	CapacityKbps int64        `json:"capacity_kbps,omitempty" check:"min=0 max=1000000000" doc:"Capacity in kbit/s; 0: not known." example:"300000"`
	ToSite       edge.ID      `json:"to_site,omitempty" check:"prefix=sit" doc:"The site at the other end, where it is ours."`
}

// Reasons of sites.
var (
	ErrSiteInvalid  = edge.Reason{Code: "site_invalid", Says: "The site cannot be stored as described", Fix: "Correct the named fields"}
	ErrSiteArchived = edge.Reason{Code: "site_archived", Says: "The site is archived", Fix: "Use another site; an archived one is kept for history and never changes"}
)

const codeLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

// codeKey is the form in which codes are compared: upper case.
func codeKey(code string) string { return strings.ToUpper(strings.TrimSpace(code)) }

// normalise trims what people type around the words and gives the code its one spelling.
func (s *Site) normalise() {
	s.Code, s.Name = codeKey(s.Code), strings.TrimSpace(s.Name)
	if s.Landlord != nil {
		s.Landlord.Email = strings.ToLower(strings.TrimSpace(s.Landlord.Email))
	}
}

// check refuses what the schema cannot see: rules between members.
func (s *Site) check() error {
	var bad []edge.FieldError
	if s.Code == "" || strings.Trim(s.Code, codeLetters) != "" {
		bad = append(bad, edge.Field("/code", "is empty or holds other characters than letters, digits, - _ .", "use a short label such as TWR7"))
	}
	if s.Name == "" {
		bad = append(bad, edge.Field("/name", "is empty", "give the name people use"))
	}
	if !slices.Contains(s.Kind.Values(), string(s.Kind)) {
		bad = append(bad, edge.Field("/kind", "is not a kind of site", "use one of "+strings.Join(s.Kind.Values(), ", ")))
	}
	if _, err := time.LoadLocation(s.Timezone); err != nil || s.Timezone == "" || s.Timezone == "Local" {
		bad = append(bad, edge.Field("/timezone", "is not an IANA time zone", "use a name such as Africa/Harare"))
	}
	if c := s.Coords; c != nil && (max(c.LatMicrodeg, -c.LatMicrodeg) > 90e6 || max(c.LonMicrodeg, -c.LonMicrodeg) > 180e6) {
		bad = append(bad, edge.Field("/coords", "is not on Earth", "give millionths of a degree: latitude within 90, longitude within 180 degrees"))
	}
	if l := s.Lease; l != nil {
		start, err1 := time.Parse(time.DateOnly, l.Start)
		end, err2 := time.Parse(time.DateOnly, l.End)
		if err1 != nil || l.End != "" && (err2 != nil || end.Before(start)) {
			bad = append(bad, edge.Field("/lease", "does not end on or after its first day", "give start and end as YYYY-MM-DD, in this order"))
		}
	}
	for i := range s.Backhaul {
		if s.Backhaul[i].ToSite != "" && s.Backhaul[i].ToSite == s.ID {
			bad = append(bad, edge.Field("/backhaul", "leads to the site itself", "name the site at the other end"))
		}
	}
	if bad != nil {
		return ErrSiteInvalid.Error(edge.Invalid, bad...)
	}
	return nil
}

var sites = &edge.Table[Site]{
	Name: "inventory.site", Prefix: "sit", Meta: func(s *Site) *edge.Meta { return &s.Meta },
	Indexes: []edge.Index[Site]{
		{Name: "code", Unique: true, Keys: func(s *Site) []string { return []string{codeKey(s.Code)} }},
		{Name: "kind", Keys: func(s *Site) []string { return []string{string(s.Kind)} }},
	},
}

// SiteCreated says that a site was recorded.
type SiteCreated struct {
	Site edge.ID `json:"site"`
	Code string  `json:"code"`
}

// SiteUpdated says that fields of a site changed.
type SiteUpdated struct {
	Site   edge.ID  `json:"site"`
	Fields []string `json:"fields"`
}

// SiteArchived says that a site is out of use.
type SiteArchived struct {
	Site edge.ID `json:"site"`
}

// EventName implements edge.Event.
func (SiteCreated) EventName() string { return "inventory.site.created" }

// Subject implements edge.Event.
func (e SiteCreated) Subject() edge.ID { return e.Site }

// EventName implements edge.Event.
func (SiteUpdated) EventName() string { return "inventory.site.updated" }

// Subject implements edge.Event.
func (e SiteUpdated) Subject() edge.ID { return e.Site }

// EventName implements edge.Event.
func (SiteArchived) EventName() string { return "inventory.site.archived" }

// Subject implements edge.Event.
func (e SiteArchived) Subject() edge.ID { return e.Site }

// NewSite is what a site is made from.
type NewSite struct {
	edge.Common
	Code        string     `json:"code" check:"min=1 max=32" doc:"Short name on labels and in addresses, unique whatever its case: letters, digits, - _ ." example:"TWR7"`
	Name        string     `json:"name" check:"min=1 max=120" doc:"Name people use." example:"Hill Farm tower"`
	Kind        SiteKind   `json:"kind" doc:"What sort of place it is." example:"tower"`
	Timezone    string     `json:"timezone" check:"format=timezone max=64" doc:"IANA zone of local time at the site." example:"Africa/Harare"`
	Coords      *Coords    `json:"coords,omitempty" doc:"Where it stands."`
	HeightM     int64      `json:"height_m,omitempty" check:"min=0 max=1000" doc:"Height of the structure above ground, in metres." example:"36"`
	Address     string     `json:"address,omitempty" check:"max=300" doc:"Postal address or the way there." example:"Plot 12, Hill Farm Road"`
	Landlord    *Landlord  `json:"landlord,omitempty" doc:"Who owns the ground or the roof."`
	Lease       *Lease     `json:"lease,omitempty" doc:"The agreement under which we stand there."`
	AccessNotes string     `json:"access_notes,omitempty" check:"max=2000" doc:"What a technician must know before driving." example:"Gate code with the guard"`
	Power       *Power     `json:"power,omitempty" doc:"How the site is fed."`
	Backhaul    []Backhaul `json:"backhaul,omitempty" check:"max=8" doc:"Ways to the core, in order of preference."`
}

// CreateSite records a site.
var CreateSite = edge.Command[NewSite, Site]{
	Name: "inventory.site.create", Scope: "inventory:write", Class: edge.Write, Summary: "Record a site",
	Handle: func(tx edge.Tx, in NewSite) (Site, error) {
		s := Site{
			Meta: in.Meta(tx.NewID("sit")), Code: in.Code, Name: in.Name, Kind: in.Kind, Timezone: in.Timezone, Coords: in.Coords,
			HeightM: in.HeightM, Address: in.Address, Landlord: in.Landlord, Lease: in.Lease, AccessNotes: in.AccessNotes, Power: in.Power,
			Backhaul: in.Backhaul,
		}
		s.normalise()
		if err := s.check(); err != nil {
			return Site{}, err
		}
		if err := sites.Put(tx, &s); err != nil {
			return Site{}, err
		}
		tx.Emit(SiteCreated{s.ID, s.Code})
		return s, nil
	},
}

// SiteChange carries the members of a site to change; what is absent stays.
type SiteChange struct {
	edge.CommonChange
	ID          edge.ID     `json:"id" check:"prefix=sit" doc:"The site."`
	Code        *string     `json:"code,omitempty" check:"min=1 max=32" doc:"Short name on labels." example:"TWR7"`
	Name        *string     `json:"name,omitempty" check:"min=1 max=120" doc:"Name people use." example:"Hill Farm tower"`
	Kind        *SiteKind   `json:"kind,omitempty" doc:"What sort of place it is." example:"tower"`
	Timezone    *string     `json:"timezone,omitempty" check:"format=timezone max=64" doc:"IANA zone of local time." example:"Africa/Harare"`
	Coords      *Coords     `json:"coords,omitempty" doc:"Where it stands."`
	HeightM     *int64      `json:"height_m,omitempty" check:"min=0 max=1000" doc:"Height above ground, in metres." example:"36"`
	Address     *string     `json:"address,omitempty" check:"max=300" doc:"Postal address or the way there." example:"Plot 12, Hill Farm Road"`
	Landlord    *Landlord   `json:"landlord,omitempty" doc:"Who owns the ground or the roof."`
	Lease       *Lease      `json:"lease,omitempty" doc:"The agreement under which we stand there."`
	AccessNotes *string     `json:"access_notes,omitempty" check:"max=2000" doc:"What a technician must know before driving." example:"Gate code with the guard"`
	Power       *Power      `json:"power,omitempty" doc:"How the site is fed."`
	Backhaul    *[]Backhaul `json:"backhaul,omitempty" check:"max=8" doc:"Ways to the core, in order of preference."`
	Clear       []string    `json:"clear,omitempty" check:"max=4 item.enum=coords|landlord|lease|power" doc:"Members to remove."`
}

func (in SiteChange) apply(s *Site) {
	in.Apply(&s.Meta)
	edge.Set(&s.Code, in.Code)
	edge.Set(&s.Name, in.Name)
	edge.Set(&s.Kind, in.Kind)
	edge.Set(&s.Timezone, in.Timezone)
	edge.Set(&s.HeightM, in.HeightM)
	edge.Set(&s.Address, in.Address)
	edge.Set(&s.AccessNotes, in.AccessNotes)
	edge.Set(&s.Backhaul, in.Backhaul)
	setPart(&s.Coords, in.Coords, in.Clear, "coords")
	setPart(&s.Landlord, in.Landlord, in.Clear, "landlord")
	setPart(&s.Lease, in.Lease, in.Clear, "lease")
	setPart(&s.Power, in.Power, in.Clear, "power")
}

// setPart replaces an optional part as a whole when the change holds one, and removes it when remove names it.
func setPart[T any](to **T, from *T, remove []string, name string) {
	switch {
	case slices.Contains(remove, name):
		*to = nil
	case from != nil:
		*to = from
	}
}

// UpdateSite changes members of a site. A change that changes nothing is success without effect.
var UpdateSite = edge.Command[SiteChange, Site]{
	Name: "inventory.site.update", Scope: "inventory:write", Class: edge.Write, Summary: "Change a site",
	Record: func(in SiteChange) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in SiteChange) (Site, error) {
		was, err := sites.Get(tx, in.ID)
		if err != nil {
			return Site{}, err
		}
		if was.ArchivedAt != nil {
			return Site{}, ErrSiteArchived.Error(edge.Conflict)
		}
		s := was
		in.apply(&s)
		s.normalise()
		if err := s.check(); err != nil {
			return Site{}, err
		}
		fields, err := edge.Changed(&was, &s)
		if err != nil || len(fields) == 0 {
			return was, err
		}
		if err := sites.Put(tx, &s); err != nil {
			return Site{}, err
		}
		tx.Emit(SiteUpdated{s.ID, fields})
		return s, nil
	},
}

// SiteRef names a site.
type SiteRef struct {
	ID edge.ID `json:"id" check:"prefix=sit" doc:"The site."`
}

// ArchiveSite takes a site out of use; it stays readable. Archiving it again is success without effect.
var ArchiveSite = edge.Command[SiteRef, Site]{
	Name: "inventory.site.archive", Scope: "inventory:write", Class: edge.Write, Summary: "Take a site out of use",
	Record: func(in SiteRef) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in SiteRef) (Site, error) {
		s, err := sites.Get(tx, in.ID)
		if err != nil || s.ArchivedAt != nil {
			return s, err
		}
		s.ArchivedAt = new(tx.Now().UTC())
		if err := sites.Put(tx, &s); err != nil {
			return Site{}, err
		}
		tx.Emit(SiteArchived{s.ID})
		return s, nil
	},
}

// GetSite answers one site.
var GetSite = edge.Query[SiteRef, Site]{
	Name: "inventory.site.get", Scope: "inventory:read", Class: edge.Read, Summary: "Read a site",
	Shows:  sites,
	Record: func(in SiteRef) edge.ID { return in.ID },
	Handle: func(v edge.View, in SiteRef) (Site, error) { return sites.Get(v, in.ID) },
}

// SiteCode names a site by its code.
type SiteCode struct {
	Code string `json:"code" check:"min=1 max=32" doc:"The site's code, in any case." example:"TWR7"`
}

// GetSiteByCode answers the site that holds a code.
var GetSiteByCode = edge.Query[SiteCode, Site]{
	Name: "inventory.site.get_by_code", Scope: "inventory:read", Class: edge.Read, Summary: "Read a site by its code",
	Handle: func(v edge.View, in SiteCode) (Site, error) { return sites.By(v, "code", codeKey(in.Code)) },
}

// SiteList filters a list of sites.
type SiteList struct {
	edge.ListInput
	Kind       SiteKind `json:"kind,omitempty" doc:"Only this kind of place." example:"tower"`
	ExternalID string   `json:"external_id,omitempty" check:"max=128" doc:"Only the site with this identifier of another system." example:"uisp-41"`
	Archived   bool     `json:"archived,omitempty" doc:"Archived sites, too."`
}

// ListSites answers a page of sites.
var ListSites = edge.Query[SiteList, edge.Page[Site]]{
	Name: "inventory.site.list", Scope: "inventory:read", Class: edge.Read, Summary: "List sites",
	Handle: func(v edge.View, in SiteList) (edge.Page[Site], error) {
		f := edge.Filter[Site]{Also: []string{string(in.Kind), strconv.FormatBool(in.Archived)}}
		switch {
		case in.ExternalID != "":
			f.Index, f.Key = "external_id", in.ExternalID
		case in.Kind != "":
			f.Index, f.Key = "kind", string(in.Kind)
		}
		f.Keep = func(s *Site) bool {
			return (in.Archived || s.ArchivedAt == nil) && (in.Kind == "" || s.Kind == in.Kind)
		}
		return sites.Select(v, f, in.ListInput)
	},
}
