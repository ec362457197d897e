// Package gateway is the HTTP edge: it turns the declarations of the modules into routes and answers them. It is the only place that
// knows Fiber. A request passes, in this order, the listener's limits, authentication, scope, rate and fairness, schema, operation and
// audit; every refusal is a problem document (RFC 9457) that names what was wrong and what to do, and never repeats a value from the
// request. DESIGN.md in this folder says why.
package gateway
