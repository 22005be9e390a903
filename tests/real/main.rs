//! Real hypervisors and real guests. Says aloud when it is skipped: it needs root, QEMU and libvirt's QEMU driver.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests: files, clocks and programs are what is tried, and what was measured is printed"
)]

mod bridges;
mod builds;
mod capture;
mod containers;
mod device;
mod guest;
mod host;
mod killed;
mod moving;
mod quarantine;
mod rack;
mod rolls;
mod rules;
mod slots;
mod tasks;
mod trials;

/// Whether real guests can run here; in words, what is missing.
pub(crate) fn can_run() -> Result<(), String> {
    let has = |program: &str| {
        let found = std::process::Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        found.is_ok_and(|o| o.status.success())
    };
    if !rustix::process::geteuid().is_root() {
        return Err("not root".to_owned());
    }
    for program in ["qemu-system-x86_64", "qemu-img", "ip"] {
        if !has(program) {
            return Err(format!("`{program}` is not installed"));
        }
    }
    Ok(())
}
