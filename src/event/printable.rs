//! Text of an event or a store, fit for a terminal.

use std::fmt::Write as _;

/// Whether a terminal shows the character and does nothing else: not a control character, which could move the
/// cursor, hide a line or set the title, and not a mark that turns the reading direction.
pub fn is_printable(character: char) -> bool {
    let reorders =
        matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !character.is_control() && !reorders
}

/// The text with all other characters as `\u{…}`.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if is_printable(character) {
            out.push(character);
        } else {
            // Writing to a String does not fail.
            let _ = write!(out, "{}", character.escape_unicode());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_steered_by_an_event() {
        assert_eq!(printable("alice\x1b[2J\r\n\u{202e}x"), "alice\\u{1b}[2J\\u{d}\\u{a}\\u{202e}x");
        assert_eq!(printable("Zoë 東京"), "Zoë 東京");
    }
}
