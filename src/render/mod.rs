//! Plans, states and reports as text, Markdown, JSON and Mermaid.
//!
//! *Takes* a [`Plan`](crate::plan::Plan), observed state, reports, and a [`Style`]. *Gives* strings; every form of
//! a plan is a rendering of the same value. *Never* prints, reads the terminal or the clock, or trusts a text that
//! came from YAML.

mod builds;
mod diff;
mod group;
mod hosts;
mod images;
mod markdown;
mod matrix;
mod mermaid;
mod paint;
mod reach;
mod report;
mod safe;
mod sections;
mod status;
mod table;
mod tasks;
mod terms;
mod text;
mod words;

pub use diff::lines as line_diff;
pub use hosts::HostRow;
pub use images::{GenerationUse, ImageUse, MemberUse, SetUse, image_text, images_text};
pub use markdown::{COMMENT_BUDGET, markdown};
pub use matrix::{matrix_markdown, matrix_text};
pub use mermaid::mermaid;
pub use paint::Style;
pub use reach::reach_text;
pub use report::{Tally, report_text, tally};
pub use safe::clean;
pub use status::{ForeignRow, ServiceRow, Status, StepRow, VmRow, status_text};
pub use table::{Align, Table};
pub use tasks::{SaidRow, TaskRow, TaskUse, TaskVm, task_text};
pub use terms::{ending, term_text};
pub use text::text;
pub use words::{age, moment, short_revision};

/// The plan's JSON form, indented, with a line end: what `plan --out` writes and `show` reads.
pub fn json(plan: &crate::plan::Plan) -> String {
    let mut text = serde_json::to_string_pretty(plan).unwrap_or_else(|e| format!("{{\"error\": \"{e}\"}}"));
    text.push('\n');
    text
}

#[cfg(test)]
mod tests;
