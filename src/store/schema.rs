//! Tables and their migrations, by `PRAGMA user_version`.

use std::path::Path;

use rusqlite::Connection;

use super::{StoreError, did};

/// Migrations in order: the store's version is how many of them were run.
const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE fact (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE demand (
    vm TEXT NOT NULL, once INTEGER NOT NULL, run TEXT NOT NULL, who TEXT NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (vm, once)
) STRICT;
CREATE TABLE approval (
    effects TEXT NOT NULL, revision TEXT NOT NULL, who TEXT NOT NULL, at INTEGER NOT NULL, used INTEGER,
    PRIMARY KEY (effects, revision)
) STRICT;
CREATE TABLE used (kind TEXT NOT NULL, vm TEXT NOT NULL, at INTEGER NOT NULL) STRICT;
CREATE INDEX used_at ON used (kind, at);
CREATE TABLE boot (id INTEGER PRIMARY KEY, image TEXT NOT NULL, millis INTEGER NOT NULL) STRICT;
CREATE TABLE journal (
    id INTEGER PRIMARY KEY, action TEXT NOT NULL, step INTEGER NOT NULL, host TEXT NOT NULL, what TEXT NOT NULL,
    began INTEGER NOT NULL, ended INTEGER, outcome TEXT
) STRICT;
CREATE INDEX journal_open ON journal (id) WHERE ended IS NULL;
CREATE TABLE event (
    id INTEGER PRIMARY KEY, at INTEGER NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL
) STRICT;
",
    "
CREATE TABLE host_demand (host TEXT PRIMARY KEY, kind TEXT NOT NULL, who TEXT NOT NULL, at INTEGER NOT NULL) STRICT;
",
    // By time first: means come in its order and leave in it.
    "
CREATE TABLE stat (
    at INTEGER NOT NULL, subject TEXT NOT NULL, cpu INTEGER NOT NULL, memory INTEGER NOT NULL, disk_read INTEGER NOT NULL,
    disk_written INTEGER NOT NULL, net_received INTEGER NOT NULL, net_sent INTEGER NOT NULL, PRIMARY KEY (at, subject)
) STRICT, WITHOUT ROWID;
",
    "
CREATE TABLE quarantine (
    vm TEXT PRIMARY KEY, what TEXT NOT NULL, who TEXT NOT NULL, reason TEXT NOT NULL, at INTEGER NOT NULL
) STRICT;
",
    "
CREATE TABLE task_output (
    id INTEGER PRIMARY KEY, at INTEGER NOT NULL, vm TEXT NOT NULL, subject TEXT NOT NULL, digest TEXT NOT NULL,
    step INTEGER NOT NULL, what TEXT NOT NULL, status INTEGER, stdout TEXT NOT NULL, stderr TEXT NOT NULL,
    truncated INTEGER NOT NULL, error TEXT
) STRICT;
CREATE INDEX task_output_of ON task_output (subject, vm, step);
CREATE TABLE task_demand (task TEXT PRIMARY KEY, who TEXT NOT NULL, at INTEGER NOT NULL) STRICT;
",
];

/// The version that this program writes.
pub(super) const VERSION: usize = MIGRATIONS.len();

/// Sets the connection up and brings the tables up to date; says whether there were none.
///
/// WAL lets readers read while one writes; `synchronous = FULL` because the journal must be on the disk before the
/// step that it announces begins (SQLite's documentation of `PRAGMA synchronous`: in WAL mode, NORMAL may lose the
/// last transactions when the power fails).
pub(super) fn prepare(connection: &Connection, path: &Path) -> Result<bool, StoreError> {
    let setup = || -> rusqlite::Result<u32> {
        connection.busy_timeout(std::time::Duration::from_secs(10))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.query_row("PRAGMA user_version", [], |row| row.get(0))
    };
    let found = setup().map_err(did("be read"))?;
    let done = usize::try_from(found).unwrap_or(usize::MAX);
    if done > VERSION {
        return Err(StoreError::Newer { path: path.to_owned(), found });
    }
    for (i, migration) in MIGRATIONS.iter().enumerate().skip(done) {
        // Two programs may open a new store at once: the second one finds the work done once it has the lock.
        let sql = format!("BEGIN IMMEDIATE; {migration} PRAGMA user_version = {}; COMMIT;", i + 1);
        if let Err(error) = connection.execute_batch(&sql) {
            let _ = connection.execute_batch("ROLLBACK");
            let now: u32 = connection.query_row("PRAGMA user_version", [], |r| r.get(0)).map_err(did("be read"))?;
            if usize::try_from(now).unwrap_or(0) <= i {
                return Err(did("be brought up to date")(error));
            }
        }
    }
    Ok(done == 0)
}
