package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"wispgate/edge"
	"wispgate/edge/config"
	"wispgate/edge/exec"
	"wispgate/edge/obs"
	"wispgate/edge/store"
	"wispgate/edge/vault"
	"wispgate/sync/cluster"
)

// ClusterMade is what "wispgate cluster init" made.
type ClusterMade struct {
	Cluster   string `json:"cluster"`
	Node      string `json:"node"`
	Listen    string `json:"listen"`
	Advertise string `json:"advertise"`
	CA        string `json:"ca_fingerprint"`
	DataDir   string `json:"data_dir"`
}

// ClusterPlace is where a node's cluster port is, as said on the command line; empty members are taken from the configuration.
type ClusterPlace struct{ Listen, Advertise string }

func (p ClusterPlace) over(c config.Cluster) (ClusterPlace, error) {
	p.Listen = orElse(orElse(p.Listen, c.Listen), clusterPort)
	var err error
	p.Advertise, err = advertised(p.Listen, orElse(p.Advertise, c.Advertise))
	return p, err
}

func errClusterExists(dir string) error {
	return &edge.Error{
		Kind: edge.Conflict, Code: "cluster_exists", Message: "The data folder " + dir + " already holds a node's data",
		Fix: "A node that runs is a cluster of one already: set cluster.listen and invite others. To begin anew, move the folder aside",
	}
}

// InitCluster names a new cluster and makes its first node in an empty data folder.
func InitCluster(cfg config.Config, name string, place ClusterPlace) (made ClusterMade, err error) {
	dir := cfg.Node.DataDir
	if place, err = place.over(cfg.Cluster); err != nil {
		return made, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return made, folderError(dir, err)
	}
	for _, held := range []string{"node.json", "state", "log"} {
		if _, err := os.Stat(filepath.Join(dir, held)); !errors.Is(err, fs.ErrNotExist) {
			return made, errors.Join(err, errClusterExists(dir))
		}
	}
	node := cfg.Node
	node.Cluster = orElse(name, node.Cluster)
	id, err := loadNodeID(dir, node)
	if err != nil {
		return made, err
	}
	id.Listen, id.Advertise = place.Listen, place.Advertise
	creds, err := cluster.MakeCredentials(credentialsDir(dir), id.Cluster, id.Node, time.Now())
	if err != nil {
		return made, err
	}
	made = ClusterMade{Cluster: id.Cluster, Node: id.Node, Listen: id.Listen, Advertise: id.Advertise, CA: creds.Authority(), DataDir: dir}
	return made, id.write(dir)
}

// write replaces node.json.
func (id nodeID) write(dir string) error {
	raw, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, "node.json"), raw, 0o600)
}

// ClusterJoined is what "wispgate cluster join" came to.
type ClusterJoined struct {
	Cluster   string       `json:"cluster"`
	Node      string       `json:"node"`
	Role      cluster.Role `json:"role"`
	Listen    string       `json:"listen"`
	Advertise string       `json:"advertise"`
	Members   int          `json:"members"`
}

// JoinCluster knocks at a cluster with a token and makes this data folder, which must hold nothing worth keeping, that of one of its nodes.
func JoinCluster(ctx context.Context, opts Options, token string, place ClusterPlace) (joined ClusterJoined, err error) {
	cfg := opts.Config
	dir := cfg.Node.DataDir
	if place, err = place.over(cfg.Cluster); err != nil {
		return joined, err
	}
	undo := beforeJoin(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return joined, folderError(dir, err)
	}
	if err := emptyForJoin(dir); err != nil {
		return joined, err
	}
	node := cfg.Node
	node.Cluster = "" // that of the token
	if err := forgetName(dir, node.ID); err != nil {
		return joined, err
	}
	id, err := loadNodeID(dir, node)
	if err != nil {
		return joined, err
	}
	v, err := vault.Open(filepath.Join(dir, "keys"))
	if err != nil {
		return joined, err
	}
	id.Listen, id.Advertise = place.Listen, place.Advertise
	ctx, cancel := context.WithTimeout(ctx, joinWithin)
	defer cancel()
	w, err := cluster.Joiner{
		Token: token, Node: id.Node, Site: id.Site, Advertise: id.Advertise, Version: opts.Version, Dir: logDir(dir),
		CredentialsDir: credentialsDir(dir), Vault: v, Now: time.Now,
	}.Join(ctx, func(w cluster.Welcome) error {
		if name := cfg.Node.Cluster; name != "" && name != w.Cluster {
			return &edge.Error{
				Kind: edge.Invalid, Code: "node_renamed", Message: "The token is of cluster " + w.Cluster + ", but node.cluster names " + name,
				Fix: "Take node.cluster out of the configuration, or set it to the cluster's name, and join again with the same token",
			}
		}
		id.Cluster, id.Incarnation = w.Cluster, w.Incarnation
		return errors.Join(keepSystemKey(dir, w.SystemKey), id.write(dir))
	})
	if err != nil {
		if w.Cluster == "" && !errors.Is(err, cluster.ErrUnanswered) { // nobody let it in
			err = errors.Join(err, undo())
		}
		return joined, err
	}
	return ClusterJoined{
		Cluster: w.Cluster, Node: id.Node, Role: w.Role, Listen: id.Listen, Advertise: id.Advertise, Members: len(w.Members),
	}, nil
}

