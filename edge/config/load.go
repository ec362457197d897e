package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"wispgate/edge"
)

const (
	envPrefix     = "WISPGATE_"
	maxFileBytes  = 64 << 10
	maxSecretFile = 64 << 10
)

// Origin says where a value came from.
type Origin struct {
	Source string // file, env or default
	Name   string // the file's path or the variable's name
	Line   int    // in the file, from 1
}

// String is what config show prints: wispgate.yaml:12, env WISPGATE_API__LISTEN, default.
func (o Origin) String() string {
	switch o.Source {
	case "file":
		return fmt.Sprintf("%s:%d", o.Name, o.Line)
	case "env":
		return "env " + o.Name
	}
	return "default"
}

// Origins tells, per key path such as radius.auth_listen, where its value came from.
type Origins map[string]Origin

// Default is the configuration that holds when nothing is said.
func Default() Config {
	var c Config
	for _, k := range keys(reflect.ValueOf(&c).Elem(), "") {
		if d, ok := k.field.Tag.Lookup("default"); ok {
			if err := setText(k.value, d); err != nil {
				panic("config: default of " + k.path + " " + err.Error()) // the first test shows it
			}
		} else if k.value.Type() == listType {
			k.value.Set(reflect.ValueOf([]string{}))
		}
	}
	return c
}

// Load reads the file, if path is not empty, then what environ (as from os.Environ) overrides, then secrets from their
// files, and checks the whole. The error is an *edge.Error of kind invalid that lists every finding.
func Load(path string, environ []string) (Config, Origins, error) {
	c := Default()
	l := &loader{config: reflect.ValueOf(&c).Elem(), file: path, origins: Origins{}, secretFiles: map[string]string{}}
	for _, k := range keys(l.config, "") {
		l.origins[k.path] = Origin{Source: "default"}
	}
	if path != "" {
		src, err := readBounded(path, maxFileBytes)
		if err != nil {
			return Config{}, nil, &edge.Error{
				Kind: edge.Invalid, Code: "config_unreadable", Message: "the configuration file " + path + " cannot be read: " + cause(err),
				Fix: "check the path and the file's permissions",
			}
		}
		l.yaml(src)
	}
	l.environ(environ)
	l.secrets()
	l.findings = append(l.findings, check(c)...)
	if len(l.findings) > 0 {
		return Config{}, nil, l.error()
	}
	return c, l.origins, nil
}

// loader gathers values and findings.
type loader struct {
	config      reflect.Value
	file        string
	origins     Origins
	secretFiles map[string]string // key path → file that holds the secret
	findings    []finding
}

// finding is one thing that is wrong. It never holds a value.
type finding struct {
	path, reason, limit, fix string
	at                       Origin
}

func (l *loader) find(path, reason, fix string, at Origin) {
	l.findings = append(l.findings, finding{path: path, reason: reason, fix: fix, at: at})
}

func (l *loader) error() *edge.Error {
	e := &edge.Error{
		Kind: edge.Invalid, Code: "config_invalid", Message: "the configuration is not valid",
		Fix: "correct the keys named; wispgate config schema describes all of them",
	}
	slices.SortStableFunc(l.findings, func(a, b finding) int { return l.origin(a).Line - l.origin(b).Line })
	for _, f := range l.findings {
		at := l.origin(f)
		field := edge.FieldError{In: "config", Pointer: f.path, Reason: f.reason, Limit: f.limit, Fix: f.fix}
		if at.Source != "default" {
			field.In, field.Reason = at.String(), "("+at.String()+") "+f.reason
		}
		e.Fields = append(e.Fields, field)
	}
	return e
}

// origin is where a finding belongs: its own place, else that of its key.
func (l *loader) origin(f finding) Origin {
	if f.at.Source != "" {
		return f.at
	}
	if o, ok := l.origins[f.path]; ok {
		return o
	}
	return Origin{Source: "default"}
}

// environ applies variables such as WISPGATE_RADIUS__AUTH_LISTEN. Those without a double underscore are not ours.
func (l *loader) environ(environ []string) {
	environ = slices.Sorted(slices.Values(environ))
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		rest, ok := strings.CutPrefix(name, envPrefix)
		if !ok || !strings.Contains(rest, "__") {
			continue
		}
		path := strings.ToLower(strings.ReplaceAll(rest, "__", "."))
		at := Origin{Source: "env", Name: name}
		k, isFile, ok := l.lookup(path)
		if !ok {
			l.find(path, "is not a configuration key"+l.suggest(path), "", at)
			continue
		}
		if isFile {
			l.secretFiles[k.path] = value
			l.origins[k.path] = at
			k.value.SetString("") // the variable replaces what the file said
			continue
		}
		if err := setText(k.value, value); err != nil {
			l.find(path, err.Error(), "", at)
			continue
		}
		delete(l.secretFiles, k.path)
		l.origins[k.path] = at
	}
}

// lookup finds a key by its path; isFile says that the path names the file of a secret.
func (l *loader) lookup(path string) (k key, isFile, ok bool) {
	secret, isFile := strings.CutSuffix(path, "_file")
	for _, k := range keys(l.config, "") {
		if k.path == path {
			return k, false, true
		}
		if isFile && k.path == secret && k.value.Type() == secretType {
			return k, true, true
		}
	}
	return key{}, false, false
}

// secrets reads the files that hold them.
func (l *loader) secrets() {
	for path, name := range l.secretFiles {
		k, _, _ := l.lookup(path)
		if k.value.String() != "" {
			l.find(path, "is given both directly and as a file", "keep one of them", Origin{})
			continue
		}
		secret, err := readSecret(name)
		if err != nil {
			l.find(path+"_file", err.Error(), "", l.origins[path])
			continue
		}
		k.value.SetString(secret)
	}
}

func readSecret(name string) (string, error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", errors.New("names a file that cannot be read: " + cause(err))
	}
	if info.Mode().Perm()&0o007 != 0 {
		return "", errors.New("names a file that everybody may read; run chmod 600 on it")
	}
	raw, err := readBounded(name, maxSecretFile)
	if err != nil {
		return "", errors.New("names a file that cannot be read: " + cause(err))
	}
	secret := strings.TrimRight(string(raw), "\r\n")
	if secret == "" || strings.ContainsAny(secret, "\x00\r\n") {
		return "", errors.New("names a file that does not hold one line of text")
	}
	return secret, nil
}

func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(filepath.Clean(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("larger than %d KB", limit>>10)
	}
	return raw, err
}

// cause is the system's words without operation and path.
func cause(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}
