//! The write-ahead journal: what is about to be done is on the disk before it begins.
//!
//! It explains; observation decides. A step that began and never ended is looked at again by the next pass, and the
//! journal tells a person what was going on.

use rusqlite::params;

use super::{Store, StoreError, did, time_sql};
use crate::execute::Heard;
use crate::model::Timestamp;
use crate::plan::{ActionId, Step};

/// Ended entries that are kept.
const KEPT: i64 = 10_000;

/// A step that began and never ended: we died in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The journal's number.
    pub id: u64,
    /// The action.
    pub action: String,
    /// The host.
    pub host: String,
    /// What was about to be done.
    pub what: String,
    /// When.
    pub began: Timestamp,
}

impl Store {
    /// Writes that a step begins; returns when it is on the disk.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn step_begins(&self, action: &ActionId, index: usize, step: &Step) -> Result<u64, StoreError> {
        let sql = "INSERT INTO journal (action, step, host, what, began) VALUES (?1, ?2, ?3, ?4, unixepoch())";
        let connection = self.lock();
        let write = || -> rusqlite::Result<i64> {
            let values =
                params![&*action.0, i64::try_from(index).unwrap_or(i64::MAX), step.host.as_str(), step.op.describe()];
            connection.prepare_cached(sql)?.execute(values)?;
            Ok(connection.last_insert_rowid())
        };
        write().map(time_sql).map_err(did("write the journal"))
    }

    /// Writes how a step ended.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn step_ended(&self, id: u64, outcome: &str) -> Result<(), StoreError> {
        let id = i64::try_from(id).unwrap_or(i64::MAX);
        let sql = "UPDATE journal SET ended = unixepoch(), outcome = ?2 WHERE id = ?1";
        self.change("write the journal", sql, params![id, outcome])?;
        if id % 1_000 == 0 {
            let sql = "DELETE FROM journal WHERE id < ?1 AND ended IS NOT NULL";
            self.change("cut the journal", sql, [id - KEPT])?;
        }
        Ok(())
    }

    /// Steps that began and never ended, oldest first.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn unfinished(&self) -> Result<Vec<Unfinished>, StoreError> {
        let connection = self.lock();
        let read = || -> rusqlite::Result<Vec<Unfinished>> {
            let sql = "SELECT id, action, host, what, began FROM journal WHERE ended IS NULL ORDER BY id";
            let mut statement = connection.prepare_cached(sql)?;
            let entry = |row: &rusqlite::Row<'_>| {
                let (id, began) = (time_sql(row.get(0)?), Timestamp(time_sql(row.get(4)?)));
                Ok(Unfinished { id, action: row.get(1)?, host: row.get(2)?, what: row.get(3)?, began })
            };
            statement.query_map([], entry)?.collect()
        };
        read().map_err(did("read the journal"))
    }

    /// Ends what a dead process left open, once its outcome has been observed.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn close_unfinished(&self) -> Result<(), StoreError> {
        let sql = "UPDATE journal SET ended = unixepoch(), outcome = 'the process ended; observed again' \
                   WHERE ended IS NULL";
        self.change("close the journal", sql, []).map(drop)
    }
}

impl crate::execute::Journal for Store {
    fn begin(&self, action: &ActionId, index: usize, step: &Step) -> Result<u64, String> {
        self.step_begins(action, index, step).map_err(StoreError::one_line)
    }
    fn end(&self, id: u64, outcome: &str) -> Result<(), String> {
        self.step_ended(id, outcome).map_err(StoreError::one_line)
    }
    fn hear(&self, heard: &Heard<'_>) -> Result<(), String> {
        self.keep_said(heard).map_err(StoreError::one_line)
    }
}
