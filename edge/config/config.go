// Package config reads the node's one configuration file. Every key has a default, an unknown key is an error, and each
// value knows where it came from. What changes the outcome of a command is a record in the store, never a key here.
package config

import (
	"time"

	"wispgate/edge"
)

// Config is the whole file. The tags are its documentation: doc is one sentence, default what holds when nothing is
// said, enum, min and max the allowed values; JSON Schema, checks and the reference page are made from them. A secret
// may be given as KEY_file, the path of a file that holds it.
type Config struct {
	Node    Node    `yaml:"node" doc:"Who this node is and where it keeps its state."`
	Radius  Radius  `yaml:"radius" doc:"The RADIUS front door."`
	Cluster Cluster `yaml:"cluster" doc:"How nodes of one cluster reach each other. Who belongs to it is not set here: see wispgate cluster."`
	API     API     `yaml:"api" doc:"The HTTPS gateway and the local admin listener."`
	Journal Journal `yaml:"journal" doc:"The node's append-only log of accounting and audit facts."`
	Uplink  Uplink  `yaml:"uplink" doc:"The MQTT connection to the NOC."`
	Relay   Relay   `yaml:"relay" doc:"The NOC's program: wispgate relay."`
	Limits  Limits  `yaml:"limits" doc:"Request limits of the gateway. They keep one client from starving the others."`
	Storage Storage `yaml:"storage" doc:"What happens as the disk fills up."`
	Backup  Backup  `yaml:"backup" doc:"The backup that a node makes every night, once recipients or a passphrase are given."`
}

// Node says who this node is.
type Node struct {
	ID        string `yaml:"id" doc:"Unique name of this node; empty means one is drawn at first start and kept in the data folder." example:"tower7-a"`
	Site      string `yaml:"site" doc:"Name of the site where the node stands; empty means the node's id." example:"tower7"`
	Cluster   string `yaml:"cluster" doc:"Name of the cluster that the node belongs to; empty means the node's id." example:"north"`
	DataDir   string `yaml:"data_dir" default:"/var/lib/wispgate" doc:"Folder for everything the node keeps. It should be on a partition of its own."`
	LogLevel  string `yaml:"log_level" default:"info" enum:"debug,info,warn,error" doc:"Least severe level that is logged."`
	LogFormat string `yaml:"log_format" default:"auto" enum:"auto,text,json" doc:"Form of the log: auto is text on a terminal and JSON elsewhere."`
}

// Radius is the front door for access points and routers.
type Radius struct {
	AuthListen  []string      `yaml:"auth_listen" default:":1812" kind:"listen" doc:"UDP addresses for authentication; an empty list switches it off."`
	AcctListen  []string      `yaml:"acct_listen" default:":1813" kind:"listen" doc:"UDP addresses for accounting; an empty list switches it off."`
	Workers     int           `yaml:"workers" default:"0" min:"0" max:"256" doc:"Sockets and goroutines per address; 0 means one per processor."`
	RejectDelay time.Duration `yaml:"reject_delay" default:"1s" min:"0s" max:"5s" doc:"How long an Access-Reject is held back, to slow guessing."`
	CacheTTL    time.Duration `yaml:"cache_ttl" default:"5s" min:"1s" max:"60s" doc:"How long an answer is kept for retransmitted requests (RFC 5080)."`
	RcvBuf      Bytes         `yaml:"rcvbuf" default:"4MiB" min:"64KiB" max:"256MiB" doc:"Receive buffer of each socket; the kernel may cap it (net.core.rmem_max)."`
}

// Cluster is the way to the other nodes.
type Cluster struct {
	Listen          string        `yaml:"listen" kind:"listen" doc:"TCP address of the cluster port, such as :7846; empty: none, for a node that stands alone and has joined nothing."`
	Advertise       string        `yaml:"advertise" kind:"hostport" doc:"Where the other nodes reach this one, host:port; empty: the address it listens on. A new address is told to them by itself." example:"10.8.0.7:7846"`
	Network         string        `yaml:"network" default:"lan" enum:"lan,wan,satellite" doc:"How far the voters are apart: sets how long silence is borne before another leads. The same on all nodes."`
	RemoveDeadAfter time.Duration `yaml:"remove_dead_after" default:"0s" min:"0s" max:"2160h" doc:"Remove a node that has been lost for so long (one is after a minute of silence), where a majority of the other voters is well; 0: only an operator does. More than a tower may be cut off: what a removed one took alone is not taken over."`
}

