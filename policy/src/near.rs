//! What somebody may have meant: known words close to an unknown one.

/// The known words nearest to `word`, at most three, the nearest first: as help for a typing error.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Vec<&'k str> {
    const SHOWN: usize = 3;
    // Words of a policy are short; what is longer is no slip of a finger, and the distance costs its square.
    const LIMIT_BYTES: usize = 64;
    if word.len() > LIMIT_BYTES {
        return Vec::new();
    }
    let far = word.len() / 4 + 1;
    let mut found: Vec<(usize, &str)> = known
        .into_iter()
        .filter(|known| known.len().abs_diff(word.len()) <= far)
        .map(|known| (distance(word.as_bytes(), known.as_bytes()), known))
        .filter(|(distance, _)| *distance <= far)
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().take(SHOWN).map(|(_, known)| known).collect()
}

/// Help that names what is near, or all there is, or nothing where there is too much.
pub(crate) fn help<'k>(
    word: &str,
    known: impl IntoIterator<Item = &'k str> + Clone,
    otherwise: &str,
) -> String {
    const SHOWN: usize = 12;
    let near = nearest(word, known.clone());
    if !near.is_empty() {
        return format!("did you mean {}?", near.join(" or "));
    }
    let mut all: Vec<&str> = known.into_iter().take(SHOWN + 1).collect();
    all.sort_unstable();
    match all.len() {
        1..=SHOWN => format!("there are: {}", all.join(", ")),
        _ => otherwise.to_owned(),
    }
}

/// How many letters must be added, removed or changed to make one of the other (Levenshtein).
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = above[0];
        above[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = above[j + 1];
            above[j + 1] = changed.min(above[j] + 1).min(diagonal + 1);
        }
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_near_and_other_words_are_not() {
        let known = ["kaspersky-update", "kaspersky-update-geo", "kaspersky-mail", "mine"];
        for (word, near) in [
            ("kaspersky-updat", &["kaspersky-update"][..]),
            ("kasperski-mail", &["kaspersky-mail"]),
            ("mein", &["mine"]),
            ("other", &[]),
            ("", &[]),
        ] {
            assert_eq!(nearest(word, known), near, "{word}");
        }
    }

    #[test]
    fn the_distance_counts_letters() {
        for (a, b, letters) in
            [("", "", 0), ("abc", "", 3), ("abc", "abc", 0), ("abc", "axc", 1), ("ab", "ba", 2)]
        {
            assert_eq!(distance(a.as_bytes(), b.as_bytes()), letters, "{a} {b}");
            assert_eq!(distance(b.as_bytes(), a.as_bytes()), letters, "{b} {a}");
        }
    }
}
