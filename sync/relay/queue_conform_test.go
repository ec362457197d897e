package relay_test

import (
	"testing"

	"wispgate/sync/relay"
	"wispgate/sync/relay/queuetest"
)

func TestStoreQueueConforms(t *testing.T) {
	t.Parallel()
	queuetest.Conform(t, func(t *testing.T) queuetest.Subject {
		dir := t.TempDir()
		var open func() queuetest.Subject
		open = func() queuetest.Subject {
			q, commit, shut := relay.OpenStoreQueue(t, dir)
			return queuetest.Subject{Queue: q, Commit: commit, Reopen: func() queuetest.Subject { shut(); return open() }}
		}
		return open()
	})
}
