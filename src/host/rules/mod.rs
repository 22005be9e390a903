//! The packet filter of a host: one nftables table a fleet, in the `bridge` family, through the host's shell.
//!
//! *Takes* [`HostRules`]. *Gives* what a host has ([`observe`]) and makes it so ([`apply`]). *Never* touches another table, or
//! decides who may talk to whom.
//!
//! A table is replaced in one transaction: at no time is it half there. It is called `stablehand-<fleet>` and judges what
//! passes interfaces whose names begin as the fleet's do ([`tap_prefix`](crate::model::tap_prefix)), so two fleets share a host
//! without knowing of one another. Neither connection tracking nor `meta ibrname` is used: some kernels have none for bridges.
//!
//! What is trusted: that hosts and what is plugged into a bridge beside our guests do not forge addresses of our guests, since
//! nothing but a frame's source tells where it comes from once it has passed a cable.

mod chains;
mod generation;
mod monitor;
mod read;
mod table;
mod timer;
mod wire;

use std::sync::Arc;
use std::time::Duration;

pub use monitor::watch;
use nftables::schema::Nftables;
pub use timer::Guard;

use self::table::{Content, table_name};
use super::shell::{Output, Program, Shell, ShellError};
use crate::execute::{Done, StepError};
use crate::model::{FilterObs, HostRules, Name};

/// How long nft may take: 50,000 elements take a few seconds on a slow host.
const LIMIT: Duration = Duration::from_secs(30);

/// A table as it was last seen or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept(Arc<Table>);

#[derive(Debug, PartialEq, Eq)]
struct Table {
    rules: HostRules,
    content: Content,
    /// The number of the kernel's ruleset that has it. As long as it is that, nobody has changed anything.
    generation: Option<u32>,
    /// Whether all of it was read back since it was last written whole.
    is_read: bool,
}

impl Kept {
    fn new(rules: HostRules, content: Content, generation: Option<u32>, is_read: bool) -> Self {
        Self(Arc::new(Table { rules, content, generation, is_read }))
    }

    /// Whether it is certain that the table is as it was: the ruleset has the same number still.
    fn is_current(&self, generation: Option<u32>) -> bool {
        generation.is_some() && self.0.generation == generation
    }

    /// What it says.
    pub fn rules(&self) -> &HostRules {
        &self.0.rules
    }
}

/// What was found of a fleet's table.
enum Found {
    None,
    Ours(Kept),
    Damaged(String),
    Unable(Unable),
}

/// Why a host cannot have packet filters, and what would mend it.
struct Unable {
    what: String,
    mend: &'static str,
}

impl Unable {
    fn said(&self) -> String {
        format!("{}: {}", self.what, self.mend)
    }
}

/// Looks at a fleet's table on a host. `kept` is what was seen, for [`apply`] to begin with; what was read before, and that
/// nobody has changed since, is not read again.
///
/// # Errors
/// The host cannot be reached or did not answer in time.
pub async fn observe(shell: &dyn Shell, fleet: &Name, kept: &mut Option<Kept>) -> Result<FilterObs, ShellError> {
    let generation = generation::now(shell);
    if let Some(known) = kept.as_ref().filter(|k| k.0.is_read && k.is_current(generation)) {
        return Ok(FilterObs::Table(known.0.rules.clone()));
    }
    *kept = None;
    Ok(match look(shell, fleet).await? {
        // That there is no table does not say that there can be one.
        Found::None => match can_have(shell, fleet).await? {
            Some(unable) => FilterObs::Unable(unable.said()),
            None => FilterObs::Table(HostRules::default()),
        },
        Found::Ours(seen) => FilterObs::Table(kept.insert(seen).0.rules.clone()),
        Found::Damaged(odd) => FilterObs::Damaged(odd),
        Found::Unable(unable) => FilterObs::Unable(unable.said()),
    })
}

