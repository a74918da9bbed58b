//! What people read: standard output for answers, standard error for faults.

use std::{
    fmt::{Arguments, Write as _},
    io::{self, Write as _},
};

/// Writes a line to standard output. A reader that has gone away is no fault of ours.
pub fn say(line: Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Writes an error and its causes to standard error.
pub fn fault(error: &anyhow::Error) {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        // Many errors repeat the text of their cause.
        if !text.contains(&cause) {
            let separator = if text.is_empty() { "" } else { ": " };
            let _ = write!(text, "{separator}{cause}");
        }
    }
    let _ = writeln!(io::stderr(), "weir: {text}");
}

/// Writes a remark to standard error.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "weir: {text}");
}

/// [`say`] with the arguments of `format!`.
macro_rules! sayln {
    ($($arguments:tt)*) => { $crate::output::say(format_args!($($arguments)*)) };
}
pub(crate) use sayln;
