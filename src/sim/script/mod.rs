//! The script language of the simulator: a line is a statement; `#` begins a comment.
//!
//! ```text
//! host h1 cpus 8 memory 16GiB        a machine (also: disk, acceleration, cpu); those of the fleet that are not named get a default
//! load fleet                         the fleet's folder, relative to the script
//! plan                               prints the plan
//! apply                              plans and carries it out; `apply crash after step 7` ends us there
//! fail step Start of web-1 once      also: hang, half (changes, then fails), mute (changes, answer lost)
//! at step 5 kill host h2             an event in the middle of the next apply
//! kill host h2 · cut host h2 · revive host h2 · slow host h2 3
//! cut link h1 h2 · heal link h1 h2 · slow link h1 h2 10MiB       between hosts: `cut host` is from us
//! at hand-over of web-1 cut link h1 h2    a stage of a migration: storage, memory, hand-over or arrival
//! at memory of web-1 crash controller     we end there, as after `apply crash after step 7`
//! swap host h2 · swap back host h2        another machine answers there
//! restart libvirtd on h2 · fence of h2 fails · fence of h2 works
//! drain h2 [cold | stop] by ann · restore h2 by ann · withdraw h2 · controller two
//! stop vm web-1 · start vm · pause vm · crash vm · undefine vm      somebody by hand
//! set vm web-1 memory 256MiB · set vm web-1 cpus 2 · set vm web-1 autostart on · define vm web-1 cpus 2
//! lose disk data of web-1 · foreign vm x memory 1GiB on h1 · bridge br0 on h1 · lose bridge br0 on h1
//! interface eth1 on h1 · interface eth1 on h1 with 192.0.2.5/24 · lose interface eth1 on h1
//! unplug eth1 on h1 · flush border shl0 on h1    out of its bridge; what stands at it
//! flush filter on h1 · damage filter on h1 · filter of h1 fails · filter of h1 works
//! lock host h1 by bob · unlock host h1 · delete store · advance 2h
//! guest web-1 boots in 20s · guest web-1 never boots · guest web-1 ignores shutdown · guest web-1 keeps its memory
//! guest web-1 never converges · image b2b2 never boots · image b2b2 boots    clones of it, by its first digits
//! guest web-1 has no agent · guest web-1 has an agent · guest web-1 fails programs · guest web-1 runs programs
//! seal desk by ann · abandon desk by ann · retry desk by ann     of an image that is made in the fleet
//! hold web-1 stopped by ann · withdraw web-1 · restart web-1 by ann · retry task patch by ann
//! quarantine web-1 [close | suspend | stop] by ann · guard of web-1 fails (too often) · release web-1 by ann
//! expect no changes · expect changes 2 · expect blocked 1 · expect no violation · expect violation
//! expect vm web-1 running on h1 · expect vm web-1 moving · expect vm web-1 absent
//! show hosts · show vms · show disks · show filters · show guests · show log
//! ```

mod parse;
mod run;
mod show;

pub use parse::{Crash, Expect, GuestChange, ImageWord, ScriptError, Show, Statement, parse};
pub use run::{Injected, Transcript, run, run_with};
