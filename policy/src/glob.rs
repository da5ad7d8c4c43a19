//! Names with `*` inside labels.

use std::fmt;

use crate::name::{DomainName, Name, labels_to_wire, to_ascii};

/// A name in which `*` stands for any characters inside one label, none included.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Glob {
    /// The labels up to the last one with `*`, from left to right.
    labels: Vec<Vec<u8>>,
    /// What stands right of them: the part that counts for precedence.
    fixed: DomainName,
}

impl Glob {
    /// Reads a glob as people write it.
    ///
    /// # Errors
    /// As for a name, and when no label holds `*` or no label stands right of the last one that does.
    pub fn parse(text: &str) -> Result<Self, String> {
        let ascii = glob_to_ascii(text)?;
        let wire = labels_to_wire(&ascii, |c| c == '*').map_err(|e| e.to_string())?;
        let name = Name::from_wire(&wire).ok_or("it is too long")?;
        let labels: Vec<&[u8]> = name.labels().collect();
        let Some(last) = labels.iter().rposition(|label| label.contains(&b'*')) else {
            return Err("no label holds `*`; write it under hosts".to_owned());
        };
        let Some(fixed) = name.suffixes().nth(last + 1) else {
            return Err("no label stands right of the one with `*`".to_owned());
        };
        let labels = labels[..=last].iter().map(|label| label.to_vec()).collect();
        Ok(Self { labels, fixed: fixed.to_owned() })
    }

    /// The labels right of the last one with `*`.
    pub fn fixed(&self) -> Name<'_> {
        self.fixed.as_name()
    }

    /// A name that the glob describes, for people to see; `None` where none is short enough.
    pub fn example(&self) -> Option<DomainName> {
        let filled = |filler: &str| self.to_string().replace('*', filler).parse().ok();
        filled("any").or_else(|| filled("a"))
    }

    /// Whether the glob describes `name`.
    pub(crate) fn matches(&self, name: Name<'_>) -> bool {
        let (total, fixed) = (name.labels().count(), self.fixed().labels().count());
        name.is_at_or_below(self.fixed()) && self.matches_left(name.labels().take(total - fixed))
    }

    /// Whether the labels left of the fixed part, `left`, are those this glob describes.
    pub(crate) fn matches_left<'a>(&self, mut left: impl Iterator<Item = &'a [u8]>) -> bool {
        self.labels.iter().all(|pattern| left.next().is_some_and(|label| label_matches(pattern, label)))
            && left.next().is_none()
    }

    /// Whether some name is matched by both.
    pub(crate) fn overlaps(&self, other: &Glob) -> bool {
        self.fixed == other.fixed
            && self.labels.len() == other.labels.len()
            && self.labels.iter().zip(&other.labels).all(|(a, b)| labels_overlap(a, b))
    }
}

