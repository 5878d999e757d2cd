//! Which known name an unknown one is nearest to.

/// The nearest of `known` to `name`: one that has it within, or else one for which at most half of it would have to
/// change. Case and `-` for `_` cost nothing.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let name = plain(name);
    if name.len() > MAX_NAME_BYTES {
        return None;
    }
    let is_within = |known: &str| name.len() >= MIN_PART_BYTES && known.contains(&name);
    let judged = known.map(|known| (!is_within(&plain(known)), distance(&name, &plain(known)), known));
    let (apart, changes, best) = judged.min_by_key(|(apart, changes, _)| (*apart, *changes))?;
    (!apart || changes * 2 <= name.len()).then_some(best)
}

/// Shorter parts say nothing.
const MIN_PART_BYTES: usize = 4;

/// Longer names are not compared: the work grows with the square.
const MAX_NAME_BYTES: usize = 128;

/// How many bytes have to be changed, put in or taken out (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (down, old) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = down + 1;
        for (across, new) in to.bytes().enumerate() {
            let changed = diagonal + usize::from(old != new);
            diagonal = row[across + 1];
            row[across + 1] = changed.min(diagonal + 1).min(row[across] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_textbook() {
        for (from, to, expected) in
            [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("abc", "abc", 0), ("flaw", "lawn", 2)]
        {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn a_slip_is_understood_and_a_stranger_is_not() {
        let known = || ["max_connections", "listen", "data"].into_iter();
        assert_eq!(nearest("max-conections", known()), Some("max_connections"));
        assert_eq!(nearest("LISTEN", known()), Some("listen"));
        assert_eq!(nearest("connections", known()), Some("max_connections"));
        assert_eq!(nearest("max", known()), None);
        assert_eq!(nearest("replication", known()), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), known()), None);
    }
}