// API is the HTTPS gateway.
type API struct {
	Listen        string   `yaml:"listen" default:":8443" kind:"listen" doc:"TCP address of the HTTPS gateway; empty switches it off."`
	TLS           TLS      `yaml:"tls" doc:"Certificate of the gateway; without one, the node's own site CA issues it."`
	Hostnames     []string `yaml:"hostnames" kind:"host" doc:"Names and addresses by which clients reach the node, for its certificate." example:"tower7.example.net"`
	MaxConns      int      `yaml:"max_conns" default:"1024" min:"16" max:"65536" doc:"Most connections open at once."`
	MaxConnsPerIP int      `yaml:"max_conns_per_ip" default:"64" min:"1" max:"65536" doc:"Most connections open at once from one address."`
	AdminListen   string   `yaml:"admin_listen" default:"127.0.0.1:9843" kind:"listen" doc:"Loopback TCP address for metrics, health and profiles; empty switches it off."`
}

// TLS names a certificate from elsewhere.
type TLS struct {
	CertFile string `yaml:"cert_file" kind:"file" doc:"Certificate chain, PEM."`
	KeyFile  string `yaml:"key_file" kind:"file" doc:"Private key of the certificate, PEM."`
}

// Journal bounds the node's journal.
type Journal struct {
	Window   time.Duration `yaml:"window" default:"0s" min:"0s" max:"200ms" doc:"Extra time to gather records before a flush: saves flash, delays the answers."`
	MaxBytes Bytes         `yaml:"max_bytes" default:"1GiB" min:"32MiB" max:"1TiB" doc:"Most disk space for each journal; what was delivered is forgotten first."`
}

// Uplink is the way to the NOC.
type Uplink struct {
	Enabled        bool        `yaml:"enabled" default:"false" doc:"Push events to the NOC."`
	Broker         string      `yaml:"broker" kind:"broker" doc:"URL of the MQTT broker: mqtts://host:8883, or mqtt:// without TLS." example:"mqtts://noc.example.net:8883"`
	CAFile         string      `yaml:"ca_file" kind:"file" doc:"CAs that may sign the broker's certificate, PEM; empty means the system's."`
	CertFile       string      `yaml:"cert_file" kind:"file" doc:"Client certificate of this node, PEM."`
	KeyFile        string      `yaml:"key_file" kind:"file" doc:"Private key of the client certificate, PEM."`
	Username       string      `yaml:"username" doc:"User name for brokers without client certificates."`
	Password       edge.Secret `yaml:"password" doc:"Password for the user name."`
	AllowPlaintext bool        `yaml:"allow_plaintext" default:"false" doc:"Allow mqtt:// to another machine, as inside a VPN; everything on that path can be read."`
}

