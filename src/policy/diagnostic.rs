//! What is wrong with a policy, and where.

use std::fmt;

use serde::Serialize;

use super::json::Place;

/// One error in a policy.
///
/// `Display` prints it as compilers do, so that editors find the place:
/// `policy.json:12:18: chains[0].act[0].cap.bytes: expected bytes such as "64KiB", found "64kk"`.
/// The order is that of the places.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    /// The file, as it was named to the reader.
    pub file: String,
    /// Line, from 1; 0 if the file as a whole is meant.
    pub line: u32,
    /// Column in characters, from 1; 0 if the file as a whole is meant.
    pub column: u32,
    /// Path of the value in the file, such as `chains[0].hook`; empty for the
    /// outermost value.
    pub json_path: String,
    /// The whole of the error, in words.
    pub message: String,
    /// What would have been right, where that can be said in few words; it is
    /// also part of the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<Box<str>>,
    /// What was probably meant; not part of the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<Box<str>>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn new(at: &Place, message: impl Into<String>) -> Self {
        Self {
            file: at.file().to_owned(),
            line: at.line(),
            column: at.column(),
            json_path: at.path(),
            message: message.into(),
            expected: None,
            suggestion: None,
        }
    }

    /// An error of a file as a whole, such as one that cannot be read.
    pub fn of_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: 0,
            column: 0,
            json_path: String::new(),
            message: message.into(),
            expected: None,
            suggestion: None,
        }
    }

    /// An error of the form "expected …, found …".
    pub fn expected(at: &Place, expected: impl Into<String>, found: impl fmt::Display) -> Self {
        let expected = expected.into();
        let message = format!("expected {expected}, found {found}");
        Self {
            expected: Some(expected.into_boxed_str()),
            ..Self::new(at, message)
        }
    }

    /// Adds what was probably meant.
    pub fn suggest(mut self, suggestion: Option<String>) -> Self {
        self.suggestion = suggestion.map(String::into_boxed_str);
        self
    }

    /// Adds the name among `names` that is nearest to `name`, if one is near.
    pub fn suggest_nearest<'a>(self, name: &str, names: impl IntoIterator<Item = &'a str>) -> Self {
        let nearest = nearest(name, names).map(str::to_owned);
        self.suggest(nearest)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        f.write_str(": ")?;
        if !self.json_path.is_empty() {
            write!(f, "{}: ", self.json_path)?;
        }
        f.write_str(&self.message)?;
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; did you mean {}?", quoted(suggestion))?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

/// The name that is nearest to `name`: at most one slip (a letter missing, added,
/// wrong or swapped with the next) for every three letters, else one that
/// holds `name` as a part. The first of equally near ones.
pub fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = name.chars().count();
    // Words, not texts: nobody misspells a name of a thousand letters.
    if length == 0 || length > 128 {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    let slips = (length / 3).max(1);
    let mut best = None;
    for candidate in names {
        let distance = strsim::damerau_levenshtein(&lower, &candidate.to_ascii_lowercase());
        let distance = match distance {
            // A word of one or two letters shares nothing with one it replaces whole.
            d if d <= slips && d < length => d,
            _ if length >= 3 && candidate.to_ascii_lowercase().contains(&lower) => usize::MAX,
            _ => continue,
        };
        if best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// A text in double quotes, as a message shows it: escaped, and cut where it is long.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 64;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
