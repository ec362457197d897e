package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const identityFile = "cluster.json"

// identity is written when a cluster is made and never changes. Ready says that the making was finished.
type identity struct {
	ClusterID string `json:"cluster_id"`
	NodeID    string `json:"node_id"`
	Ready     bool   `json:"ready"`

	// Survivors are the nodes with which an operator began the history anew, until their records say so.
	Survivors []string `json:"survivors,omitempty"`
}

func readIdentity(dir string) (id identity, err error) {
	if err := readNote(dir, identityFile, &id); err != nil {
		return id, fmt.Errorf("read cluster identity: %w", err)
	}
	return id, nil
}

// readNote reads what a file of the log's folder holds as JSON; where there is no such file, into stays as it is.
func readNote(dir, name string, into any) error {
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

func (id identity) write(dir string) error {
	raw, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return writeAtomic(dir, identityFile, append(raw, '\n'))
}

func (id identity) check(c *Config) error {
	switch {
	case !id.Ready:
		return errNoCluster(c.Dir)
	case id.ClusterID != c.ClusterID:
		return errIdentity("cluster")
	case id.NodeID != c.NodeID:
		return errIdentity("node")
	}
	return nil
}

// ownIdentity is the identity in the folder, once it is finished and the configuration's.
func ownIdentity(c *Config) (identity, error) {
	id, err := readIdentity(c.Dir)
	if err != nil {
		return id, err
	}
	return id, id.check(c)
}

// Exists says whether dir holds a cluster that Open can open.
func Exists(dir string) (bool, error) {
	id, err := readIdentity(dir)
	return id.Ready, err
}
