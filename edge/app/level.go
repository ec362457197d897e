package app

import (
	"context"
	"time"
)

// levelEvery is how often the leader looks again at a level that could not be raised.
const levelEvery = 10 * time.Second

// levelLoop raises the cluster's feature level once every member has reported a higher one.
func (c *core) levelLoop(ctx context.Context) error {
	return c.cluster.Leading(ctx, func(ctx context.Context) error {
		again := time.NewTicker(levelEvery)
		defer again.Stop()
		for {
			changed := c.members.Changed()
			if common := c.members.CommonLevel(); common > c.exec.Level() {
				if err := c.exec.RaiseLevel(ctx, common); err != nil && ctx.Err() == nil {
					c.log.Info("feature level not raised yet", "level", common, "error", err)
				} else if err == nil {
					c.log.Info("every node of the cluster has a newer version: its features are on", "level", common)
				}
			}
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			case <-again.C:
			}
		}
	})
}
