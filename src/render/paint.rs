//! How a rendering looks: signs, colours, width.

use super::safe;

/// How text is rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Signs of ASCII only.
    pub ascii: bool,
    /// ANSI colours (ECMA-48 SGR).
    pub color: bool,
    /// Columns; longer lines are wrapped between words. At least 60.
    pub width: usize,
    /// Nothing is folded, and notes are shown although nothing happens.
    pub show_all: bool,
    /// Without ages and durations: the same inputs give the same text tomorrow. For snapshots.
    pub stable: bool,
}

impl Default for Style {
    fn default() -> Self {
        Self { ascii: false, color: false, width: 110, show_all: false, stable: false }
    }
}

impl Style {
    /// What snapshot tests use: ASCII, no colour, 110 columns, no ages.
    pub const fn stable() -> Self {
        Self { ascii: true, color: false, width: 110, show_all: false, stable: true }
    }
    /// A text from outside, fit for this style.
    pub(super) fn clean(&self, text: &str) -> String {
        if self.ascii { safe::clean_ascii(text) } else { safe::clean(text) }
    }
    /// `text` in a colour, where colours are wanted.
    pub(super) fn paint(&self, ink: Ink, text: &str) -> String {
        if !self.color || text.is_empty() {
            return text.to_owned();
        }
        let code = match ink {
            Ink::Plain => return text.to_owned(),
            Ink::Red => "31;1",
            Ink::Yellow => "33",
            Ink::Green => "32",
            Ink::Magenta => "35;1",
            Ink::Dim => "2",
            Ink::Bold => "1",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
    /// ` -> ` or ` → `.
    pub(super) const fn arrow(&self) -> &'static str {
        if self.ascii { "->" } else { "→" }
    }
}

/// Colours by meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ink {
    /// As the terminal has it.
    Plain,
    /// Something ends.
    Red,
    /// A person notices.
    Yellow,
    /// New, or well.
    Green,
    /// Stopped.
    Magenta,
    /// Beside the point.
    Dim,
    /// A heading.
    Bold,
}

/// Breaks `text` between words so that no line is longer than `width`; words longer than that stay whole.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            lines.push(String::new());
            used = 0;
        }
        if let Some(line) = lines.last_mut() {
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += length;
        }
    }
    lines
}
