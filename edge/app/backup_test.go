package app

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/backup"
	"wispgate/edge/config"
	"wispgate/edge/edgetest"
	"wispgate/sync/cluster"
)

const testPassphrase = edge.Secret("four words and a horse")

func errCode(err error) string {
	if err == nil {
		return "ok"
	}
	e, ok := edge.AsError(err)
	if !ok || e.Fix == "" {
		return "not for people: " + err.Error()
	}
	return e.Code
}

func backupOptions(dir, out string) BackupOptions {
	return BackupOptions{Config: testConfig(dir), Version: "1.2.3", Out: out, Locks: BackupLocks{Passphrase: testPassphrase}, Log: io.Discard}
}

func mustBackup(t *testing.T, o BackupOptions) BackupFile {
	t.Helper()
	got, err := MakeBackup(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// newHome is the configuration of a node that has no name yet.
func newHome(dir string) config.Config {
	cfg := testConfig(dir)
	cfg.Node.ID = ""
	return cfg
}

func mustRestore(t *testing.T, o RestoreOptions) Restored {
	t.Helper()
	o.Log = io.Discard
	got, err := RestoreBackup(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func (r *running) checksum() (uint64, string) {
	r.t.Helper()
	version, sum, err := r.machine.Checksum()
	if err != nil {
		r.t.Fatal(err)
	}
	return version, hex.EncodeToString(sum[:])
}

func TestABackupMovesToANewNodeWithItsSecrets(t *testing.T) {
	t.Parallel()
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "night.wgb")
	n := startNode(t, dir, nil)
	n.claim("acme")
	seedRADIUS(n, time.Time{})
	key := n.key
	online := mustBackup(t, backupOptions(dir, file))
	n.call(201, "POST", "/api/v1/crm/customers", map[string]any{"kind": "person", "name": "After the backup"})
	n.stopNode()
	if info, err := os.Stat(file); err != nil || info.Size() != online.Bytes || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v %v, said %d octets", info, err, online.Bytes)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".*")); len(left) > 0 {
		t.Errorf("temporary files are left: %v", left)
	}

	home := filepath.Join(t.TempDir(), "not yet there")
	got := mustRestore(t, RestoreOptions{Config: newHome(home), File: file, Openers: BackupOpeners{Passphrase: testPassphrase}, Node: "tower8"})
	if got.Checksum != online.Checksum || got.Backup.Version != online.Version || got.Node != "tower8" || got.Cluster != "tower7" || got.Incarnation == online.Incarnation {
		t.Errorf("restored %+v of %+v", got, online.Manifest)
	}
	entries, err := os.ReadDir(home)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"keys", "log", "node.json", "state"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("the folder holds %v (%v), want %v", names, err, want)
	}
	n = startNode(t, home, func(c *config.Config) { c.Node.ID, c.Node.Cluster = "tower8", "tower7" })
	n.key = key
	if got := n.radiusAnswer("ann", "secret of ann"); got != "accept" {
		t.Errorf("the login is answered %s: its secrets, or the router's, do not open", got)
	}
	if got := n.radiusAnswer("ann", "another password"); got != "reject" {
		t.Errorf("a wrong password is answered %s", got)
	}
	customers, _ := n.call(200, "GET", "/api/v1/crm/customers", nil)["data"].([]any)
	if len(customers) != 1 {
		t.Errorf("%d customers are there; one was in the backup", len(customers))
	}
	n.call(201, "POST", "/api/v1/crm/customers", map[string]any{"kind": "person", "name": "After the restore"})
	version, sum := n.checksum()
	n.stopNode()
	n = startNode(t, home, func(c *config.Config) { c.Node.ID = "tower8" })
	if v, again := n.checksum(); v < version || v == version && again != sum {
		t.Errorf("after a restart: version %d %s, before it %d %s", v, again, version, sum)
	}
}

func TestAStoppedNodesFolderIsBackedUpToTheEndOfItsLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n := startNode(t, dir, nil)
	n.claim("acme")
	n.call(201, "POST", "/api/v1/crm/customers", map[string]any{"kind": "person", "name": "Ann Example"})
	dead := t.TempDir() // what a power cut leaves: the newest second is in the log only
	for _, part := range []string{"node.json", "keys", "state", "log"} {
		copyFiles(t, filepath.Join(dir, part), filepath.Join(dead, part))
	}
	version, sum := n.checksum()
	n.stopNode()
	for name, folder := range map[string]string{"stopped": dir, "killed": dead} {
		out := filepath.Join(t.TempDir(), "b.wgb")
		got := mustBackup(t, backupOptions(folder, out))
		if got.Version < version || got.Version == version && got.Checksum != sum {
			t.Errorf("%s: version %d %s, want %d %s", name, got.Version, got.Checksum, version, sum)
		}
		if again, err := VerifyBackup(out, BackupOpeners{Passphrase: testPassphrase}, nil); err != nil || again.Checksum != got.Checksum {
			t.Errorf("%s: verify: %v %v", name, again, err)
		}
	}
	if _, err := MakeBackup(t.Context(), backupOptions(t.TempDir(), filepath.Join(t.TempDir(), "x"))); errCode(err) != "data_dir" {
		t.Errorf("of a folder without a node: got %s", errCode(err))
	}
}

