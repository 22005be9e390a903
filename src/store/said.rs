//! What was said in guests: the output of the last run of each task on each VM. It explains; what was done is what stamps say.

use rusqlite::params;

use super::{Store, StoreError, did, time_sql};
use crate::execute::Heard;
use crate::model::{Address, Asked, GuestOutput, Name, Timestamp};

/// Rows that are kept: the last steps of some hundred VMs.
const KEPT: i64 = 5_000;

/// What a step said in a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The VM.
    pub vm: Name,
    /// Digest of the steps that it was one of.
    pub digest: String,
    /// Its number in the action.
    pub step: u32,
    /// What was done.
    pub what: String,
    /// When it ended.
    pub at: Timestamp,
    /// What the program printed, where one ran to its end.
    pub output: Option<GuestOutput>,
    /// Why it failed, where it did.
    pub error: Option<String>,
}

impl Store {
    /// Keeps what a step said; what an earlier run said of this step and later ones goes.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn keep_said(&self, heard: &Heard<'_>) -> Result<(), StoreError> {
        let (vm, subject, step) = (heard.vm.as_str(), heard.errand.subject.to_string(), i64::from(heard.step));
        let sql = "DELETE FROM task_output WHERE vm = ?1 AND subject = ?2 AND step >= ?3";
        self.change("forget what was said", sql, params![vm, subject, step])?;
        let sql = "INSERT INTO task_output (at, vm, subject, digest, step, what, status, stdout, stderr, truncated, error) \
                   VALUES (unixepoch(), ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        let said = heard.output;
        let values = params![
            vm,
            subject,
            heard.errand.digest,
            step,
            heard.what,
            said.map(|s| s.status),
            said.map_or("", |s| s.stdout.as_str()),
            said.map_or("", |s| s.stderr.as_str()),
            said.is_some_and(|s| s.truncated),
            heard.error,
        ];
        self.change("keep what was said", sql, values)?;
        let sql = "DELETE FROM task_output WHERE id <= (SELECT max(id) FROM task_output) - ?1";
        self.change("forget what was said", sql, [KEPT]).map(drop)
    }

    /// What was said for a task, or for an image that is made: by VM and step.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn said(&self, subject: &Address) -> Result<Vec<Said>, StoreError> {
        let connection = self.lock();
        let read = || -> rusqlite::Result<Vec<Said>> {
            let sql = "SELECT at, vm, digest, step, what, status, stdout, stderr, truncated, error FROM task_output \
                       WHERE subject = ?1 ORDER BY vm, step";
            let mut statement = connection.prepare_cached(sql)?;
            let mut rows = statement.query([subject.to_string()])?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                let Ok(vm) = Name::new(&row.get::<_, String>(1)?) else { continue };
                let status: Option<i32> = row.get(5)?;
                let (stdout, stderr, truncated) = (row.get(6)?, row.get(7)?, row.get(8)?);
                all.push(Said {
                    at: Timestamp(time_sql(row.get(0)?)),
                    vm,
                    digest: row.get(2)?,
                    step: u32::try_from(row.get::<_, i64>(3)?).unwrap_or(0),
                    what: row.get(4)?,
                    output: status.map(|status| GuestOutput { status, stdout, stderr, truncated }),
                    error: row.get(9)?,
                });
            }
            Ok(all)
        };
        read().map_err(did("read what was said"))
    }

    /// Asks that a task be tried again where it failed.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn retry_task(&self, task: &Name, asked: &Asked) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO task_demand (task, who, at) VALUES (?1, ?2, ?3)";
        self.change("keep demand", sql, params![task.as_str(), &*asked.who, super::sql_time(asked.at)]).map(drop)
    }

    /// Tasks that are to be tried again where they failed.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub(super) fn task_retries(&self) -> Result<std::collections::BTreeMap<Name, Asked>, StoreError> {
        let connection = self.lock();
        let read = || -> rusqlite::Result<Vec<(String, String, i64)>> {
            let mut statement = connection.prepare_cached("SELECT task, who, at FROM task_demand ORDER BY task")?;
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            statement.query_map([], row)?.collect()
        };
        let rows = read().map_err(did("read demand"))?;
        let asked = |(task, who, at): (String, String, i64)| {
            let at = Timestamp(time_sql(at));
            Some((Name::new(&task).ok()?, Asked { who: who.into(), at }))
        };
        Ok(rows.into_iter().filter_map(asked).collect())
    }
}
