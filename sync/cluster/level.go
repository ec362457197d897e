package cluster

// FeatureLevel is what this program can read. It rises by one with every release that stores a form which the release before does not know;
// commands that do so declare the level they need (edge.Command.Level) and wait until every member reports it.
//
//	1  0.1.0
//	2  entries of a term (exec.ChainLevel)
//	3  packed entries, and requests to the leader as parcels (exec.PackLevel)
const FeatureLevel = 3

// CommonLevel is the level that every node of the cluster has reported, 0 while one has not.
func (d *Directory) CommonLevel() int64 {
	level := int64(FeatureLevel)
	for _, p := range d.Peers() {
		level = min(level, p.FeatureLevel)
	}
	return level
}
