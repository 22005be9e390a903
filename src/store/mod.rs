//! What is known only here: demand, approvals, limits used, boot times, the last applied revision, journal and audit.
//!
//! *Takes* a folder of this machine. *Gives* [`Store`], one SQLite file in it. *Never* holds what a VM needs to be
//! found again: losing the file loses no VM, disk, protection or ownership (DESIGN section 5). A store that has not
//! seen its fleet through an apply yet says so, and disruptive effects then wait for approval.
#![expect(clippy::disallowed_methods, reason = "makes the state folder")]

mod journal;
mod quarantine;
mod said;
mod schema;
mod stats;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::model::{
    Asked, Book, Demand, Drain, Hold, ImageWish, Name, Others, PlacementRecord, RunState, StoreState, Timestamp,
};

pub use journal::Unfinished;
pub use said::Said;

/// Seconds in which an approval must be used (DESIGN section 4, point 10).
pub const APPROVAL_TIME: u64 = 24 * 3600;
/// Seconds over which limits count.
const DAY: u64 = 24 * 3600;
/// Policies of a drain, by their words in the table.
const OTHERS: [Others; 3] = [Others::Leave, Others::Cold, Others::Stop];
/// How facts begin that say of an image that it was configured by hand, is given up, or is to be tried again.
const SEAL: &str = "image seal ";
const ABANDON: &str = "image abandon ";
const RETRY: &str = "image retry ";
/// Boots remembered for each image: an odd number, so that the median is one of them.
const BOOTS: i64 = 9;

/// Why the store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder could not be made.
    #[error("cannot make the state folder `{}`", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A newer Stablehand wrote it.
    #[error("the store `{}` has version {found}; this program knows {}", .path.display(), schema::VERSION)]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// SQLite said no.
    #[error("the store could not {what}")]
    Sqlite {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
}

impl StoreError {
    /// The error and what caused it, on one line.
    pub fn one_line(self) -> String {
        std::error::Error::source(&self).map_or_else(|| self.to_string(), |source| format!("{self}: {source}"))
    }
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Folder { .. } => "run as the user who owns it, or choose another with --state-dir",
            Self::Newer { .. } => "use the newer program",
            Self::Sqlite { .. } => {
                "look at its permissions and free space; a broken store may be moved away: no VM is lost by it"
            }
        }
    }
}

/// What somebody says of an image that is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageSaid {
    /// It was configured by hand, and that is done.
    Seal,
    /// Its present recipe is given up.
    Abandon,
    /// What could not be made is to be tried again.
    Retry,
}

impl ImageSaid {
    const fn key(self) -> &'static str {
        match self {
            Self::Seal => SEAL,
            Self::Abandon => ABANDON,
            Self::Retry => RETRY,
        }
    }
}

/// What counts against a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    /// A VM ended.
    Destroyed,
    /// A root disk was made anew.
    Recreated,
    /// A VM was stopped and started.
    Rebooted,
    /// A VM was moved to another host.
    Moved,
}

impl Counted {
    const fn word(self) -> &'static str {
        match self {
            Self::Destroyed => "destroyed",
            Self::Recreated => "recreated",
            Self::Rebooted => "rebooted",
            Self::Moved => "moved",
        }
    }
}

/// A person's yes to the effects of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Effects hash.
    pub effects: String,
    /// The revision it was given for.
    pub revision: String,
    /// Who gave it.
    pub who: String,
    /// When.
    pub at: Timestamp,
}

/// A line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// A stable word: `applied`, `failed`, `approved`, `held`, …
    pub kind: String,
    /// Who or what it was about.
    pub subject: String,
    /// A sentence.
    pub text: String,
}

/// The store of one fleet on this machine.
#[derive(Debug)]
pub struct Store {
    connection: Mutex<Connection>,
    fresh: bool,
}

impl Store {
    /// The file's name in the state folder.
    pub const FILE: &'static str = "store.sqlite";

