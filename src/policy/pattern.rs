//! Which interfaces a chain is for.

use super::json::Spanned;

/// An element of `interfaces`: a name, an alternative name or a glob.
#[derive(Clone, Debug, PartialEq)]
pub struct InterfacePattern {
    /// The name; `*`, `?` and `[a-z]` make it a glob.
    pub name: Spanned<String>,
    /// It need not exist now.
    pub optional: bool,
}

impl InterfacePattern {
    /// Whether it is a glob, which may match any number of interfaces, or none.
    pub fn is_glob(&self) -> bool {
        self.name.contains(['*', '?', '['])
    }

    /// Whether it may match nothing.
    pub fn may_be_absent(&self) -> bool {
        self.optional || self.is_glob()
    }

    /// Whether it is for the interface that has this name or alternative name.
    pub fn matches(&self, name: &str) -> bool {
        if self.is_glob() {
            glob_matches(&self.name, name)
        } else {
            self.name.value == name
        }
    }
}

/// `*` is any text, `?` any character, `[a-cx]` one of these, `[!a-cx]` none of
/// them; a `[` that is not closed stands for itself.
///
/// Takes time in proportion to the product of both lengths.
pub(crate) fn glob_matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // Where to go on after a mismatch: behind the last star, one character later.
    let mut retry = None;
    while t < text.len() {
        if pattern.get(p) == Some(&'*') {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        if let Some(length) = one_matches(&pattern[p..], text[t]) {
            p += length;
            t += 1;
            continue;
        }
        match retry {
            Some((after_star, from)) => {
                p = after_star;
                t = from + 1;
                retry = Some((after_star, t));
            }
            None => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// How much of the pattern the character takes up, if it matches.
fn one_matches(pattern: &[char], c: char) -> Option<usize> {
    match pattern.first()? {
        '?' => Some(1),
        '[' => match class(pattern) {
            Some((negated, set, length)) => {
                let inside = set.iter().any(|(from, to)| (*from..=*to).contains(&c));
                (inside != negated).then_some(length)
            }
            None => (c == '[').then_some(1),
        },
        own => (*own == c).then_some(1),
    }
}

type Class = (bool, Vec<(char, char)>, usize);

fn class(pattern: &[char]) -> Option<Class> {
    let negated = matches!(pattern.get(1), Some('!' | '^'));
    let start = if negated { 2 } else { 1 };
    // A bracket in the first place belongs to the set.
    let end = start + 1 + pattern.get(start + 1..)?.iter().position(|c| *c == ']')?;
    let mut set = Vec::new();
    let mut i = start;
    while i < end {
        if i + 2 < end && pattern[i + 1] == '-' {
            set.push((pattern[i], pattern[i + 2]));
            i += 3;
        } else {
            set.push((pattern[i], pattern[i]));
            i += 1;
        }
    }
    Some((negated, set, end + 1))
}

#[cfg(test)]
mod tests {
    use super::glob_matches;

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("wwan*", "wwan0", true),
            ("wwan*", "wwan", true),
            ("wwan*", "wlan0", false),
            ("*", "", true),
            ("*0", "eth10", true),
            ("*0", "eth01", false),
            ("e?h0", "eth0", true),
            ("e?h0", "eh0", false),
            ("eth[0-3]", "eth2", true),
            ("eth[0-3]", "eth4", false),
            ("eth[!0-3]", "eth4", true),
            ("eth[!0-3]", "eth1", false),
            ("eth[13]*", "eth3.100", true),
            ("a[", "a[", true),
            ("a[]b]", "a]", true),
            ("a[b-]", "a-", true),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxbxx", false),
            ("ü?", "üä", true),
        ] {
            assert_eq!(glob_matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn hostile_globs_end() {
        let pattern = "*a".repeat(60);
        assert!(!glob_matches(&format!("{pattern}b"), &"a".repeat(10_000)));
    }
}
