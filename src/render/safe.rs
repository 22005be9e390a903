//! Texts from YAML are hostile: a pull request must not forge a verdict, ping a team or turn a line round.

use std::fmt::Write as _;

/// Whether a character could move the cursor, hide text or change its direction.
///
/// Control characters (Unicode Cc), the bidirectional controls of UAX #9 and the invisible format characters
/// that are used to smuggle text.
fn is_treacherous(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00ad}' | '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A text for one line of a terminal: line ends become spaces, treacherous characters are written as `\u{…}`.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(' '),
            '\r' => {}
            c if is_treacherous(c) => {
                let _ = write!(out, "{}", c.escape_unicode());
            }
            c => out.push(c),
        }
    }
    out
}

/// [`clean`], and everything outside ASCII as `\u{…}`: for `--ascii`.
pub(super) fn clean_ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in clean(text).chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            let _ = write!(out, "{}", c.escape_unicode());
        }
    }
    out
}

/// A text inside Markdown: nothing in it is markup, a mention, a reference, a link or the hidden marker.
///
/// Structural characters become numeric entities. GitHub looks for `@name` and `#12` after entities are decoded,
/// so a zero-width space follows those two.
pub(super) fn markdown(text: &str) -> String {
    let clean = clean(text).replace("www.", "www&#46;");
    let mut out = String::with_capacity(clean.len() + 16);
    let mut entity = false;
    for (i, c) in clean.char_indices() {
        // The entity that was just put in for `www.` stays one.
        if clean[i..].starts_with("&#46;") {
            entity = true;
        }
        if entity {
            out.push(c);
            entity = c != ';';
            continue;
        }
        match c {
            '@' => out.push_str("&#64;&#8203;"),
            '#' => out.push_str("&#35;&#8203;"),
            ':' if clean[i..].starts_with("://") => out.push_str("&#58;"),
            '|' | '`' | '<' | '>' | '&' | '*' | '_' | '[' | ']' | '!' | '\\' | '~' | '$' => {
                let _ = write!(out, "&#{};", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// A text as code inside a line or a table cell: an HTML element, because a backtick in a text ends a code span.
pub(super) fn code(text: &str) -> String {
    format!("<code>{}</code>", markdown(text))
}

/// A fenced block whose fence is longer than any run of backticks in it.
pub(super) fn fence(language: &str, body: &str) -> String {
    let longest = body.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let body: Vec<String> = body.lines().map(|line| clean(line).replace("<!--", "<! --")).collect();
    format!("{fence}{language}\n{}\n{fence}\n", body.join("\n"))
}

/// A label inside quotes of a Mermaid node: letters, digits and a few signs; the rest breaks parsers.
pub(super) fn label(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || " ./_+-".contains(c);
    let plain: String = text.chars().map(|c| if allowed(c) { c } else { ' ' }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn treacherous_characters_are_shown_not_obeyed() {
        assert_eq!(clean("a\u{1b}[31mb\u{202e}c\nd"), "a\\u{1b}[31mb\\u{202e}c d");
        assert_eq!(clean_ascii("größe"), "gr\\u{f6}\\u{df}e");
    }

    #[test]
    fn markdown_from_yaml_is_never_markup() {
        let hostile = markdown("<!-- stablehand:plan v1 --> @team #12 `x` | ~~no~~ https://e.x www.e.x");
        for bad in ["<", ">", "@t", " #12", "`", "|", "~", "://", "www."] {
            assert!(!hostile.contains(bad), "{bad} in {hostile}");
        }
        assert!(hostile.contains("www&#46;e"), "{hostile}");
    }

    #[test]
    fn a_fence_is_longer_than_what_it_holds() {
        assert!(fence("diff", "+ ````\n- x").starts_with("`````diff\n"));
    }
}