async fn look(shell: &dyn Shell, fleet: &Name) -> Result<Found, ShellError> {
    let before = generation::now(shell);
    let words = ["nft", "-j", "list", "table", "bridge", &table_name(fleet)];
    let listing = match answer(shell.run(Program::new(words).limit(LIMIT)).await)? {
        Err(unable) => return Ok(Found::Unable(unable)),
        Ok(output) if output.status == 0 => output.stdout,
        // What nft says when the kernel knows no such table (ENOENT).
        Ok(output) if output.stderr.contains("No such file or directory") => return Ok(Found::None),
        Ok(output) => return Ok(Found::Unable(strange(&output))),
    };
    // Who came in between may have been seen in part.
    let generation = before.filter(|n| generation::now(shell) == Some(*n));
    let fleet = fleet.clone();
    // Some thousand elements take a while, and other hosts answer meanwhile.
    let read = tokio::task::spawn_blocking(move || {
        let content = read::read(&fleet, &listing)?;
        Ok(Kept::new(content.read(&fleet)?, content, generation, true))
    });
    Ok(match read.await.unwrap_or_else(|e| Err(e.to_string())) {
        Ok(kept) => Found::Ours(kept),
        Err(odd) => Found::Damaged(odd),
    })
}

/// Whether a host can have such a table: nft and its kernel are asked, and nothing is changed.
async fn can_have(shell: &dyn Shell, fleet: &Name) -> Result<Option<Unable>, ShellError> {
    let batch = text(&wire::whole(fleet, &Content::empty()));
    let words = ["nft", "-c", "-j", "-f", "-"];
    Ok(match answer(shell.run(Program::new(words).stdin(batch).limit(LIMIT)).await)? {
        Err(unable) => Some(unable),
        Ok(output) if output.status == 0 => None,
        Ok(output) => Some(Unable {
            what: format!("the kernel takes no bridge table ({})", last(&output)),
            mend: "`modprobe nf_tables`, with a kernel that has CONFIG_NF_TABLES_BRIDGE",
        }),
    })
}

/// What an nft answers, if there is one that may.
fn answer(result: Result<Output, ShellError>) -> Result<Result<Output, Unable>, ShellError> {
    let output = match result {
        Err(ShellError::NoProgram(_)) => {
            let what = "nft is not installed on the host".to_owned();
            return Ok(Err(Unable { what, mend: "install the package `nftables`" }));
        }
        other => other?,
    };
    let says = |text: &str| output.stderr.contains(text);
    let mend = if says("Operation not permitted") || says("Permission denied") {
        "let the host's shell be root, or give it CAP_NET_ADMIN"
    } else if says("JSON support not compiled-in") {
        "install an nft that is built with JSON"
    } else {
        return Ok(Ok(output));
    };
    Ok(Err(Unable { what: format!("nft cannot be used ({})", last(&output)), mend }))
}

fn strange(output: &Output) -> Unable {
    Unable { what: format!("nft failed ({})", last(output)), mend: "`nft list tables` on the host says more" }
}

/// The line of a complaint that says most: nft's own first one.
fn last(output: &Output) -> String {
    let mut lines = output.stderr.lines().map(str::trim).filter(|l| !l.is_empty());
    let line = lines.clone().find(|l| l.contains("Error")).or_else(|| lines.next_back());
    line.map_or_else(|| format!("status {}", output.status), |l| l.chars().take(300).collect())
}

fn text(batch: &Nftables<'_>) -> Vec<u8> {
    serde_json::to_vec(batch).unwrap_or_default()
}

fn refused(unable: &Unable) -> StepError {
    StepError::Failed { what: unable.what.clone(), hint: Some(unable.mend.to_owned()), detail: Vec::new() }
}

