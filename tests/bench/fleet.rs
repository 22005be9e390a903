//! Speed (see README): run by `cargo bench`.
fn main() {}