// beforeJoin looks at a folder before an attempt to join. What it returns takes away what the attempt has made there, so that one that was
// refused leaves a folder in which any other beginning works.
func beforeJoin(dir string) (undo func() error) {
	var made []string
	for _, path := range []string{filepath.Join(dir, "node.json"), filepath.Join(dir, "keys"), credentialsDir(dir)} {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			made = append(made, path)
		}
	}
	_, err := os.Stat(dir)
	fresh := errors.Is(err, fs.ErrNotExist)
	return func() (err error) {
		for _, path := range made {
			err = errors.Join(err, os.RemoveAll(path))
		}
		if fresh {
			_ = os.Remove(dir) // unless something else is in it now
		}
		return err
	}
}

// forgetName frees a folder that holds nothing worth keeping of the name that an attempt to join, or a node that nobody has claimed, left in it,
// where the configuration names another now: as when the name was taken in the cluster.
func forgetName(dir, name string) error {
	raw, err := os.ReadFile(filepath.Join(dir, "node.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var id nodeID
	if err == nil {
		err = json.Unmarshal(raw, &id)
	}
	if err != nil {
		return fmt.Errorf("read the name in the folder: %w", err)
	}
	if name == "" || name == id.Node {
		return nil
	}
	return errors.Join(os.RemoveAll(credentialsDir(dir)), os.Remove(filepath.Join(dir, "node.json")))
}

// emptyForJoin refuses a folder with anything worth keeping, and clears what a node that nobody claimed has left there.
func emptyForJoin(dir string) error {
	begun, err := cluster.Exists(logDir(dir))
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "state")); begun || !errors.Is(err, fs.ErrNotExist) { // a log that is lost leaves the state
		if err := unclaimed(dir, begun); err != nil {
			return err
		}
	}
	for _, name := range []string{"state", "log", "claim.json", "claim-code"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("clear the folder of an unclaimed node: %w", err)
		}
	}
	return nil
}

// unclaimed proves that a node was started and never claimed: its code is still there, where its log has begun, and its state holds no tenant. Opening
// the store also proves that it does not run.
func unclaimed(dir string, begun bool) error {
	st, err := store.Open(store.Options{Dir: filepath.Join(dir, "state"), BallastBytes: -1})
	if err != nil {
		return err
	}
	sn := st.Snapshot()
	tenants := 0
	err = sn.Scan([]byte(store.Replicated+edge.TablePrefix(edge.System, "identity.tenant")), nil, func(_, _ []byte) (bool, error) {
		tenants++
		return false, nil
	})
	sn.Close()
	if err = errors.Join(err, st.Close()); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "claim.json")); begun && err != nil || tenants > 0 {
		return errClusterExists(dir)
	}
	return nil
}

// ClusterRecovered is what "wispgate cluster recover" did or, with a dry run, would do.
type ClusterRecovered struct {
	Cluster     string `json:"cluster"`
	Node        string `json:"node"`
	Incarnation string `json:"incarnation,omitempty"`
	Was         string `json:"was"`
	cluster.Standing
}

// RecoverCluster makes the node of a data folder, which must not run, the only one of its cluster and begins a new incarnation of it. A dry
// run only says how far the node's log goes.
func RecoverCluster(cfg config.Config, log io.Writer, dryRun bool) (done ClusterRecovered, err error) {
	dir := cfg.Node.DataDir
	if _, err := os.Stat(filepath.Join(dir, "node.json")); err != nil {
		return done, &edge.Error{Kind: edge.NotFound, Code: "data_dir", Message: "There is no node in the data folder " + dir, Fix: "Name its configuration with --config"}
	}
	id, err := loadNodeID(dir, cfg.Node)
	if err != nil {
		return done, err
	}
	logger, _, err := obs.NewLogger(log, obs.LogOptions{Level: "warn"})
	if err != nil {
		return done, err
	}
	st, err := store.Open(store.Options{Dir: filepath.Join(dir, "state"), Logger: logger, BallastBytes: -1})
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	m, err := exec.NewMachine(st, exec.MachineOptions{Logger: logger})
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	conf := cluster.Config{Dir: logDir(dir), NodeID: id.Node, ClusterID: id.Cluster, Incarnation: id.Incarnation, Logger: logger}
	if keys := credentialsDir(dir); cluster.CredentialsExist(keys) { // a node that never had a port makes them when it gets one
		if conf.Credentials, err = cluster.LoadCredentials(keys, id.Cluster, id.Node); err != nil {
			return done, err
		}
	}
	done = ClusterRecovered{Cluster: id.Cluster, Node: id.Node, Was: id.Incarnation}
	if done.Standing, err = cluster.Stands(conf, m); err != nil || dryRun {
		return done, err
	}
	id.Former = append(id.Former, id.Incarnation)
	id.Incarnation = shortRandom()
	done.Incarnation = id.Incarnation
	if err := id.write(dir); err != nil { // first: a new history under the old name would mean two things
		return done, err
	}
	done.Standing, err = cluster.Recover(conf, m)
	return done, err
}
