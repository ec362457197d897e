package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"wispgate/edge/edgetest/peers"
)

// What scripts/vmcut sets: how many cuts each campaign has, an unpacked kernel package, and the folder in which disks and consoles are kept.
const (
	vmRounds = "WISPGATE_VM"
	vmKernel = "WISPGATE_VM_KERNEL"
	vmFolder = "WISPGATE_VM_DIR"
)

// guestNode is a node inside a virtual machine: on a disk of its own, with its API and RADIUS forwarded from loopback.
type guestNode struct {
	name, conf string
	image      string
	api        int
	auth, acct int
	client     *apiClient
}

// guest is a virtual machine whose power can be cut. Nothing is in it but a kernel, busybox and wispgate; what outlives a cut is on the disks.
type guest struct {
	t       *testing.T
	dir     string
	power   *peers.Power
	nodes   []*guestNode
	line    []string // how qemu is started
	mount   string   // the options of its disks, and whether its kernel is eager
	console string
	sockets string

	cmd     *exec.Cmd
	done    chan error
	shell   net.Conn
	heard   *bufio.Reader
	listens bool // its shell does
	asked   int
}

// router is what a guest takes its host for.
const router = "10.0.2.2"

// newGuest prepares a machine with n nodes and does not start it.
func newGuest(t *testing.T, n int, seed uint64, conf func(i int) string) *guest {
	t.Helper()
	if os.Getenv(vmRounds) == "" {
		t.Skip("cuts the power of virtual machines for minutes: scripts/vmcut runs it")
	}
	onBuilt(t)
	qemu, mkfs := peers.NeedProgram(t, "qemu-system-x86_64"), peers.NeedProgram(t, "mkfs.ext4")
	g := &guest{t: t, dir: t.TempDir(), sockets: t.TempDir(), power: peers.NewPower(seed)}
	if keep := os.Getenv(vmFolder); keep != "" {
		g.dir = filepath.Join(keep, t.Name())
		must(t, os.MkdirAll(g.dir, 0o700))
	}
	g.console = filepath.Join(g.dir, "console")
	kernel := g.kernel()
	ram := []file{{"init", g.testdata("init")}, {"bin/node", g.testdata("node")}}
	ram = append(ram, g.system(kernel)...)
	accel, cpu, cpus := "kvm", "host", "2"
	if !accelerated(t, qemu, kernel) {
		t.Log("without KVM: the machine is emulated, with one processor, because a second one stands still now and then")
		accel, cpu, cpus = "tcg", "max", "1"
	}
	g.line = []string{
		qemu, "-M", "q35", "-accel", accel, "-cpu", cpu, "-smp", cpus, "-m", fmt.Sprint(256 + 256*n), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", kernel, "-initrd", filepath.Join(g.dir, "initrd"),
		"-chardev", "file,id=console,append=on,path=" + g.console, "-serial", "chardev:console",
		"-chardev", "socket,id=shell,server=on,wait=off,path=" + filepath.Join(g.sockets, "shell"), "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=shell",
	}
	var forwards strings.Builder
	forwards.WriteString("user,id=net,ipv6=off")
	for i := range n {
		m := g.add(mkfs, conf(i))
		ram = append(ram, file{"nodes/" + m.name + ".yaml", []byte(m.conf)}, file{"nodes/" + m.name + ".disk", fmt.Appendf(nil, "vd%c\n", 'a'+i)})
		for _, port := range []string{fmt.Sprint("tcp ", m.api), fmt.Sprint("udp ", m.auth), fmt.Sprint("udp ", m.acct)} {
			kind, number, _ := strings.Cut(port, " ")
			fmt.Fprintf(&forwards, ",hostfwd=%s:127.0.0.1:%s-:%s", kind, number, number)
		}
	}
	g.line = append(g.line, "-netdev", forwards.String(), "-device", "virtio-net-pci,netdev=net,romfile=")
	must(t, os.WriteFile(filepath.Join(g.dir, "initrd"), archive(ram), 0o600))
	t.Cleanup(func() {
		if g.cmd != nil {
			g.power.Cut()
			g.gone()
		}
		if t.Failed() {
			raw, _ := os.ReadFile(g.console)
			t.Logf("disks and console are in %s; the end of the console:\n%s", g.dir, raw[max(0, len(raw)-6000):])
		}
	})
	return g
}

