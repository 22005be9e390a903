//! Means of statistics: a day of them.

use rusqlite::params;

use super::{Store, StoreError, did, sql_time, time_sql};
use crate::model::stats::{MEANS_KEPT, Sample};
use crate::model::{Address, Timestamp};

impl Store {
    /// Keeps means, and forgets those that are older than a day. One transaction.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn keep_means(&self, means: &[(Address, Sample)], now: Timestamp) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let mut write = || -> rusqlite::Result<()> {
            let all = connection.transaction()?;
            all.execute("DELETE FROM stat WHERE at <= ?1", [sql_time(Timestamp(now.0.saturating_sub(MEANS_KEPT)))])?;
            let mut insert =
                all.prepare_cached("INSERT OR REPLACE INTO stat VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
            for (subject, mean) in means {
                let [cpu, memory, read, written, received, sent] = mean.numbers().map(|n| sql_time(Timestamp(n)));
                let subject = subject.to_string();
                insert.execute(params![sql_time(mean.at), subject, cpu, memory, read, written, received, sent])?;
            }
            drop(insert);
            all.commit()
        };
        write().map_err(did("keep statistics"))
    }

    /// The means of a VM or a host after a moment, oldest first.
    ///
    /// # Errors
    /// When SQLite does not answer.
    pub fn means(&self, of: &Address, after: Timestamp) -> Result<Vec<Sample>, StoreError> {
        let connection = self.lock();
        let read = || -> rusqlite::Result<Vec<Sample>> {
            let sql = "SELECT at, cpu, memory, disk_read, disk_written, net_received, net_sent FROM stat \
                       WHERE at > ?1 AND subject = ?2 ORDER BY at";
            let mut statement = connection.prepare_cached(sql)?;
            let mean = |row: &rusqlite::Row<'_>| {
                let mut numbers = [0; 6];
                for (i, n) in numbers.iter_mut().enumerate() {
                    *n = time_sql(row.get(i + 1)?);
                }
                Ok(Sample::of(Timestamp(time_sql(row.get(0)?)), numbers))
            };
            statement.query_map(params![sql_time(after), of.to_string()], mean)?.collect()
        };
        read().map_err(did("read statistics"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    #[test]
    fn means_are_kept_for_a_day() {
        let store = Store::in_memory().unwrap();
        let web = Address::Vm(Name::new("web").unwrap());
        let mean = |at| Sample::of(Timestamp(at), [500, 1 << 30, 1, 2, 3, 4]);
        for at in [300, 600, 900] {
            store.keep_means(&[(web.clone(), mean(at))], Timestamp(at)).unwrap();
        }
        assert_eq!(store.means(&web, Timestamp(300)).unwrap(), [mean(600), mean(900)]);
        assert_eq!(store.means(&Address::Host(Name::new("web").unwrap()), Timestamp(0)).unwrap(), []);
        store.keep_means(&[], Timestamp(MEANS_KEPT + 600)).unwrap();
        assert_eq!(store.means(&web, Timestamp(0)).unwrap(), [mean(900)]);
    }
}
