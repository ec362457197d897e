package aaa

import (
	"encoding/base32"
	"strings"

	"wispgate/edge"
)

// secretField names what a sealed value is in its seal. Moving a value to another record or field makes it unreadable.
const secretField = "secret"

// crockford has no letters that are mistaken for digits on a printed page or a phone.
var crockford = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// mint draws a secret of 130 bits that survives routers' configuration languages: lower-case letters and digits only.
func mint(p edge.Prep) edge.Secret { return edge.Secret(crockford.EncodeToString(p.Random(17))[:26]) }

// checkSecret refuses plaintext that peers could not carry: a RADIUS password has at most 128 octets, and control characters do not
// survive a router's configuration.
func checkSecret(pointer string, s edge.Secret) error {
	for _, c := range []byte(s.Reveal()) {
		if c < 0x20 || c == 0x7f {
			return edge.ErrInput.Error(edge.Invalid, edge.Field(pointer, "holds control characters", "use printable characters"))
		}
	}
	return nil
}

// sealInto seals *plain, or a newly minted secret that is shown once, into *sealed and clears the plaintext. The sealed member is the
// node's to fill: one sent by a client is refused, because it would bypass the seal's binding.
func sealInto(p edge.Prep, record edge.ID, name string, plain *edge.Secret, sealed *string) error {
	if err := onlyNode("/sealed_"+name, *sealed); err != nil {
		return err
	}
	if *plain == "" {
		*plain = mint(p)
		p.Once(name, *plain)
	}
	if err := checkSecret("/"+name, *plain); err != nil {
		return err
	}
	value, err := p.Seal(record, secretField, *plain)
	if err != nil {
		return err
	}
	*plain, *sealed = "", value
	return nil
}

func onlyNode(pointer, value string) error {
	if value == "" {
		return nil
	}
	return edge.ErrInput.Error(edge.Invalid, edge.Field(pointer, "is filled by the node", "leave it out"))
}

// onlySystem refuses commands that only the node's own workers and timers may run, whatever scopes a client holds.
func onlySystem(v edge.View) error {
	if strings.HasPrefix(v.Actor().Subject, "system:") {
		return nil
	}
	e := edge.ErrScope.Error(edge.Denied)
	e.Message, e.Fix = "Only the node itself runs this operation", "Use the documented operations"
	return e
}