// add adds a node, its disk and its ports.
func (g *guest) add(mkfs, conf string) *guestNode {
	g.t.Helper()
	t, i := g.t, len(g.nodes)
	m := &guestNode{name: fmt.Sprint("n", 7+i), image: filepath.Join(g.dir, fmt.Sprint("disk", i)), api: freePort(t), auth: freePort(t), acct: freePort(t)}
	m.conf = named(m.name) + fmt.Sprintf(`
radius: {auth_listen: [":%d"], acct_listen: [":%d"], workers: 2, reject_delay: 0s}
api: {listen: ":%d", admin_listen: ""}
%s`, m.auth, m.acct, m.api, conf)
	m.conf = strings.ReplaceAll(m.conf, "DATA", "/disk/"+m.name+"/data")
	f, err := os.Create(m.image)
	must(t, err)
	must(t, errors.Join(f.Truncate(1<<30), f.Close()))
	peers.Run(t, mkfs, "-q", "-F", "-m", "0", m.image)
	g.line = append(g.line,
		// The guest's page cache and the drive's are all there is: qemu keeps nothing, and passes each flush on.
		"-blockdev", fmt.Sprintf("driver=nbd,node-name=disk%d,server.type=unix,server.path=%s,cache.direct=on,cache.no-flush=off", i, g.power.Drive(t, m.image).Socket),
		"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d,write-cache=on", i))
	g.nodes = append(g.nodes, m)
	return m
}

func (g *guest) testdata(name string) []byte {
	g.t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "vm", name))
	must(g.t, err)
	return raw
}

func (g *guest) kernel() string {
	g.t.Helper()
	found, err := filepath.Glob(filepath.Join(os.Getenv(vmKernel), "boot", "vmlinuz-*"))
	must(g.t, err)
	if len(found) != 1 {
		g.t.Fatalf("%s=%s holds %d kernels, want one: scripts/vmcut unpacks it", vmKernel, os.Getenv(vmKernel), len(found))
	}
	return found[0]
}

// system is what of this machine goes into the guest's memory: busybox, the program under test, the modules that the kernel needs for disks
// and network. What a kernel has built in is no module of it.
func (g *guest) system(kernel string) (all []file) {
	g.t.Helper()
	for name, path := range map[string]string{"busybox": peers.NeedProgram(g.t, "busybox"), "bin/wispgate": binary(g.t)} {
		raw, err := os.ReadFile(path)
		must(g.t, err)
		all = append(all, file{name, raw})
	}
	drivers := filepath.Join(os.Getenv(vmKernel), "lib", "modules", strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-"), "kernel", "drivers")
	core := filepath.Join(drivers, "..", "net", "core")
	for i, path := range []string{
		"virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_modern_dev", "virtio/virtio_pci_legacy_dev", "virtio/virtio_pci", "block/virtio_blk",
		"char/virtio_console", core + "/failover", "net/net_failover", "net/virtio_net",
	} {
		if !filepath.IsAbs(path) {
			path = filepath.Join(drivers, path)
		}
		raw, err := os.ReadFile(path + ".ko")
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		must(g.t, err)
		all = append(all, file{fmt.Sprintf("modules/%02d", i), raw})
	}
	return all
}

type file struct {
	name string
	data []byte
}

// archive packs programs for the kernel to unpack into its memory: cpio in its "newc" form.
func archive(files []file) []byte {
	var b bytes.Buffer
	entry := func(name string, mode, size int) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", b.Len(), mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
		b.Write(make([]byte, -b.Len()&3))
	}
	for _, dir := range []string{"bin", "modules", "nodes"} {
		entry(dir, 0o40755, 0)
	}
	for _, f := range files {
		entry(f.name, 0o100755, len(f.data))
		b.Write(f.data)
		b.Write(make([]byte, -b.Len()&3))
	}
	entry("TRAILER!!!", 0, 0)
	return b.Bytes()
}

