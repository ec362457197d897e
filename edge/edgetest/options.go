package edgetest

import kernel "wispgate/edge/exec"

// NoTimer keeps the due index still, as an untrusted clock does: for tests that run due commands by themselves.
func NoTimer() Option {
	return func(c *kernel.Config) { c.Trusted = func() bool { return false } }
}
