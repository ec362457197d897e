// Package web holds the small pages that the gateway serves about its API. They load nothing from elsewhere.
package web

import _ "embed"

// Docs is the API's documentation page: it asks for a key and shows what that key may call.
//
//go:embed docs.html
var Docs []byte

// DocsScript and DocsStyle belong to it; they stand apart so that the page needs no inline code.
//
//go:embed docs.js
var DocsScript []byte

// DocsStyle is the page's style sheet.
//
//go:embed docs.css
var DocsStyle []byte
