//! The program: see the library's map.
fn main() {}