/// Makes a fleet's table on a host say `rules`, and looks whether it does. Where `kept` says what is there, the elements that
/// differ are all that is sent, in a transaction that fails when they are not as it says.
///
/// Where the kernel counts exactly one transaction since we looked, it was ours, whole, and what was there and what was sent is
/// what is there; the next [`observe`] reads all of it back where all of it was sent. Elsewhere it is read back at once.
///
/// # Errors
/// [`StepError`]: the host cannot have packet filters, or cannot be reached.
pub async fn apply(
    shell: &dyn Shell,
    fleet: &Name,
    rules: &HostRules,
    kept: &mut Option<Kept>,
    guard: Guard<'_>,
) -> Result<Done, StepError> {
    let before = generation::now(shell);
    if kept.as_ref().is_some_and(|k| k.0.rules == *rules && k.is_current(before)) {
        return Ok(Done::Already);
    }
    let believed = kept.take().filter(|k| k.0.rules != *rules);
    let known = match believed {
        Some(believed) => Found::Ours(believed),
        None => look(shell, fleet).await?,
    };
    let content = Content::of(fleet, rules);
    match known {
        Found::Ours(seen) if seen.0.rules == *rules => {
            *kept = Some(seen);
            return Ok(Done::Already);
        }
        Found::None if rules.taps.is_empty() => return Ok(Done::Already),
        Found::Unable(unable) => return Err(refused(&unable)),
        Found::Ours(seen) if !rules.taps.is_empty() && is_small(&seen.0.content, &content) => {
            let batch = wire::change(fleet, &seen.0.content, &content);
            let before = generation::now(shell);
            if guard.run(shell, fleet, text(&batch)).await?.is_ok() {
                let after = generation::now(shell);
                let alone = seen.is_current(before) && generation::is_next(before, after);
                if alone || stands(shell, fleet, &content).await? {
                    let after = after.filter(|_| alone);
                    *kept = Some(Kept::new(rules.clone(), content, after, alone && seen.0.is_read));
                    return Ok(Done::Changed);
                }
            }
            // Somebody was there: all of it anew.
        }
        _ => {}
    }
    let batch = if rules.taps.is_empty() { wire::none(fleet) } else { wire::whole(fleet, &content) };
    let before = generation::now(shell);
    if let Err(unable) = guard.run(shell, fleet, text(&batch)).await? {
        return Err(refused(&unable));
    }
    let after = generation::now(shell);
    if generation::is_next(before, after) {
        *kept = (!rules.taps.is_empty()).then(|| Kept::new(rules.clone(), content, after, false));
        return Ok(Done::Changed);
    }
    match look(shell, fleet).await? {
        Found::None if rules.taps.is_empty() => Ok(Done::Changed),
        Found::Ours(seen) if seen.0.rules == *rules => {
            *kept = Some(seen);
            Ok(Done::Changed)
        }
        Found::Ours(_) | Found::None => Err(StepError::Unknown("the packet filter was changed by somebody".to_owned())),
        Found::Damaged(odd) => Err(StepError::failed(format!("the packet filter is not as it was written: {odd}"))),
        Found::Unable(unable) => Err(refused(&unable)),
    }
}

/// Whether so little differs that it is sent alone: an element is as dear to remove as to add.
fn is_small(old: &Content, new: &Content) -> bool {
    let all: usize = new.0.values().map(std::collections::BTreeMap::len).sum();
    let differ = |a: &Content, b: &Content| -> usize {
        let sets = a.0.iter().filter_map(|(name, elements)| Some((elements, b.0.get(name)?)));
        sets.map(|(a, b)| a.iter().filter(|(key, comment)| b.get(*key) != Some(comment)).count()).sum()
    };
    (differ(old, new) + differ(new, old)) * 2 < all
}

/// Sees that chains, rules and sets are there; what the sets hold was seen when the transaction went through.
async fn stands(shell: &dyn Shell, fleet: &Name, content: &Content) -> Result<bool, StepError> {
    let words = ["nft", "-j", "-t", "list", "table", "bridge", &table_name(fleet)];
    let output = shell.run(Program::new(words).limit(LIMIT)).await?;
    Ok(output.status == 0 && read::stands(fleet, &output.stdout, content).is_ok())
}