// Relay is the NOC's side.
type Relay struct {
	Listen            string      `yaml:"listen" default:":8444" kind:"listen" doc:"TCP address of the relay's HTTPS API."`
	DataDir           string      `yaml:"data_dir" default:"/var/lib/wispgate-relay" doc:"Folder for what the relay keeps."`
	TLS               TLS         `yaml:"tls" doc:"Certificate of API and broker; without one, the relay's own CA issues it."`
	Hostnames         []string    `yaml:"hostnames" kind:"host" doc:"Names and addresses by which towers and clients reach the relay, for its certificate."`
	MQTTListen        string      `yaml:"mqtt_listen" default:":8883" kind:"listen" doc:"TCP address of the embedded broker, with TLS; empty switches it off."`
	MQTTPlainListen   string      `yaml:"mqtt_plain_listen" kind:"listen" doc:"TCP address of the embedded broker without TLS, for a VPN or tests; empty switches it off."`
	Broker            string      `yaml:"broker" kind:"broker" doc:"URL of an external MQTT broker to use instead of the embedded one."`
	BrokerCAFile      string      `yaml:"broker_ca_file" kind:"file" doc:"CAs that may sign the external broker's certificate, PEM; empty means the system's."`
	BrokerCertFile    string      `yaml:"broker_cert_file" kind:"file" doc:"Client certificate for the external broker, PEM."`
	BrokerKeyFile     string      `yaml:"broker_key_file" kind:"file" doc:"Private key of that certificate, PEM."`
	BrokerUsername    string      `yaml:"broker_username" doc:"User name for the external broker."`
	BrokerPassword    edge.Secret `yaml:"broker_password" doc:"Password for that user name."`
	AllowPlaintext    bool        `yaml:"allow_plaintext" default:"false" doc:"Allow mqtt:// to an external broker on another machine, as inside a VPN."`
	AllowPrivateCIDRs []string    `yaml:"allow_private_cidrs" kind:"cidr" doc:"Private networks that webhooks may call; all others are refused." example:"10.20.0.0/16"`
	Workers           int         `yaml:"workers" default:"32" min:"1" max:"1024" doc:"Webhook deliveries in flight at once."`
	KeepDays          int         `yaml:"keep_days" default:"30" min:"1" max:"3650" doc:"Days that stored events and the delivery log are kept."`
}

// Limits are rates of the gateway.
type Limits struct {
	TenantPerMinute          int `yaml:"tenant_per_minute" default:"6000" min:"1" max:"10000000" doc:"Requests a minute of one tenant."`
	ClientPerMinute          int `yaml:"client_per_minute" default:"1200" min:"1" max:"10000000" doc:"Requests a minute of one client, over all its keys."`
	UnauthenticatedPerMinute int `yaml:"unauthenticated_per_minute" default:"60" min:"1" max:"1000000" doc:"Requests a minute without valid credentials, from one address."`
}

// Storage sets the watermarks of free space.
type Storage struct {
	WarnFreePercent int   `yaml:"warn_free_percent" default:"20" min:"1" max:"90" doc:"Below this much free space: warn, no snapshots or dumps."`
	LowFreePercent  int   `yaml:"low_free_percent" default:"10" min:"1" max:"90" doc:"Below this: writes that grow the state are refused."`
	StopFreePercent int   `yaml:"stop_free_percent" default:"5" min:"1" max:"90" doc:"Below this: read only; RADIUS goes on, accounting uses the journal's reserve."`
	Ballast         Bytes `yaml:"ballast" default:"32MiB" min:"0" max:"1GiB" doc:"File kept allocated and given up last, so that the store can close cleanly on a full disk."`
	JournalReserve  Bytes `yaml:"journal_reserve" default:"8MiB" min:"2MiB" max:"1GiB" doc:"Journal space kept allocated for a full disk."`
}

// Backup is the nightly backup.
type Backup struct {
	Dir        string      `yaml:"dir" doc:"Folder for the backups, best on another disk or machine; empty means the folder backup in the data folder." example:"/mnt/noc/backups"`
	At         string      `yaml:"at" default:"03:10" kind:"clock" doc:"Local time at which it is made."`
	Keep       int         `yaml:"keep" default:"7" min:"1" max:"365" doc:"How many of the node's own backups are kept."`
	Recipients []string    `yaml:"recipients" kind:"backup_key" doc:"Public keys that backups are locked for (wispgate backup keygen): whoever holds a private one opens them, the node cannot." example:"wgb-public-..."`
	Passphrase edge.Secret `yaml:"passphrase" doc:"Passphrase that opens the backups too, at least 12 characters; recipients need no secret on the node."`
}

// On says whether nightly backups are made.
func (b Backup) On() bool { return len(b.Recipients) > 0 || b.Passphrase != "" }

// Time is At as hour and minute.
func (b Backup) Time() (hour, minute int) {
	at, err := time.Parse("15:04", b.At)
	if err != nil {
		return 3, 10 // Check refuses it
	}
	return at.Hour(), at.Minute()
}
