package aaa

import (
	"fmt"
	"net/netip"
	"strings"

	"wispgate/edge"
)

// ScriptInput says where the NAS reaches this server.
type ScriptInput struct {
	ID       edge.ID    `json:"id" check:"prefix=nas" doc:"Identifier of the record."`
	Server   netip.Addr `json:"server" doc:"Address of the node as the NAS reaches it." example:"10.20.0.2"`
	AuthPort uint16     `json:"auth_port,omitempty" check:"min=1" doc:"1812 unless given."`
	AcctPort uint16     `json:"acct_port,omitempty" check:"min=1" doc:"1813 unless given."`
	Vendor   Vendor     `json:"vendor,omitempty" doc:"The NAS's own unless given."`
}

// Script is what to type into a NAS.
type Script struct {
	Vendor Vendor   `json:"vendor" doc:"Which attributes its replies carry."`
	Lines  []string `json:"lines" doc:"Lines for the device's terminal."`
	Text   string   `json:"text" doc:"The same, ready to paste."`
}

// secretPlaceholder stands where the shared secret goes: the stored one never leaves the node.
const secretPlaceholder = "PASTE-THE-SHARED-SECRET"

// ScriptNAS writes the configuration of a NAS, without its secret.
var ScriptNAS = edge.Query[ScriptInput, Script]{
	Name: "aaa.nas.script", Scope: "aaa:read", Class: edge.Read, Summary: "Write the lines that configure a NAS, without its secret",
	Handle: func(v edge.View, in ScriptInput) (Script, error) {
		n, err := nasTable.Get(v, in.ID)
		if err != nil {
			return Script{}, err
		}
		if !in.Server.IsValid() || in.Server.IsUnspecified() || in.Server.IsMulticast() {
			return Script{}, edge.ErrInput.Error(edge.Invalid, edge.FieldError{
				In: "query", Pointer: "server", Reason: "is not the address of a node", Fix: "use the address at which the NAS reaches this node",
			})
		}
		if in.AuthPort == 0 {
			in.AuthPort = 1812
		}
		if in.AcctPort == 0 {
			in.AcctPort = 1813
		}
		if in.Vendor == "" {
			in.Vendor = n.Vendor
		}
		out := Script{Vendor: in.Vendor, Lines: plainScript(n, in)}
		if in.Vendor == MikroTik {
			out.Lines = mikrotikScript(n, in)
		}
		out.Text = strings.Join(out.Lines, "\n") + "\n"
		return out, nil
	},
}

// mikrotikScript is for RouterOS 6.43 and later. A line that only newer releases know says so.
func mikrotikScript(n NAS, in ScriptInput) []string {
	source := ""
	if len(n.Addresses) > 0 && n.Addresses[0].Is4() == in.Server.Unmap().Is4() {
		source = " src-address=" + n.Addresses[0].String()
	}
	lines := []string{
		"# WISPGate: " + clean(n.Identifier) + ". Paste the shared secret in place of " + secretPlaceholder + ".",
		"/system identity set name=" + quote(n.Identifier),
		fmt.Sprintf("/radius add service=ppp,hotspot,dhcp,wireless address=%s secret=%s authentication-port=%d accounting-port=%d timeout=1s%s comment=\"wispgate\"",
			in.Server.Unmap(), quote(secretPlaceholder), in.AuthPort, in.AcctPort, source),
		fmt.Sprintf("/radius incoming set accept=yes port=%d", n.CoAPort),
		fmt.Sprintf("/ppp aaa set use-radius=yes accounting=yes interim-update=%ds", defaultInterim),
		"/ip hotspot profile set [find] use-radius=yes radius-accounting=yes radius-interim-update=received",
		"# RouterOS 7.15 and later, so that forged answers are refused:",
		"/radius set [find comment=\"wispgate\"] require-message-auth=yes-for-request-resp",
	}
	return lines
}

// plainScript tells a person what to enter where there is no script language.
func plainScript(n NAS, in ScriptInput) []string {
	return []string{
		"RADIUS authentication server: " + in.Server.Unmap().String(),
		fmt.Sprintf("Authentication port (UDP): %d", in.AuthPort),
		fmt.Sprintf("Accounting port (UDP): %d", in.AcctPort),
		"Shared secret: " + secretPlaceholder,
		"NAS-Identifier: " + clean(n.Identifier),
		fmt.Sprintf("Interim updates: every %d seconds, or as the server says", defaultInterim),
		fmt.Sprintf("CoA and Disconnect (UDP): accept from the server on port %d", n.CoAPort),
		"Message-Authenticator: send it in every request, require it in every answer",
	}
}

// quote writes a RouterOS string. Its backslash escapes cover the quote, itself, the variable sign and nothing else that may occur.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`).Replace(clean(s)) + `"`
}

// clean keeps a name on its line.
func clean(s string) string {
	return strings.Map(func(c rune) rune {
		if c < 0x20 || c == 0x7f {
			return -1
		}
		return c
	}, s)
}
