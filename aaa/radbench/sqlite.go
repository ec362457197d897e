package radbench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// sqlFolder is where Debian's freeradius-config keeps the stock schema and queries.
const sqlFolder = "/etc/freeradius/3.0/mods-config/sql/main/sqlite"

// FreeRADIUSWithSQLite starts FreeRADIUS with accounting into sqlite: stock schema and queries, WAL mode and, as sqlite's
// default is, each commit flushed. Then its answer to accounting is as durable as ours.
func FreeRADIUSWithSQLite(ctx context.Context, dir string, now func() time.Time) (*Process, error) {
	sqlite, err := lookPath("sqlite3")
	if err != nil {
		return nil, fmt.Errorf("%w: sqlite3 is missing", ErrNoFreeRADIUS)
	}
	schema, err := os.ReadFile(filepath.Join(sqlFolder, "schema.sql"))
	if err != nil {
		return nil, fmt.Errorf("%w: its sqlite schema is missing", ErrNoFreeRADIUS)
	}
	base := filepath.Join(dir, "radius.db")
	create := exec.CommandContext(ctx, sqlite, base)
	create.Stdin = strings.NewReader("PRAGMA journal_mode=WAL;\n" + string(schema))
	if out, err := create.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make the sqlite database: %w: %s", err, out)
	}
	return freeRADIUS(ctx, dir, 1, now, "sql", fmt.Sprintf(sqlConf, base, sqlFolder))
}

// Arguments: database, folder of the queries.
const sqlConf = `	date {
	}
	expr {
	}
	sql {
		dialect = "sqlite"
		driver = "rlm_sql_sqlite"
		sqlite {
			filename = "%s"
			busy_timeout = 5000
		}
		radius_db = "radius"
		acct_table1 = "radacct"
		acct_table2 = "radacct"
		postauth_table = "radpostauth"
		authcheck_table = "radcheck"
		groupcheck_table = "radgroupcheck"
		authreply_table = "radreply"
		groupreply_table = "radgroupreply"
		usergroup_table = "radusergroup"
		delete_stale_sessions = yes
		pool {
			start = 2
			min = 2
			max = 2
			spare = 0
			uses = 0
			retry_delay = 1
			lifetime = 0
			idle_timeout = 0
		}
		read_clients = no
		client_table = "nas"
		group_attribute = "SQL-Group"
		$INCLUDE %s/queries.conf
	}
`
