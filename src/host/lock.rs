//! One controller at a time on a host: flock(2) on a file in its slots folder. The kernel gives it back when the holder
//! dies; what stands in the file says who it is.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::execute::LockError;
use crate::model::{LockHolder, Timestamp};

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "held open: flock ends with the last descriptor")] File);

/// Takes the lock.
///
/// # Errors
/// [`LockError::Held`] with who has it.
pub fn take(path: &Path, who: &LockHolder) -> Result<Held, LockError> {
    let failed = |e: std::io::Error| LockError::Failed(format!("{}: {e}", path.display()));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(failed)?;
    // Whoever looks who holds it has it for a moment: two tries are enough.
    let patience = Instant::now() + Duration::from_millis(300);
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > patience {
            return Err(LockError::Held(read(&mut file)));
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    let text = serde_json::to_string(who).unwrap_or_default();
    file.set_len(0).map_err(failed)?;
    file.rewind().map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    Ok(Held(file))
}

/// Who holds the lock now, if anybody does.
pub fn holder(path: &Path) -> Option<LockHolder> {
    let mut file = File::open(path).ok()?;
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return None;
    }
    Some(read(&mut file))
}

fn read(file: &mut File) -> LockHolder {
    let mut text = String::new();
    let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
    let nobody = || LockHolder { token: String::new(), who: "another process".to_owned(), since: Timestamp(0) };
    serde_json::from_str(&text).unwrap_or_else(|_| nobody())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slots/.f.lock");
        let who = |n: &str| LockHolder { token: n.to_owned(), who: n.to_owned(), since: Timestamp(1) };
        let held = take(&path, &who("ann")).unwrap();
        assert_eq!(take(&path, &who("bob")).unwrap_err(), LockError::Held(who("ann")));
        assert_eq!(holder(&path), Some(who("ann")));
        drop(held);
        assert_eq!(holder(&path), None);
        assert!(take(&path, &who("bob")).is_ok());
    }
}
