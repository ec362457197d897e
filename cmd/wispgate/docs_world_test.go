package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"wispgate/edge/edgetest/peers"
)

// world is where one story happens: a folder, free ports, and the built binary on PATH.
type world struct {
	t    *testing.T
	dir  string
	swap *strings.Replacer
	env  []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("the documentation's commands run against real processes; not with -short")
	}
	for _, program := range []string{"bash", "curl", "openssl", "python3", "mosquitto"} {
		peers.NeedProgram(t, program)
	}
	dir := t.TempDir()
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"home", "etc", "etc/wispgate", "out"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	port := map[string]string{}
	for _, name := range []string{"AUTH", "ACCT", "API", "ADMIN", "RELAY", "MQTT", "RELAYADMIN", "HOOK"} {
		port[name] = strconv.Itoa(freePort(t))
	}
	w := &world{t: t, dir: dir, env: []string{
		"PATH=" + filepath.Dir(binary(t)) + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "HOME=" + filepath.Join(dir, "home"), "W=" + dir,
		"LANG=C.UTF-8", "TMPDIR=" + dir,
	}}
	for name, p := range port {
		w.env = append(w.env, "PORT_"+name+"="+p) // no name that a page uses
	}
	w.swap = strings.NewReplacer(
		"/var/lib/wispgate-relay", dir+"/noc", "/var/lib/wispgate", dir+"/tower", "/etc/wispgate", dir+"/etc/wispgate", "/etc/mosquitto", dir+"/etc/mosquitto", "docs/mosquitto", repo+"/docs/mosquitto",
		"https://localhost:8443", "https://127.0.0.1:"+port["API"], "https://tower7.example.net:8443", "https://127.0.0.1:"+port["API"],
		"https://noc.example.net:8444", "https://127.0.0.1:"+port["RELAY"], "mqtts://noc.example.net:8883", "mqtts://127.0.0.1:"+port["MQTT"],
		"127.0.0.1:9843", "127.0.0.1:"+port["ADMIN"], "10.20.0.0/16", "127.0.0.0/8", "http://10.20.0.5:8080", "http://127.0.0.1:"+port["HOOK"],
		`("", 8080)`, `("127.0.0.1", `+port["HOOK"]+`)`, "radius test ann ", "radius test ann --server 127.0.0.1:"+port["AUTH"]+" ",
	)
	return w
}

// prelude stands for systemd, and says where a story is.
const prelude = `set -euo pipefail
umask 077
cd "$W/home"
pids=()
trap 'kill "${pids[@]}" $(jobs -p) 2>/dev/null || true; wait || true' EXIT
at() { printf '%s' "$2" >"$W/at"; n=$1; }

# unit NAME starts a daemon anew and waits until it is ready.
unit() {
	local admin config="$W/etc/wispgate/$1.yaml" verb=serve
	if [ "$1" = mosquitto ]; then
		sed -i "s#/etc/mosquitto#$W/etc/mosquitto#; s/^listener 8883/listener $PORT_MQTT 127.0.0.1/" "$W/etc/mosquitto/conf.d/wispgate.conf"
		echo "user $(id -un)" >>"$W/etc/mosquitto/conf.d/wispgate.conf"
		mosquitto -c "$W/etc/mosquitto/conf.d/wispgate.conf" >>"$W/mosquitto.log" 2>&1 &
		pids+=($!)
		return
	fi
	[ "$1" = wispgate ] && admin=$PORT_ADMIN || { admin=$PORT_RELAYADMIN; verb=relay; }
	[ -e "$config" ] || config=
	if [ -s "$W/$1.pid" ]; then
		kill "$(cat "$W/$1.pid")"
		wait "$(cat "$W/$1.pid")" || true
	fi
	WISPGATE_NODE__DATA_DIR=$W/tower WISPGATE_RELAY__DATA_DIR=$W/noc WISPGATE_API__ADMIN_LISTEN=127.0.0.1:$admin \
		WISPGATE_RADIUS__AUTH_LISTEN=127.0.0.1:$PORT_AUTH WISPGATE_RADIUS__ACCT_LISTEN=127.0.0.1:$PORT_ACCT WISPGATE_API__LISTEN=127.0.0.1:$PORT_API \
		WISPGATE_RELAY__LISTEN=127.0.0.1:$PORT_RELAY WISPGATE_RELAY__MQTT_LISTEN=127.0.0.1:$PORT_MQTT WISPGATE_CONFIG=$config \
		wispgate $verb >>"$W/$1.log" 2>&1 &
	echo $! >"$W/$1.pid"
	pids+=($!)
	local end=$((SECONDS + 15))
	until curl -sf "http://127.0.0.1:$admin/readyz" >/dev/null; do
		kill -0 "$(cat "$W/$1.pid")" && [ $SECONDS -lt $end ] || { cat "$W/$1.log"; return 1; }
	done
}

# within SECONDS BLOCK EXPRESSION... asks until the output matches every expression.
within() {
	local end=$((SECONDS + $1)) block=$2 missing
	shift 2
	while :; do
		missing=
		$block >"$W/out/$n" 2>&1 || missing=1
		for re in "$@"; do grep -Eq -e "$re" "$W/out/$n" || missing=1; done
		[ -z "$missing" ] && return
		[ $SECONDS -ge $end ] && return 1
	done
}
`

