package edge

// CutOff reports that the view is the overlay of a node without a quorum, where a command is accepted before the cluster has seen it.
// Limits on what an isolated tower may promise are checked there and nowhere else: at the rebase the same command runs on the true
// state with Acknowledged, where an exceeded limit is an event and not a refusal. Nothing else may depend on it.
func CutOff(v View) bool {
	c, ok := v.(interface{ CutOff() bool })
	return ok && c.CutOff()
}
