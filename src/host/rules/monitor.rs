//! Listens on a host whether somebody changes the rules of a fleet's table.
//!
//! *Takes* what `nft monitor rules` prints: a line for each rule that comes or goes, a flush included. *Gives* a note. *Never*
//! outlives us on the host: it ends with its standard input, and so with us, however we end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use super::table::table_name;
use crate::host::shell::Shell;
use crate::model::Name;

/// Runs nft for as long as its own standard input is open.
const LISTEN: &str = r#"nft monitor rules </dev/null & nft=$!
( while kill -0 $nft 2>/dev/null; do sleep 5; done; kill $$ ) >/dev/null 2>&1 </dev/null & guard=$!
cat >/dev/null; kill $nft $guard 2>/dev/null; wait $nft 2>/dev/null"#;

/// Between two tries: doubled from the first to the second, and begun anew after a minute that went well.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Of a line that is longer, as one with a set is, the beginning names the table.
const LINE: usize = 256;

/// Calls `heard` whenever a rule of the fleet's table changes, and each time it begins to listen: nobody knows what happened
/// before. Goes on until it is dropped.
pub async fn watch(shell: Arc<dyn Shell>, fleet: Name, heard: Arc<dyn Fn() + Send + Sync>) {
    let mut wait = FIRST;
    let mut first = true;
    loop {
        let began = Instant::now();
        listen(shell.as_ref(), &fleet, &heard, first).await;
        first = false;
        if began.elapsed() > LONGEST {
            wait = FIRST;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST);
    }
}

async fn listen(shell: &dyn Shell, fleet: &Name, heard: &Arc<dyn Fn() + Send + Sync>, first: bool) {
    let words = ["sh", "-c", LISTEN].map(str::to_owned).to_vec();
    let Ok(mut running) = shell.start(words).await else { return };
    let Some(mut stdout) = running.stdout.take() else { return };
    if !first {
        heard();
    }
    // "add rule bridge stablehand-shop from …", "delete rule bridge stablehand-shop from handle 4"
    // and of a bridge that is isolated or behind NAT: "delete rule inet stablehand-shop.shq0 forward handle 2".
    let table = table_name(fleet);
    let needles = [format!(" rule bridge {table} "), format!(" rule inet {table}.")].map(String::into_bytes);
    let mut buffer = vec![0; 1 << 16];
    let mut line: Vec<u8> = Vec::new();
    while let Ok(read @ 1..) = stdout.read(&mut buffer).await {
        let mut ours = false;
        for byte in &buffer[..read] {
            match byte {
                b'\n' => {
                    ours |= needles.iter().any(|needle| line.windows(needle.len()).any(|w| w == needle));
                    line.clear();
                }
                _ if line.len() < LINE => line.push(*byte),
                _ => {}
            }
        }
        if ours {
            heard();
        }
    }
    // Its end frees what it has; how it ended says nothing.
    let _ = tokio::time::timeout(Duration::from_secs(5), running.end()).await;
}