var (
	unitLine  = regexp.MustCompile(`(?m)^sudo (?:systemctl (?:enable --now|restart) (\S+)|wispgate serve)$`)
	sudoWord  = regexp.MustCompile(`\bsudo `)
	shellSafe = strings.NewReplacer("'", `'\''`)
)

// script is the story as one shell script.
func (w *world) script(blocks []block) string {
	var b strings.Builder
	b.WriteString(prelude)
	for i := range blocks {
		code := unitLine.ReplaceAllStringFunc(blocks[i].code, func(line string) string {
			if m := unitLine.FindStringSubmatch(line); m[1] != "" {
				return "unit " + m[1]
			}
			return "unit wispgate"
		})
		code = w.swap.Replace(sudoWord.ReplaceAllString(code, ""))
		fmt.Fprintf(&b, "\nat %d '%s'\nblock_%d() {\n%s\n}\n", i, blocks[i].at(), i, code)
		if blocks[i].within == "" {
			fmt.Fprintf(&b, "block_%d >\"$W/out/%d\" 2>&1\n", i, i)
			continue
		}
		fmt.Fprintf(&b, "within %s block_%d", blocks[i].within, i)
		for _, re := range blocks[i].expect {
			fmt.Fprintf(&b, " '%s'", shellSafe.Replace(strings.TrimPrefix(re.String(), "(?m)")))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// tell runs the blocks in order in one shell, and compares what they print.
func (w *world) tell(blocks []block) error {
	path := filepath.Join(w.dir, "story.sh")
	if err := os.WriteFile(path, []byte(w.script(blocks)), 0o600); err != nil {
		return err
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(w.t.Context(), "bash", path)
	cmd.Env, cmd.Stdout, cmd.Stderr = w.env, &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Run(); err != nil {
		at, _ := os.ReadFile(filepath.Join(w.dir, "at"))
		for i := range blocks {
			if blocks[i].at() == string(at) {
				raw, _ := os.ReadFile(w.output(i))
				return fmt.Errorf("%s: %w\n%s\n%s%s", at, err, blocks[i].code, raw, out.String())
			}
		}
		return fmt.Errorf("%w\n%s", err, out.String())
	}
	for i := range blocks {
		raw, err := os.ReadFile(w.output(i))
		if err != nil {
			return err
		}
		for _, re := range blocks[i].expect {
			if !re.Match(raw) {
				return fmt.Errorf("%s: the output does not match %s\n%s\n%s", blocks[i].at(), re, blocks[i].code, raw)
			}
		}
	}
	return nil
}

func (w *world) output(i int) string { return filepath.Join(w.dir, "out", fmt.Sprint(i)) }

func (w *world) mustTell(blocks []block) {
	w.t.Helper()
	if err := w.tell(blocks); err != nil {
		for _, name := range []string{"wispgate.log", "wispgate-relay.log", "mosquitto.log"} {
			if raw, err := os.ReadFile(filepath.Join(w.dir, name)); err == nil {
				w.t.Logf("%s:\n%s", name, raw)
			}
		}
		w.t.Fatal(err)
	}
}
