//! What is asked about quarantine, until the VMs' own stamps say so.

use rusqlite::params;

use super::{Store, StoreError, did, sql_time, time_sql};
use crate::model::{Asked, Demand, Name, Quarantine, Then, Timestamp};

/// What stands for a release in the place of what happens to a VM.
const RELEASE: &str = "release";

impl Store {
    /// Asks that a VM go into quarantine; replaces what was asked of it before.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn quarantine(&self, vm: &Name, why: &Quarantine) -> Result<(), StoreError> {
        self.ask_quarantine(vm, why.then.word(), &why.who, &why.reason, why.at)
    }

    /// Asks that a VM come out of quarantine.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn release(&self, vm: &Name, asked: &Asked) -> Result<(), StoreError> {
        self.ask_quarantine(vm, RELEASE, &asked.who, "", asked.at)
    }

    fn ask_quarantine(&self, vm: &Name, what: &str, who: &str, reason: &str, at: Timestamp) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO quarantine (vm, what, who, reason, at) VALUES (?1, ?2, ?3, ?4, ?5)";
        self.change("keep demand", sql, params![vm.as_str(), what, who, reason, sql_time(at)]).map(drop)
    }

    /// Forgets what was asked of a VM: its stamp says it now.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn quarantine_settled(&self, vm: &Name) -> Result<(), StoreError> {
        self.change("withdraw demand", "DELETE FROM quarantine WHERE vm = ?1", [vm.as_str()]).map(drop)
    }

    /// Adds what is asked about quarantine to demand.
    pub(super) fn quarantines(&self, demand: &mut Demand) -> Result<(), StoreError> {
        let connection = self.lock();
        let mut read = || -> rusqlite::Result<()> {
            let sql = "SELECT vm, what, who, reason, at FROM quarantine ORDER BY vm";
            let mut statement = connection.prepare_cached(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let Ok(vm) = Name::new(&row.get::<_, String>(0)?) else { continue };
                let (what, who): (String, String) = (row.get(1)?, row.get(2)?);
                let (reason, at): (String, Timestamp) = (row.get(3)?, Timestamp(time_sql(row.get(4)?)));
                let (who, reason) = (who.into(), reason.into());
                match Then::ALL.into_iter().find(|then| then.word() == what) {
                    Some(then) => drop(demand.quarantines.insert(vm, Quarantine { who, reason, at, then })),
                    None => drop(demand.releases.insert(vm, Asked { who, at })),
                }
            }
            Ok(())
        };
        read().map_err(did("read demand"))
    }
}