func copyFiles(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		at := to + strings.TrimPrefix(path, from)
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return os.MkdirAll(at, 0o700)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(at, raw, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// payloadOf opens a backup as far as its encryption.
func payloadOf(t *testing.T, file string) []byte {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r, err := backup.NewReader(bytes.NewReader(raw), backup.Openers{Passphrase: testPassphrase})
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

func TestABackupHoldsNoKeyOfTheNode(t *testing.T) {
	t.Parallel()
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "b.wgb")
	n := startNode(t, dir, nil)
	n.claim("acme")
	seedRADIUS(n, time.Time{})
	mustBackup(t, backupOptions(dir, file))
	n.stopNode()
	locked, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	plain := payloadOf(t, file)
	if !bytes.Contains(plain, []byte("Ann Example")) {
		t.Fatal("the state is not in the payload, so this test proves nothing")
	}
	if bytes.Contains(locked, []byte("Ann Example")) || bytes.Contains(locked, []byte("tower7")) {
		t.Error("the state can be read in the file")
	}
	looked := 0
	for _, folder := range []string{"keys", "tls"} {
		err := filepath.WalkDir(filepath.Join(dir, folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, ".crt") {
				return err
			}
			secret, err := os.ReadFile(path)
			for _, form := range [][]byte{secret, []byte(hex.EncodeToString(secret))} {
				if bytes.Contains(plain, form) {
					t.Errorf("%s is in the backup", path)
				}
			}
			looked++
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if looked < 3 {
		t.Errorf("only %d key files were looked for", looked)
	}
	for _, secret := range []string{"secret of ann", "router secret", n.key} {
		if bytes.Contains(plain, []byte(secret)) {
			t.Errorf("%q is in the backup in the clear", secret)
		}
	}
}

func TestAPrivateKeyOpensWhatTheNodeCouldNot(t *testing.T) {
	t.Parallel()
	dir, work := t.TempDir(), t.TempDir()
	n := startNode(t, dir, nil)
	n.claim("acme")
	pair, err := NewBackupKey(filepath.Join(work, "noc.key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewBackupKey(filepath.Join(work, "noc.key")); errCode(err) != "backup_key_exists" {
		t.Errorf("a key file is replaced: %s", errCode(err))
	}
	text, err := os.ReadFile(pair.PrivateFile)
	if err != nil {
		t.Fatal(err)
	}
	o := backupOptions(dir, filepath.Join(work, "b.wgb"))
	o.Locks = BackupLocks{Recipients: []string{pair.PublicKey}}
	made := mustBackup(t, o)
	if got, err := VerifyBackup(o.Out, BackupOpeners{PrivateKey: edge.Secret(text)}, nil); err != nil || got.Checksum != made.Checksum {
		t.Error(got, err)
	}
	if got, err := ShowBackup(o.Out, BackupOpeners{PrivateKey: edge.Secret(text)}); err != nil || got.Version != made.Version || got.Locks[0].Key != pair.PublicKey {
		t.Error(got, err)
	}
	o.Locks.Recipients = []string{pair.PublicKey[:len(pair.PublicKey)-1] + "x"}
	if _, err := MakeBackup(t.Context(), o); errCode(err) != "backup_key_invalid" {
		t.Errorf("a mistyped public key: got %s", errCode(err))
	}
	o.Locks = BackupLocks{}
	if _, err := MakeBackup(t.Context(), o); errCode(err) != "backup_key_missing" {
		t.Errorf("no lock at all: got %s", errCode(err))
	}
	o = backupOptions(dir, filepath.Join(work, "nowhere", "b.wgb"))
	if _, err := MakeBackup(t.Context(), o); errCode(err) != "backup_place" {
		t.Errorf("a folder that does not exist: got %s", errCode(err))
	}
}

func TestARestoreRefusesAndLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	dir, work := t.TempDir(), t.TempDir()
	n := startNode(t, dir, nil)
	n.claim("acme")
	good := filepath.Join(work, "good.wgb")
	mustBackup(t, backupOptions(dir, good))
	again := backupOptions(dir, good)
	if _, err := MakeBackup(t.Context(), again); errCode(err) != "file_exists" {
		t.Errorf("a backup over another: got %v", err)
	}
	again.Force = true
	mustBackup(t, again)
	n.stopNode()
	raw, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, change func(b []byte) []byte) string {
		path := filepath.Join(work, name)
		if err := os.WriteFile(path, change(bytes.Clone(raw)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	right := BackupOpeners{Passphrase: testPassphrase}
	for name, tc := range map[string]struct {
		o    RestoreOptions
		want string
	}{
		"no such file":     {RestoreOptions{File: filepath.Join(work, "none"), Openers: right}, "backup_unreadable"},
		"wrong passphrase": {RestoreOptions{File: good, Openers: BackupOpeners{Passphrase: "something else"}}, "backup_passphrase_wrong"},
		"no passphrase":    {RestoreOptions{File: good}, "backup_locked"},
		"cut off":          {RestoreOptions{File: file("cut", func(b []byte) []byte { return b[:len(b)-100] }), Openers: right}, "backup_truncated"},
		"a flipped bit":    {RestoreOptions{File: file("bit", func(b []byte) []byte { b[2000] ^= 4; return b }), Openers: right}, "backup_truncated"},
		"a flipped lock":   {RestoreOptions{File: file("lock", func(b []byte) []byte { b[60] ^= 4; return b }), Openers: right}, "backup_damaged"},
		"newer":            {RestoreOptions{File: file("new", func(b []byte) []byte { return bytes.Replace(b, []byte("backup 1\n"), []byte("backup 9\n"), 1) }), Openers: right}, "backup_newer"},
		"something else":   {RestoreOptions{File: file("tar", func([]byte) []byte { return []byte("ustar") }), Openers: right}, "backup_foreign"},
		"the same name":    {RestoreOptions{File: good, Openers: right, Node: "tower7"}, "restore_same_node"},
		"two names":        {RestoreOptions{File: good, Openers: right, Node: "tower9", SameNode: true}, "restore_node"},
		"a bad name":       {RestoreOptions{File: good, Openers: right, Node: "Tower 9"}, "config_invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home := t.TempDir()
			tc.o.Config, tc.o.Log = newHome(home), io.Discard
			_, err := RestoreBackup(context.Background(), tc.o)
			if errCode(err) != tc.want {
				t.Errorf("got %s (%v), want %s", errCode(err), err, tc.want)
			}
			if left, err := os.ReadDir(home); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
			home = filepath.Join(home, "new")
			tc.o.Config = newHome(home)
			if _, err := RestoreBackup(context.Background(), tc.o); err == nil {
				t.Error("it works in a folder that is made")
			}
			if _, err := os.Stat(home); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the folder that was made is left: %v", err)
			}
		})
	}
	t.Run("a folder in use", func(t *testing.T) {
		before, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		_, err = RestoreBackup(context.Background(), RestoreOptions{Config: newHome(dir), File: good, Openers: right, Log: io.Discard})
		if after, _ := os.ReadDir(dir); errCode(err) != "restore_not_empty" || len(before) != len(after) {
			t.Errorf("got %s; %d entries before, %d after", errCode(err), len(before), len(after))
		}
	})
	t.Run("cut off by a power cut", func(t *testing.T) {
		home := t.TempDir()
		if err := os.Mkdir(filepath.Join(home, restoring), 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := OpenNode(context.Background(), Options{Config: testConfig(home), Log: io.Discard, Out: io.Discard})
		if errCode(err) != "restore_unfinished" {
			t.Errorf("a node starts over half a restore: %s", errCode(err))
		}
	})
}

func (r *running) pay(customer string) (number float64, node string) {
	r.t.Helper()
	p := r.call(201, "POST", "/api/v1/billing/payments", map[string]any{
		"customer_id": customer, "method": "cash", "amount": map[string]any{"amount_minor": 500, "currency": "USD"},
	}, "Idempotency-Key", "payment-"+shortRandom())
	link, _ := p["receipt"].(map[string]any)["link"].(map[string]any)
	number, _ = link["number"].(float64)
	node, _ = link["node"].(string)
	return number, node
}

// startPaid starts a node with a customer who has paid once.
func startPaid(t *testing.T, dir string) (n *running, customer string) {
	t.Helper()
	n = startNode(t, dir, nil)
	n.claim("acme")
	customer, _ = n.call(201, "POST", "/api/v1/crm/customers", map[string]any{"kind": "person", "name": "Ann Example"})["id"].(string)
	n.pay(customer)
	return n, customer
}

func TestNumbersOfTheOldNodeAreNeverGivenAgain(t *testing.T) {
	t.Parallel()
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "b.wgb")
	n, customer := startPaid(t, dir)
	last, _ := n.pay(customer)
	key := n.key
	made := mustBackup(t, backupOptions(dir, file))
	if len(made.Series) != 1 || made.Series[0].Number != uint64(last) || made.AuditKey == "" {
		t.Errorf("the manifest says %+v of the node's series, key %q; the last number is %v", made.Series, made.AuditKey, last)
	}
	n.pay(customer) // after the backup
	n.stopNode()
	for name, tc := range map[string]struct {
		o          RestoreOptions
		node       string
		from, upto float64
	}{
		"another name":  {RestoreOptions{Node: "tower8"}, "tower8", 1, 1},
		"the same name": {RestoreOptions{SameNode: true}, "tower7", last + seriesGap + 1, last + seriesGap + 3600},
	} {
		home := filepath.Join(t.TempDir(), "home")
		tc.o.Config, tc.o.File, tc.o.Openers = newHome(home), file, BackupOpeners{Passphrase: testPassphrase}
		mustRestore(t, tc.o)
		n := startNode(t, home, func(c *config.Config) { c.Node.ID = "" })
		n.key = key
		if number, node := n.pay(customer); number < tc.from || number > tc.upto || node != tc.node {
			t.Errorf("%s: receipt %v of %s, want %v of %s", name, number, node, tc.from, tc.node)
		}
		n.stopNode()
	}
}

// A node that was restored under its name goes on, is lost as well, and is restored from the same backup once more.
func TestNumbersOfARestoredNodeAreNotGivenAgainByTheNextRestore(t *testing.T) {
	t.Parallel()
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "b.wgb")
	n, customer := startPaid(t, dir)
	key := n.key
	made := mustBackup(t, backupOptions(dir, file))
	n.stopNode()
	given := map[float64]bool{}
	for range 2 {
		home := filepath.Join(t.TempDir(), "home")
		mustRestore(t, RestoreOptions{SameNode: true, Config: newHome(home), File: file, Openers: BackupOpeners{Passphrase: testPassphrase}})
		most := seriesGapAt(made.MadeAt, time.Now()) // of this restore
		n := startNode(t, home, func(c *config.Config) { c.Node.ID = "" })
		n.key = key
		number, _ := n.pay(customer)
		if given[number] {
			t.Errorf("receipt %v was given twice", number)
		}
		given[number] = true
		n.stopNode()
		edgetest.Eventually(t, func() bool { return seriesGapAt(made.MadeAt, time.Now()) > most }, // nobody restores twice in a second
			func() string { return "the clock stands still" })
	}
}

// members are the nodes of the cluster as its records say.
func (r *running) members() map[string]string {
	r.t.Helper()
	st := r.machine.Snapshot()
	defer st.Close()
	out := map[string]string{}
	err := st.Scan(cluster.PeerPrefix(), "", func(_ string, val []byte) (bool, error) {
		var p cluster.Peer
		err := json.Unmarshal(val, &p)
		out[p.Node] = string(p.Status)
		return err == nil, err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// eventually asks until ok, at most half a minute.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
		<-tick.C
	}
}

func TestARestoredNodeIsTheOnlyMemberOfItsCluster(t *testing.T) {
	t.Parallel()
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "b.wgb")
	listen := func(c *config.Config) { c.Node.ID, c.Cluster.Listen = "", freeAddr(t, "tcp") }
	n := startNode(t, dir, func(c *config.Config) { listen(c); c.Node.ID = "tower7" })
	n.claim("acme")
	eventually(t, "the node is recorded", func() bool { return n.members()["tower7"] == "member" })
	mustBackup(t, backupOptions(dir, file))
	n.stopNode()
	for name, tc := range map[string]struct {
		o    RestoreOptions
		want map[string]string
	}{
		"another name":  {RestoreOptions{Node: "tower8"}, map[string]string{"tower7": "removed", "tower8": "member"}},
		"the same name": {RestoreOptions{SameNode: true}, map[string]string{"tower7": "member"}},
	} {
		home := filepath.Join(t.TempDir(), "home")
		tc.o.Config, tc.o.File, tc.o.Openers = newHome(home), file, BackupOpeners{Passphrase: testPassphrase}
		mustRestore(t, tc.o)
		n := startNode(t, home, listen)
		eventually(t, name+": the node is recorded", func() bool { return maps.Equal(n.members(), tc.want) })
		eventually(t, name+": its record says who it is", func() bool {
			p, ok := n.core.members.Peer(n.id.Node)
			return ok && p.Fingerprint != "" && p.VaultKey == base64.StdEncoding.EncodeToString(n.vault.PublicKey())
		})
		n.stopNode()
	}
}

// TestARestoreTakesNoNameOfTheOldCluster holds that nobody numbers receipts under a name that another node has used, not because the
// configuration of the machine says so either. A story in cmd/wispgate tries the name of a node that is a member still.
func TestARestoreTakesNoNameOfTheOldCluster(t *testing.T) {
	t.Parallel()
	dir, file, right := t.TempDir(), filepath.Join(t.TempDir(), "b.wgb"), BackupOpeners{Passphrase: testPassphrase}
	listen := func(c *config.Config) { c.Node.ID, c.Cluster.Listen = "", freeAddr(t, "tcp") }
	n := startNode(t, dir, func(c *config.Config) { listen(c); c.Node.ID = "tower7" })
	n.claim("acme")
	eventually(t, "the node is recorded", func() bool { return n.members()["tower7"] == "member" })
	mustBackup(t, backupOptions(dir, file))
	n.stopNode()
	dir = filepath.Join(t.TempDir(), "home")
	mustRestore(t, RestoreOptions{Config: newHome(dir), Node: "tower8", File: file, Openers: right})
	n = startNode(t, dir, listen)
	eventually(t, "the new node is recorded", func() bool { return n.members()["tower8"] == "member" })
	file += "2"
	mustBackup(t, backupOptions(dir, file))
	n.stopNode()
	for name, o := range map[string]RestoreOptions{"said": {Node: "tower7"}, "configured": {}} {
		home := filepath.Join(t.TempDir(), "home")
		o.Config, o.File, o.Openers, o.Log = testConfig(home), file, right, io.Discard
		if o.Config.Node.ID != "tower7" {
			t.Fatalf("the configuration names %s", o.Config.Node.ID)
		}
		_, err := RestoreBackup(t.Context(), o)
		if e, _ := edge.AsError(err); errCode(err) != "restore_name_taken" || !strings.HasSuffix(e.Fix, "taken are tower7, tower8") || strings.Contains(e.Fix, "node.id") != (name == "configured") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(home); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the folder that was made is left: %v", name, err)
		}
	}
}

// The configuration checks public keys without asking edge/backup, which its room may not.
func TestTheConfigurationKnowsBackupKeys(t *testing.T) {
	t.Parallel()
	pair, err := NewBackupKey(filepath.Join(t.TempDir(), "k"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t.TempDir())
	cfg.Backup.Recipients = []string{pair.PublicKey}
	if err := cfg.Check(); err != nil {
		t.Errorf("a right key is refused: %v", err)
	}
	cfg.Backup.Recipients = []string{strings.Replace(pair.PublicKey, pair.PublicKey[20:21], "_", 1)}
	if err := cfg.Check(); err == nil && cfg.Backup.Recipients[0] != pair.PublicKey {
		t.Error("a mistyped key passes")
	}
	cfg.Backup.Recipients, cfg.Backup.Passphrase = nil, "11 letters."
	if _, err := backup.NewWriter(io.Discard, backup.NewFileKey(), backup.Keys{Passphrase: cfg.Backup.Passphrase}); (err == nil) != (cfg.Check() == nil) {
		t.Errorf("passphrases: the format says %v, the configuration %v", err, cfg.Check())
	}
}