    /// Opens the store of a state folder, making folder and file where they are missing.
    ///
    /// # Errors
    /// When the folder cannot be made, the file is not a store, or a newer program wrote it.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder).map_err(|source| StoreError::Folder { path: folder.to_owned(), source })?;
        let path = folder.join(Self::FILE);
        let connection = Connection::open(&path).map_err(did("open"))?;
        let fresh = schema::prepare(&connection, &path)?;
        Ok(Self { connection: Mutex::new(connection), fresh })
    }

    /// A store that is forgotten when it is dropped: for plans without a state folder, and for tests.
    ///
    /// # Errors
    /// When SQLite has no memory.
    pub fn in_memory() -> Result<Self, StoreError> {
        let connection = Connection::open_in_memory().map_err(did("open"))?;
        let fresh = schema::prepare(&connection, Path::new(":memory:"))?;
        Ok(Self { connection: Mutex::new(connection), fresh })
    }

    /// Whether the file was made by this [`Self::open`].
    pub const fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// A poisoned lock is only a panic elsewhere: SQLite's transactions keep the file whole.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a statement that changes something; gives the number of rows.
    fn change(&self, what: &'static str, sql: &str, values: impl rusqlite::Params) -> Result<usize, StoreError> {
        self.lock().prepare_cached(sql).and_then(|mut s| s.execute(values)).map_err(did(what))
    }

    fn fact(&self, key: &str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT value FROM fact WHERE key = ?1";
        self.lock().query_row(sql, [key], |row| row.get(0)).optional().map_err(did("read a fact"))
    }

    fn set_fact(&self, key: &str, value: &str) -> Result<(), StoreError> {
        let sql = "INSERT INTO fact (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2";
        self.change("write a fact", sql, params![key, value]).map(drop)
    }

    /// What the planner is told of the past. `stamps`: whether any host carries a stamp of this fleet; then a store
    /// that was never settled was lost. A store whose fleet has no stamps is settled by this question.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn state(&self, stamps: bool, now: Timestamp) -> Result<StoreState, StoreError> {
        if !stamps {
            self.settle(now)?;
        }
        let settled = self.fact("settled")?.is_some();
        let used = |kind: Counted| -> Result<u32, StoreError> {
            let sql = "SELECT count(*) FROM used WHERE kind = ?1 AND at > ?2";
            let since = sql_time(Timestamp(now.0.saturating_sub(DAY)));
            self.lock().query_row(sql, params![kind.word(), since], |r| r.get(0)).map_err(did("count what was done"))
        };
        Ok(StoreState {
            lost: !settled,
            destroyed_day: used(Counted::Destroyed)?,
            recreated_day: used(Counted::Recreated)?,
            rebooted_day: used(Counted::Rebooted)?,
            moved_day: used(Counted::Moved)?,
            boot_millis: self.boots()?,
            // Of hosts and links the book tells: `reconcile` adds it.
            sealed: BTreeMap::new(),
            links: BTreeMap::new(),
            missing: BTreeMap::new(),
            fenced: BTreeMap::new(),
            tries: BTreeMap::new(),
            unready: BTreeMap::new(),
            unmade: BTreeMap::new(),
        })
    }

    /// Says that this store knows its fleet: after an apply that a person approved, or when there was nothing yet.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn settle(&self, now: Timestamp) -> Result<(), StoreError> {
        let sql = "INSERT OR IGNORE INTO fact (key, value) VALUES ('settled', ?1)";
        self.change("settle", sql, [now.0.to_string()]).map(drop)
    }

    /// All demand.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn demand(&self) -> Result<Demand, StoreError> {
        let connection = self.lock();
        let read = || -> rusqlite::Result<Demand> {
            let mut demand = Demand::default();
            let mut statement = connection.prepare_cached("SELECT vm, once, run, who, at FROM demand ORDER BY vm")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (vm, once): (String, bool) = (row.get(0)?, row.get(1)?);
                let (Ok(vm), Some(run)) = (Name::new(&vm), run_state(&row.get::<_, String>(2)?)) else { continue };
                let who: String = row.get(3)?;
                let hold = Hold { run, who: who.into(), at: Timestamp(time_sql(row.get(4)?)) };
                if once {
                    demand.restarts.insert(vm, hold)
                } else {
                    demand.holds.insert(vm, hold)
                };
            }
            let mut statement =
                connection.prepare_cached("SELECT host, kind, who, at FROM host_demand ORDER BY host")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let Ok(host) = Name::new(&row.get::<_, String>(0)?) else { continue };
                let (kind, who): (String, String) = (row.get(1)?, row.get(2)?);
                let (who, at) = (who.into(), Timestamp(time_sql(row.get(3)?)));
                match OTHERS.into_iter().find(|o| o.word() == kind) {
                    Some(others) => drop(demand.drains.insert(host, Drain { others, who, at })),
                    None => drop(demand.restores.insert(host, Asked { who, at })),
                }
            }
            Ok(demand)
        };
        let mut demand = read().map_err(did("read demand"))?;
        drop(connection);
        self.quarantines(&mut demand)?;
        demand.seals = self.image_wishes(SEAL)?;
        demand.abandoned = self.image_wishes(ABANDON)?;
        demand.retries = self.image_wishes(RETRY)?;
        demand.homes = self.book()?.homes;
        demand.task_retries = self.task_retries()?;
        Ok(demand)
    }

    /// Asks that a VM be started, stopped or suspended until this is withdrawn; replaces what was asked before.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn hold(&self, vm: &Name, hold: &Hold) -> Result<(), StoreError> {
        self.ask(vm, false, hold)
    }

    /// Asks that a VM be stopped and started once.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn ask_restart(&self, vm: &Name, hold: &Hold) -> Result<(), StoreError> {
        self.ask(vm, true, hold)
    }

    fn ask(&self, vm: &Name, once: bool, hold: &Hold) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO demand (vm, once, run, who, at) VALUES (?1, ?2, ?3, ?4, ?5)";
        let values = params![vm.as_str(), once, hold.run.word(), &*hold.who, sql_time(hold.at)];
        self.change("keep demand", sql, values).map(drop)
    }

    /// Withdraws what was asked for a VM by hand; says whether there was something.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn withdraw(&self, vm: &Name) -> Result<bool, StoreError> {
        let n = self.change("withdraw demand", "DELETE FROM demand WHERE vm = ?1 AND once = 0", [vm.as_str()])?;
        Ok(n > 0)
    }

    /// Asks that a host be emptied, until [`Self::in_service`]; replaces what was asked for the host before.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn drain(&self, host: &Name, drain: &Drain) -> Result<(), StoreError> {
        self.ask_host(host, drain.others.word(), &drain.who, drain.at)
    }

    /// Asks that the VMs that a drain took from a host come back, and ends its drain.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn restore_host(&self, host: &Name, asked: &Asked) -> Result<(), StoreError> {
        self.ask_host(host, "restore", &asked.who, asked.at)
    }

    fn ask_host(&self, host: &Name, kind: &str, who: &str, at: Timestamp) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO host_demand (host, kind, who, at) VALUES (?1, ?2, ?3, ?4)";
        self.change("keep demand", sql, params![host.as_str(), kind, who, sql_time(at)]).map(drop)
    }

    /// Withdraws a drain or a restore; says whether there was one.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn in_service(&self, host: &Name) -> Result<bool, StoreError> {
        let n = self.change("withdraw demand", "DELETE FROM host_demand WHERE host = ?1", [host.as_str()])?;
        Ok(n > 0)
    }

    fn image_wishes(&self, kind: &str) -> Result<BTreeMap<Name, ImageWish>, StoreError> {
        let connection = self.lock();
        let read = || -> rusqlite::Result<BTreeMap<Name, ImageWish>> {
            let mut statement = connection.prepare_cached("SELECT key, value FROM fact WHERE key LIKE ?1 || '%'")?;
            let mut rows = statement.query([kind])?;
            let mut out = BTreeMap::new();
            while let Some(row) = rows.next()? {
                let (key, value): (String, String) = (row.get(0)?, row.get(1)?);
                let image = key.strip_prefix(kind).and_then(|name| Name::new(name).ok());
                out.extend(image.zip(serde_json::from_str(&value).ok()));
            }
            Ok(out)
        };
        read().map_err(did("read demand"))
    }

    /// Notes what somebody says of an image that is made, in place of what was said before.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn image_wish(&self, image: &Name, said: ImageSaid, wish: &ImageWish) -> Result<(), StoreError> {
        self.no_image_wish(image)?;
        let kind = said.key();
        self.set_fact(&format!("{kind}{image}"), &serde_json::to_string(wish).unwrap_or_default())
    }

    /// Takes back what was said of an image; says whether there was something.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn no_image_wish(&self, image: &Name) -> Result<bool, StoreError> {
        let [seal, abandon, retry] = [SEAL, ABANDON, RETRY].map(|kind| format!("{kind}{image}"));
        let sql = "DELETE FROM fact WHERE key IN (?1, ?2, ?3)";
        Ok(self.change("withdraw demand", sql, params![seal, abandon, retry])? > 0)
    }

    /// What is remembered of hosts.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn book(&self) -> Result<Book, StoreError> {
        let text = self.fact("book")?;
        // What another version wrote and we cannot read is as good as forgotten.
        Ok(text.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default())
    }

    /// Remembers what is known of hosts, in place of what was before. Only whoever makes a pass writes it.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn keep_book(&self, book: &Book) -> Result<(), StoreError> {
        self.set_fact("book", &serde_json::to_string(book).unwrap_or_default())
    }

    /// Says that a restart was done.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn restarted(&self, vm: &Name) -> Result<(), StoreError> {
        self.change("withdraw a restart", "DELETE FROM demand WHERE vm = ?1 AND once = 1", [vm.as_str()]).map(drop)
    }

    /// Keeps a yes for [`APPROVAL_TIME`].
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn approve(&self, approval: &Approval) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO approval (effects, revision, who, at, used) VALUES (?1, ?2, ?3, ?4, NULL)";
        let values = params![approval.effects, approval.revision, approval.who, sql_time(approval.at)];
        self.change("keep an approval", sql, values).map(drop)
    }

    /// Uses up the approval of exactly these effects and this revision; nothing when there is none, or it is used or
    /// too old. One statement: of two who ask at once, one gets it.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn use_approval(&self, effects: &str, revision: &str, now: Timestamp) -> Result<Option<Approval>, StoreError> {
        let sql = "UPDATE approval SET used = ?3 WHERE effects = ?1 AND revision = ?2 AND used IS NULL AND at > ?4 \
                   RETURNING who, at";
        let since = sql_time(Timestamp(now.0.saturating_sub(APPROVAL_TIME)));
        let values = params![effects, revision, sql_time(now), since];
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?));
        let found = self.lock().query_row(sql, values, row).optional().map_err(did("use an approval"))?;
        let (effects, revision) = (effects.to_owned(), revision.to_owned());
        Ok(found.map(|(who, at)| Approval { effects, revision, who, at: Timestamp(time_sql(at)) }))
    }

    /// Uses up an approval that somebody else kept (a reviewed file); false when it was used before. One that was given
    /// after the same effects were last used is another one.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn approve_once(&self, approval: &Approval, now: Timestamp) -> Result<bool, StoreError> {
        let sql = "INSERT INTO approval (effects, revision, who, at, used) VALUES (?1, ?2, ?3, ?4, NULL) \
                   ON CONFLICT (effects, revision) DO UPDATE SET who = ?3, at = ?4, used = NULL \
                   WHERE used IS NULL OR used < ?4";
        let values = params![approval.effects, approval.revision, approval.who, sql_time(approval.at)];
        self.change("keep an approval", sql, values)?;
        Ok(self.use_approval(&approval.effects, &approval.revision, now)?.is_some())
    }

    /// When these effects were last approved and used for this revision, within [`APPROVAL_TIME`].
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn was_used(&self, effects: &str, revision: &str, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let sql = "SELECT used FROM approval WHERE effects = ?1 AND revision = ?2 AND used > ?3";
        let since = sql_time(Timestamp(now.0.saturating_sub(APPROVAL_TIME)));
        let found = self.lock().query_row(sql, params![effects, revision, since], |row| row.get(0)).optional();
        Ok(found.map_err(did("look for an approval"))?.map(|at| Timestamp(time_sql(at))))
    }

    /// Nothing was done with an approval: it may be used again.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn give_back(&self, effects: &str, revision: &str) -> Result<(), StoreError> {
        let sql = "UPDATE approval SET used = NULL WHERE effects = ?1 AND revision = ?2";
        self.change("give an approval back", sql, params![effects, revision]).map(drop)
    }

    /// Counts something done against its limit, and forgets what is older than two days.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn count(&self, kind: Counted, vm: &Name, at: Timestamp) -> Result<(), StoreError> {
        let old = sql_time(Timestamp(at.0.saturating_sub(2 * DAY)));
        self.change("forget old uses", "DELETE FROM used WHERE at < ?1", [old])?;
        let sql = "INSERT INTO used (kind, vm, at) VALUES (?1, ?2, ?3)";
        self.change("count what was done", sql, params![kind.word(), vm.as_str(), sql_time(at)]).map(drop)
    }

    /// Remembers how long a VM of an image took from start to ready; the last nine of an image count.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn booted(&self, image: &str, millis: u64) -> Result<(), StoreError> {
        let millis = i64::try_from(millis).unwrap_or(i64::MAX);
        let sql = "INSERT INTO boot (image, millis) VALUES (?1, ?2)";
        self.change("remember a boot", sql, params![image, millis])?;
        let sql = "DELETE FROM boot WHERE image = ?1 AND id NOT IN \
                   (SELECT id FROM boot WHERE image = ?1 ORDER BY id DESC LIMIT ?2)";
        self.change("forget old boots", sql, params![image, BOOTS]).map(drop)
    }

    fn boots(&self) -> Result<BTreeMap<String, Vec<u64>>, StoreError> {
        let connection = self.lock();
        let read = || -> rusqlite::Result<BTreeMap<String, Vec<u64>>> {
            let mut boots: BTreeMap<String, Vec<u64>> = BTreeMap::new();
            let mut statement = connection.prepare_cached("SELECT image, millis FROM boot ORDER BY id")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                boots.entry(row.get(0)?).or_default().push(time_sql(row.get(1)?));
            }
            Ok(boots)
        };
        read().map_err(did("read boot times"))
    }

    /// Placement records as they were last seen on each host.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn records(&self) -> Result<BTreeMap<Name, PlacementRecord>, StoreError> {
        let text = self.fact("records")?;
        // What an older or newer program wrote and we cannot read is as good as forgotten: the hosts have their own.
        Ok(text.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default())
    }

    /// Remembers placement records, in place of all before.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn remember(&self, records: &BTreeMap<Name, PlacementRecord>) -> Result<(), StoreError> {
        self.set_fact("records", &serde_json::to_string(records).unwrap_or_default())
    }

    /// The revision that was last applied in full.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn last_applied(&self) -> Result<Option<String>, StoreError> {
        self.fact("applied")
    }

    /// Says that a revision was applied in full.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn applied(&self, revision: &str) -> Result<(), StoreError> {
        self.set_fact("applied", revision)
    }

    /// Writes a line of the audit log.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn log(&self, event: &Event) -> Result<(), StoreError> {
        let sql = "INSERT INTO event (at, kind, subject, text) VALUES (?1, ?2, ?3, ?4)";
        let values = params![sql_time(event.at), event.kind, event.subject, event.text];
        self.change("write the audit log", sql, values).map(drop)
    }

    /// The last `most` lines of the audit log, oldest first.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn events(&self, most: u32) -> Result<Vec<Event>, StoreError> {
        let connection = self.lock();
        let read = || -> rusqlite::Result<Vec<Event>> {
            let sql = "SELECT at, kind, subject, text FROM event ORDER BY id DESC LIMIT ?1";
            let mut statement = connection.prepare_cached(sql)?;
            let event = |row: &rusqlite::Row<'_>| {
                let at = Timestamp(time_sql(row.get(0)?));
                Ok(Event { at, kind: row.get(1)?, subject: row.get(2)?, text: row.get(3)? })
            };
            let mut events = statement.query_map([most], event)?.collect::<rusqlite::Result<Vec<_>>>()?;
            events.reverse();
            Ok(events)
        };
        read().map_err(did("read the audit log"))
    }
}

/// Wraps SQLite's errors.
fn did(what: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| StoreError::Sqlite { what, source }
}

/// SQLite's integers are signed.
fn sql_time(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

fn time_sql(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn run_state(word: &str) -> Option<RunState> {
    [RunState::Started, RunState::Stopped, RunState::Suspended].into_iter().find(|r| r.word() == word)
}

#[cfg(test)]
mod tests;
