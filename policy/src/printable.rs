//! Text of a file as a terminal may show it.

use std::borrow::Cow;

/// The text, with everything escaped that a terminal would act upon or that would hide what stands there: control
/// characters, marks that turn the direction of writing (Unicode TR 36 §3.6), and letters of no width.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unseen) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unseen(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_act_upon_is_escaped() {
        for (text, shown) in [
            ("CISO \"SEC-204\" \\ müller, 例え", "CISO \"SEC-204\" \\ müller, 例え"),
            ("\u{1b}[31mX", "\\u{1b}[31mX"),
            ("a\nb\tc\u{7f}\u{9b}", "a\\nb\\tc\\u{7f}\\u{9b}"),
            ("a\u{202e}b\u{200b}\u{feff}", "a\\u{202e}b\\u{200b}\\u{feff}"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }
}