// accelerated reports whether a kernel gets anywhere under KVM, which it does not everywhere that KVM can be opened.
func accelerated(t testing.TB, qemu, kernel string) bool {
	t.Helper()
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	cmd := exec.Command(qemu, "-M", "q35", "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", kernel, "-append", "console=ttyS0 panic=-1")
	var said bytes.Buffer
	cmd.Stdout = &said
	must(t, cmd.Start())
	late := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	_ = cmd.Wait() // it has nothing to start and panics
	return strings.Contains(said.String(), "Kernel panic")
}

// boot starts the machine and does not wait. Before it, the disks are checked as distributions do before they mount one: a file system with
// checksums refuses a journal whose last block is torn, and e2fsck cuts that off without asking.
func (g *guest) boot() {
	g.t.Helper()
	for _, m := range g.nodes {
		out, err := exec.Command("e2fsck", "-p", m.image).CombinedOutput()
		if failed := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &failed) || failed.ExitCode() > 1) { // 1: mended
			g.t.Fatalf("the file system of %s wants an operator: %v\n%s", m.name, err, out)
		}
	}
	g.power.Back()
	line := append(g.line[:len(g.line):len(g.line)], "-append", "console=ttyS0 quiet panic=-1 disk="+g.mount)
	g.cmd = exec.Command(line[0], line[1:]...)
	log, err := os.OpenFile(filepath.Join(g.dir, "qemu"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(g.t, err)
	defer log.Close()
	g.cmd.Stdout, g.cmd.Stderr = log, log
	must(g.t, g.cmd.Start())
	cmd, done := g.cmd, make(chan error, 1)
	g.done = done
	go func() { done <- cmd.Wait() }()
	g.dial()
}

// cut takes the power from the machine, and from its disks in the same instant.
func (g *guest) cut() peers.Cut {
	g.t.Helper()
	c := g.power.Cut()
	g.gone()
	for _, m := range g.nodes { // what a failure is to be looked into with
		peers.Run(g.t, "cp", "--reflink=auto", "--sparse=always", m.image, m.image+".cut")
	}
	return c
}

func (g *guest) gone() {
	_ = g.cmd.Process.Kill()
	<-g.done
	g.cmd = nil
	g.shell.Close()
	g.listens = false
}

// run runs a line of shell in the guest and returns what it printed.
func (g *guest) run(format string, args ...any) string {
	g.t.Helper()
	line := fmt.Sprintf(format, args...)
	if !g.listens {
		must(g.t, g.shell.SetReadDeadline(time.Now().Add(pollLimit)))
		said, err := g.heard.ReadString('\n')
		if err != nil || !strings.Contains(said, "here") {
			g.t.Fatalf("the guest has no shell: %v: %q", err, said)
		}
		g.listens = true
	}
	out, status := g.ask(line)
	if status != "0" {
		g.t.Fatalf("in the guest: %s: %s\n%s", line, status, out)
	}
	return out
}

func (g *guest) ask(line string) (out, status string) {
	g.t.Helper()
	g.asked++
	end := fmt.Sprintf("\x01%d ", g.asked)
	must(g.t, g.shell.SetDeadline(time.Now().Add(pollLimit)))
	_, err := fmt.Fprintf(g.shell, "{ %s\n} < /dev/null 2>&1; printf '\\001%%d %%d\\n' %d $?\n", line, g.asked)
	must(g.t, err)
	var text strings.Builder
	for {
		heard, err := g.heard.ReadString('\n')
		if err != nil {
			g.t.Fatalf("in the guest: %s: %v\n%s%s", line, err, text.String(), heard)
		}
		before, after, ended := strings.Cut(heard, end)
		text.WriteString(before)
		if ended {
			return text.String(), strings.TrimSpace(after)
		}
	}
}

// dial waits for the guest's shell, which says once that it listens.
func (g *guest) dial() {
	g.t.Helper()
	eventually(g.t, "qemu listens", func() (bool, string) {
		select {
		case err := <-g.done:
			g.done <- err
			said, _ := os.ReadFile(filepath.Join(g.dir, "qemu"))
			g.t.Fatalf("qemu ended: %v\n%s", err, said)
		default:
		}
		conn, err := net.Dial("unix", filepath.Join(g.sockets, "shell"))
		if err != nil {
			return false, err.Error()
		}
		g.shell, g.heard = conn, bufio.NewReader(conn)
		return true, ""
	})
}

// first starts a node for the first time: from now on it starts with the machine.
func (g *guest) first(m *guestNode) {
	g.t.Helper()
	g.run("touch /disk/%s/started && sync && node %s", m.name, m.name)
}

// claim takes the first node over and makes a client of each.
func (g *guest) claim(m *guestNode) {
	g.t.Helper()
	code := g.run("until cat /disk/%s/data/claim-code 2>/dev/null; do usleep 100000; done", m.name)
	m.client = g.client(m)
	var out struct {
		Secret string `json:"secret"`
	}
	eventually(g.t, "it is claimed", func() (bool, string) {
		a := m.client.ask(http.MethodPost, "/api/v1/claim", "", map[string]any{"code": strings.TrimSpace(code), "tenant": "acme", "name": "Acme Wireless"})
		return a.err == nil && a.status < 300 && json.Unmarshal(a.body, &out) == nil, a.String()
	})
	m.client.key = out.Secret
}

func (g *guest) client(m *guestNode) *apiClient {
	g.t.Helper()
	pem := g.run("until cat /disk/%s/data/tls/ca.crt 2>/dev/null; do usleep 100000; done", m.name)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(pem)) {
		g.t.Fatalf("ca.crt holds no certificate: %q", pem)
	}
	return &apiClient{base: fmt.Sprintf("https://127.0.0.1:%d", m.api), http: &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: 16,
			TLSHandshakeTimeout: 3 * time.Second, // qemu takes a connection before the guest can, and then it is lost
		},
	}}
}