/// Lower-case ASCII spelling of a glob. A label with `*` is ASCII as written: the letters of an A-label are not those
/// of the name it stands for, so a `*` among them would mean nothing.
fn glob_to_ascii(text: &str) -> Result<String, String> {
    let labels = text.split('.').map(|label| match (label.contains('*'), label.is_ascii()) {
        (true, false) => Err("a label with `*` is written in ASCII, other letters as A-labels".to_owned()),
        _ => to_ascii(label).map_err(|e| e.to_string()),
    });
    Ok(labels.collect::<Result<Vec<_>, _>>()?.join("."))
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for label in &self.labels {
            write!(f, "{}.", String::from_utf8_lossy(label))?;
        }
        self.fixed.fmt(f)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Whether `label` is `pattern` with each `*` replaced by some characters. Linear but for the last star,
/// to which the walk returns when a later part does not fit.
fn label_matches(pattern: &[u8], label: &[u8]) -> bool {
    let (mut p, mut l) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while l < label.len() {
        if pattern.get(p) == Some(&b'*') {
            last_star = Some((p, l));
            p += 1;
        } else if pattern.get(p) == Some(&label[l]) {
            p += 1;
            l += 1;
        } else if let Some((star, taken)) = last_star {
            last_star = Some((star, taken + 1));
            (p, l) = (star + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// Whether some label is matched by both patterns: a walk over pairs of positions.
fn labels_overlap(a: &[u8], b: &[u8]) -> bool {
    let width = b.len() + 1;
    let mut reached = vec![false; (a.len() + 1) * width];
    reached[0] = true;
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            if !reached[i * width + j] {
                continue;
            }
            let (x, y) = (a.get(i), b.get(j));
            let (x_star, y_star) = (x == Some(&b'*'), y == Some(&b'*'));
            if x_star || (y_star && x.is_some()) {
                reached[(i + 1) * width + j] = true;
            }
            if y_star || (x_star && y.is_some()) {
                reached[i * width + j + 1] = true;
            }
            if x.is_some() && x == y {
                reached[(i + 1) * width + j + 1] = true;
            }
        }
    }
    reached[a.len() * width + b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(glob: &Glob, name: Name<'_>) -> bool {
        let (total, fixed) = (name.labels().count(), glob.fixed().labels().count());
        name.is_at_or_below(glob.fixed()) && glob.matches_left(name.labels().take(total - fixed))
    }

    #[test]
    fn a_star_stays_inside_its_label() {
        for (glob, name, fits) in [
            ("ksn-*-geo.kaspersky-labs.com", "ksn-url-geo.kaspersky-labs.com", true),
            ("ksn-*-geo.kaspersky-labs.com", "ksn-a.b-geo.kaspersky-labs.com", false),
            ("ksn-*-geo.kaspersky-labs.com", "x.ksn-url-geo.kaspersky-labs.com", false),
            ("ksn-*-geo.kaspersky-labs.com", "ksn--geo.kaspersky-labs.com", true),
            ("ksn-*-geo.kaspersky-labs.com", "ksn-geo.kaspersky-labs.com", false),
            ("*.a.example", "x.a.example", true),
            ("*.a.example", "a.example", false),
            ("b.*.example", "b.x.example", true),
            ("b.*.example", "c.x.example", false),
            ("*a*b.example", "xaab.example", true),
            ("*a*b.example", "xaabc.example", false),
        ] {
            let parsed = Glob::parse(glob).unwrap();
            let name: DomainName = name.parse().unwrap();
            assert_eq!(matches(&parsed, name.as_name()), fits, "{glob} {name}");
            assert_eq!(parsed.to_string(), glob);
        }
    }

    #[test]
    fn a_glob_has_an_example() {
        let full = format!("{}*.example", "a".repeat(62));
        for (glob, example) in [
            ("ksn-*-geo.v.example", "ksn-any-geo.v.example"),
            ("*.b.*.example", "any.b.any.example"),
            (&full, &full.replace('*', "a")),
        ] {
            let glob = Glob::parse(glob).unwrap();
            let name = glob.example().unwrap();
            assert_eq!(name.to_string(), example);
            assert!(matches(&glob, name.as_name()));
        }
    }

    #[test]
    fn a_glob_needs_a_star_and_a_fixed_part() {
        for text in
            ["a.example", "a.*", "*", "a..*.b", "ü*.example", "", "*.\u{fdfa}.example", "a*\u{3002}b.example"]
        {
            assert!(Glob::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_labels_of_a_glob_without_a_star_may_be_unicode() {
        for (text, shown) in [
            ("s*.bücher.example", "s*.xn--bcher-kva.example"),
            ("*.BÜCHER.s*.Example", "*.xn--bcher-kva.s*.example"),
            ("xn--*.example", "xn--*.example"),
        ] {
            assert_eq!(Glob::parse(text).unwrap().to_string(), shown, "{text}");
        }
    }

    proptest! {
        #[test]
        fn overlap_is_found_whenever_a_label_fits_both(a in "[ab*]{0,5}", b in "[ab*]{0,5}", label in "[ab]{0,6}") {
            let both = label_matches(a.as_bytes(), label.as_bytes()) && label_matches(b.as_bytes(), label.as_bytes());
            prop_assert!(!both || labels_overlap(a.as_bytes(), b.as_bytes()));
        }

        #[test]
        fn overlap_is_claimed_only_with_a_witness(a in "[ab*]{0,3}", b in "[ab*]{0,3}") {
            // Patterns of three characters that overlap do so within six.
            let witness = (0..=6u32).flat_map(|len| (0..1u32 << len).map(move |bits| {
                (0..len).map(|i| if bits >> i & 1 == 0 { b'a' } else { b'b' }).collect::<Vec<u8>>()
            })).any(|l| label_matches(a.as_bytes(), &l) && label_matches(b.as_bytes(), &l));
            prop_assert_eq!(labels_overlap(a.as_bytes(), b.as_bytes()), witness);
        }
    }
}
