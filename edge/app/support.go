package app

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"wispgate/edge"
	"wispgate/edge/config"
)

// SupportOptions says what a support bundle holds and where it goes.
type SupportOptions struct {
	Config  config.Config
	Origins config.Origins
	Version VersionInfo
	Out     string
	Preview bool
}

// SupportManifest lists what the archive holds. It never holds subscribers' data or secrets: settings are redacted by type, logs by key.
type SupportManifest struct {
	Archive string        `json:"archive,omitempty"`
	MadeAt  time.Time     `json:"made_at"`
	Version VersionInfo   `json:"version"`
	Files   []SupportFile `json:"data"`
}

// SupportFile is one file of the archive.
type SupportFile struct {
	Name    string `json:"name"`
	Bytes   int    `json:"bytes"`
	Problem string `json:"problem,omitempty"` // why it could not be collected
}

// supportPart is one thing to collect.
type supportPart struct {
	name    string
	collect func(ctx context.Context) ([]byte, error)
}

// SupportBundle collects from the daemon on this machine, through its admin listener, and from the configuration. What cannot be had is
// named with the reason; the rest is still collected.
func SupportBundle(ctx context.Context, o SupportOptions) (SupportManifest, error) {
	m := SupportManifest{MadeAt: time.Now().UTC().Truncate(time.Second), Version: o.Version}
	files := map[string][]byte{}
	for _, p := range o.parts() {
		raw, err := p.collect(ctx)
		f := SupportFile{Name: p.name, Bytes: len(raw)}
		if err != nil {
			f.Problem = err.Error()
		} else {
			files[p.name] = raw
		}
		m.Files = append(m.Files, f)
	}
	if o.Preview {
		return m, nil
	}
	if o.Out == "" {
		o.Out = "wispgate-support-" + m.MadeAt.Format("20060102T150405Z") + ".tar.gz"
	}
	manifest, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return m, err
	}
	files["manifest.json"] = manifest
	raw, err := archive(files, m.MadeAt)
	if err != nil {
		return m, err
	}
	m.Archive = o.Out
	return m, writeFile(o.Out, raw, 0o600)
}

func (o SupportOptions) parts() []supportPart {
	admin := func(path string) func(context.Context) ([]byte, error) {
		return func(ctx context.Context) ([]byte, error) { return fetchAdmin(ctx, o.Config.API.AdminListen, path) }
	}
	return []supportPart{
		{"config.txt", func(context.Context) ([]byte, error) {
			var b bytes.Buffer
			err := o.Config.Show(&b, o.Origins)
			return b.Bytes(), err
		}},
		{"version.json", func(context.Context) ([]byte, error) { return json.MarshalIndent(o.Version, "", "  ") }},
		{"data-dir.txt", func(context.Context) ([]byte, error) { return listFolder(o.Config.Node.DataDir) }},
		{"machine.txt", func(context.Context) ([]byte, error) { return machineFacts() }},
		{"doctor.json", func(ctx context.Context) ([]byte, error) {
			return json.MarshalIndent(Doctor(ctx, DoctorOptions{Config: o.Config, Log: io.Discard}), "", "  ")
		}},
		{"status.json", admin("/status")},
		{"readyz.txt", admin("/readyz?verbose=1")},
		{"metrics.txt", admin("/metrics")},
		{"log.txt", admin("/log")},
		{"goroutines.txt", admin("/debug/pprof/goroutine?debug=1")},
		{"heap.pprof", admin("/debug/pprof/heap")},
	}
}

const maxSupportFile = 32 << 20

func fetchAdmin(ctx context.Context, listen, path string) ([]byte, error) {
	if listen == "" {
		return nil, &edge.Error{Kind: edge.Unavailable, Code: "admin_off", Message: "the admin listener is off (api.admin_listen)"}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+listen+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the daemon does not answer at %s", listen)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the daemon answers %s", resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxSupportFile))
}

// listFolder lists names and sizes below a data folder, never contents.
func listFolder(dir string) ([]byte, error) {
	var b bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || b.Len() > 1<<20 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // it went away meanwhile
		}
		rel, err := filepath.Rel(dir, path)
		fmt.Fprintf(&b, "%s %12d %s\n", info.Mode(), info.Size(), rel)
		return err
	})
	return b.Bytes(), err
}

func machineFacts() ([]byte, error) {
	var b bytes.Buffer
	for _, path := range []string{"/proc/version", "/proc/meminfo", "/proc/loadavg", "/proc/mounts", "/proc/net/udp", "/proc/net/udp6"} {
		raw, err := os.ReadFile(path)
		if err != nil {
			raw = []byte(err.Error())
		}
		fmt.Fprintf(&b, "== %s\n%s\n", path, raw)
	}
	return b.Bytes(), nil
}

// archive makes the tar.gz: sorted names, one time.
func archive(files map[string][]byte, at time.Time) ([]byte, error) {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	tw := tar.NewWriter(zw)
	for _, name := range names {
		h := &tar.Header{Name: "wispgate-support/" + name, Mode: 0o600, Size: int64(len(files[name])), ModTime: at}
		if err := tw.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := tw.Write(files[name]); err != nil {
			return nil, err
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func median(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}