// ready waits until each node has a leader. Nobody lends them a hand.
func (g *guest) ready() {
	g.t.Helper()
	g.run("true")
	for _, m := range g.nodes {
		eventually(g.t, m.name+" becomes ready", func() (bool, string) {
			if raw, _ := os.ReadFile(g.console); regexp.MustCompile(`(?m)^(.* ended: |no disk for )`).Match(raw) {
				g.t.Fatalf("a node did not start by itself")
			}
			a := m.client.ask(http.MethodGet, "/api/v1/sync/status", "", nil)
			var s struct {
				Cluster struct {
					State string `json:"state"`
				} `json:"cluster"`
			}
			return a.err == nil && json.Unmarshal(a.body, &s) == nil && (s.Cluster.State == "leader" || s.Cluster.State == "follower"), a.String()
		})
	}
}

// sound looks at what a machine can say of its disks and logs.
func (g *guest) sound() {
	g.t.Helper()
	if cache := strings.TrimSpace(g.run("cat /sys/block/vda/queue/write_cache")); cache != "write back" {
		g.t.Fatalf("the guest takes its disk for %q: it would not flush", cache)
	}
	if said := g.run("dmesg | grep -E 'EXT4-fs (error|warning)|I/O error|Out of memory' || true"); said != "" {
		g.t.Errorf("the kernel says:\n%s", said)
	}
	for _, m := range g.nodes {
		g.run("wispgate audit verify --dir /disk/%s/data -o json", m.name)
	}
}
