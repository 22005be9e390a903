//! Where a verb's words go: this process's terminal, or the client of the control socket that asked for it.

use std::io::{BufRead as _, IsTerminal as _, Write};
use std::sync::{Mutex, PoisonError};

use crate::render::Style;

/// Asks a person; true is yes.
type Asker = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// stdout is data; everything else is stderr.
pub(crate) struct Console {
    out: Mutex<Box<dyn Write + Send>>,
    err: Mutex<Box<dyn Write + Send>>,
    asker: Option<Asker>,
    /// Whether stdout takes colours.
    pub(crate) color: bool,
    /// Columns of stdout.
    pub(crate) width: usize,
    /// Whether stderr is a terminal that can show bars.
    pub(crate) bars: bool,
}

impl Console {
    /// The process's own streams.
    pub(crate) fn of_process() -> Self {
        let (out, err) = (std::io::stdout(), std::io::stderr());
        let asker = (std::io::stdin().is_terminal() && err.is_terminal()).then(|| Box::new(ask_terminal) as Asker);
        let (color, bars) = (out.is_terminal(), err.is_terminal());
        let width = columns().unwrap_or(110).clamp(60, 160);
        Self { out: Mutex::new(Box::new(out)), err: Mutex::new(Box::new(err)), asker, color, width, bars }
    }

    /// Streams of somebody else.
    pub(crate) fn of(
        out: Box<dyn Write + Send>,
        err: Box<dyn Write + Send>,
        asker: Option<Asker>,
        color: bool,
        width: usize,
    ) -> Self {
        Self { out: Mutex::new(out), err: Mutex::new(err), asker, color, width: width.clamp(60, 160), bars: false }
    }

    /// Data. A reader that went away (`| head`) is no error.
    pub(crate) fn out(&self, text: &str) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// Anything else, as it is.
    pub(crate) fn err(&self, text: &str) {
        let mut err = self.err.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }

    /// A line for people on stderr.
    pub(crate) fn note(&self, text: &str) {
        self.err(&format!("{text}\n"));
    }

    /// Whether there is somebody to ask.
    pub(crate) fn can_ask(&self) -> bool {
        self.asker.is_some()
    }

    /// Asks; no one there means no.
    pub(crate) fn ask(&self, question: &str) -> bool {
        self.asker.as_ref().is_some_and(|ask| tokio::task::block_in_place(|| ask(question)))
    }

    /// How plans and tables look here.
    pub(crate) fn style(&self, global: &super::args::Global, no_color: bool, show_all: bool) -> Style {
        let color = self.color && !global.no_color && !no_color;
        Style { ascii: global.ascii, color, width: self.width, show_all, stable: false }
    }
}

/// Asks on the terminal: `y` or `yes` is yes.
fn ask_terminal(question: &str) -> bool {
    let mut err = std::io::stderr();
    // What was typed before the question is no answer to it.
    let _ = rustix::termios::tcflush(std::io::stdin(), rustix::termios::QueueSelector::IFlush);
    let _ = write!(err, "\n{question} [y/N] ").and_then(|()| err.flush());
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer).unwrap_or(0);
    read > 0 && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// The terminal's columns (`TIOCGWINSZ`).
fn columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then(|| usize::from(size.ws_col))
}
