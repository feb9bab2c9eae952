//! JSON with the place of every value.
//!
//! A reader of its own, because an error of a policy must name line, column
//! and path wherever it is found, however late: each value keeps its place.
//! It takes RFC 8259 and nothing more (no comments, no trailing commas, no
//! single quotes, no bare words), refuses duplicate keys and numbers that
//! would lose digits, and never recurses deeper than [`DEEPEST`].

use std::collections::HashSet;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde_json::Number;

use super::diagnostic::Diagnostic;
use super::diagnostic::quoted;

/// How deep arrays and objects may be nested.
pub const DEEPEST: usize = 256;

/// Where a value stands: file, line, column and path.
#[derive(Clone, Debug)]
pub struct Place {
    path: Path,
    line: u32,
    column: u32,
}

/// Leaves own no memory for their path: siblings share that of what holds them.
#[derive(Clone, Debug)]
struct Path {
    container: Arc<Container>,
    last: Segment,
}

#[derive(Debug)]
enum Container {
    File(Arc<str>),
    Value(Path),
}

#[derive(Clone, Debug)]
enum Segment {
    Root,
    Key(Arc<str>),
    Index(u32),
}

impl Path {
    fn root(file: &str) -> Self {
        Self {
            container: Arc::new(Container::File(file.into())),
            last: Segment::Root,
        }
    }
}

impl Place {
    /// The outermost value of a file.
    pub fn root(file: &str) -> Self {
        Self {
            path: Path::root(file),
            line: 1,
            column: 1,
        }
    }

    /// A place in a file that is not JSON.
    pub(crate) fn in_text(file: &str, line: u32, column: u32) -> Self {
        Self {
            line,
            column,
            ..Self::root(file)
        }
    }

    /// The file, as it was named to the reader.
    pub fn file(&self) -> &str {
        let mut path = &self.path;
        loop {
            match &*path.container {
                Container::File(name) => return name,
                Container::Value(up) => path = up,
            }
        }
    }

    /// Line, from 1.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// Column in characters, from 1.
    pub fn column(&self) -> u32 {
        self.column
    }

    /// Path such as `chains[0].select.all[1]`; empty for the outermost value.
    pub fn path(&self) -> String {
        let mut segments = Vec::new();
        let mut path = &self.path;
        loop {
            segments.push(&path.last);
            match &*path.container {
                Container::File(_) => break,
                Container::Value(up) => path = up,
            }
        }
        let mut text = String::new();
        for segment in segments.into_iter().rev() {
            match segment {
                Segment::Root => {}
                Segment::Index(index) => text.push_str(&format!("[{index}]")),
                Segment::Key(key) if is_plain(key) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(key);
                }
                Segment::Key(key) => text.push_str(&format!("[{}]", quoted(key))),
            }
        }
        text
    }
}

impl fmt::Display for Place {
    /// `file:line:column`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file(), self.line, self.column)
    }
}

fn is_plain(key: &str) -> bool {
    !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-$".contains(&b))
}

/// A value and where it stands. Two are equal if their values are.
#[derive(Clone, Debug)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub at: Place,
}

impl<T> Spanned<T> {
    /// A value and where it stands.
    pub fn new(value: T, at: Place) -> Self {
        Self { value, at }
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T> Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// A JSON value and where it stands. Two are equal if their values are, keys in
/// the same order.
pub type Json = Spanned<Value>;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number: an integer of 64 bits, else a finite `f64`.
    Number(Number),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Json>),
    /// An object, in the order of the file, without duplicate keys.
    Object(Vec<Member>),
}

/// Key and value in an object.
#[derive(Clone, Debug)]
pub struct Member {
    /// The key.
    pub key: Arc<str>,
    /// The value.
    pub value: Json,
    line: u32,
    column: u32,
}

impl Member {
    /// Where the key stands; the path is that of the value.
    pub fn key_at(&self) -> Place {
        Place {
            path: self.value.at.path.clone(),
            line: self.line,
            column: self.column,
        }
    }
}

impl PartialEq for Member {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.value == other.value
    }
}

impl Json {
    /// The members of an object.
    pub fn as_object(&self) -> Option<&[Member]> {
        match &self.value {
            Value::Object(members) => Some(members),
            _ => None,
        }
    }

    /// The items of an array.
    pub fn as_array(&self) -> Option<&[Json]> {
        match &self.value {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a key in an object.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.as_object()?
            .iter()
            .find(|m| &*m.key == key)
            .map(|m| &m.value)
    }

    /// In the words of a message: `"text"`, `12`, `null`, `an array`.
    pub fn found(&self) -> String {
        match &self.value {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Number(number) => number.to_string(),
            Value::String(text) => quoted(text),
            Value::Array(items) if items.is_empty() => "an empty array".to_owned(),
            Value::Array(_) => "an array".to_owned(),
            Value::Object(members) if members.is_empty() => "an empty object".to_owned(),
            Value::Object(_) => "an object".to_owned(),
        }
    }

    /// Without the places.
    pub fn to_value(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => serde_json::Value::Bool(*value),
            Value::Number(number) => serde_json::Value::Number(number.clone()),
            Value::String(text) => serde_json::Value::String(text.clone()),
            Value::Array(items) => items.iter().map(Json::to_value).collect(),
            Value::Object(members) => serde_json::Value::Object(
                members
                    .iter()
                    .map(|m| (m.key.to_string(), m.value.to_value()))
                    .collect(),
            ),
        }
    }

    /// A value that stands in no file, at the place of the one it replaces or completes.
    pub fn from_value(value: &serde_json::Value, at: &Place) -> Self {
        let value = match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => Value::Number(number.clone()),
            serde_json::Value::String(text) => Value::String(text.clone()),
            serde_json::Value::Array(items) => Value::Array(
                items
                    .iter()
                    .map(|item| Json::from_value(item, at))
                    .collect(),
            ),
            serde_json::Value::Object(members) => Value::Object(
                members
                    .iter()
                    .map(|(key, value)| Member {
                        key: key.as_str().into(),
                        value: Json::from_value(value, at),
                        line: at.line,
                        column: at.column,
                    })
                    .collect(),
            ),
        };
        Self {
            value,
            at: at.clone(),
        }
    }
}

/// Reads one JSON text; `file` names it in messages.
///
/// Duplicate keys are returned beside the value (which keeps the first of
/// each), so that a caller can report them together with what else is wrong.
///
/// # Errors
///
/// The first place where the bytes are not JSON.
pub fn read(file: &str, bytes: &[u8]) -> Result<(Json, Vec<Diagnostic>), Diagnostic> {
    let mut reader = Reader::new(file, bytes);
    reader.check_encoding()?;
    let root = Path::root(file);
    reader.skip_blanks(&root)?;
    if reader.peek().is_none() {
        let found = if bytes.is_empty() {
            "an empty file"
        } else {
            "nothing but blanks"
        };
        return Err(Diagnostic::expected(
            &reader.place(&root),
            "a JSON object",
            found,
        ));
    }
    let value = reader.value(root.clone(), 0)?;
    reader.skip_blanks(&root)?;
    if reader.peek().is_some() {
        return Err(reader.unexpected(&root, "the end of the file"));
    }
    Ok((value, reader.duplicates))
}

struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    line: u32,
    column: u32,
    duplicates: Vec<Diagnostic>,
    file: &'a str,
}

impl<'a> Reader<'a> {
    fn new(file: &'a str, bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            position: 0,
            line: 1,
            column: 1,
            duplicates: Vec::new(),
            file,
        }
    }

    /// From here on the bytes are known to be UTF-8.
    fn check_encoding(&mut self) -> Result<(), Diagnostic> {
        let root = Path::root(self.file);
        if self.bytes.starts_with(b"\xef\xbb\xbf") {
            let message = "the file begins with a byte order mark: save it as UTF-8 without one";
            return Err(Diagnostic::new(&self.place(&root), message));
        }
        if self.bytes.starts_with(b"\xff\xfe") || self.bytes.starts_with(b"\xfe\xff") {
            let message = "the file is UTF-16: save it as UTF-8";
            return Err(Diagnostic::new(&self.place(&root), message));
        }
        if let Err(error) = std::str::from_utf8(self.bytes) {
            while self.position < error.valid_up_to() {
                self.bump();
            }
            let byte = self.bytes.get(self.position).copied().unwrap_or_default();
            let message = format!("byte 0x{byte:02x} is not UTF-8");
            return Err(Diagnostic::new(&self.place(&root), message));
        }
        Ok(())
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.position).copied()
    }

    fn bump(&mut self) {
        match self.peek() {
            None => return,
            Some(b'\n') => {
                self.line = self.line.saturating_add(1);
                self.column = 1;
            }
            // The bytes of a character behind its first one begin with 10.
            Some(byte) if byte & 0xc0 != 0x80 => self.column = self.column.saturating_add(1),
            Some(_) => {}
        }
        self.position += 1;
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.bump();
        }
        found
    }

    fn place(&self, path: &Path) -> Place {
        Place {
            path: path.clone(),
            line: self.line,
            column: self.column,
        }
    }

    fn error(&self, path: &Path, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(&self.place(path), message)
    }

    /// The next character or word, for a message.
    fn found(&self) -> String {
        let rest = &self.bytes[self.position..];
        let word = rest
            .iter()
            .take_while(|b| b.is_ascii_alphanumeric() || **b == b'_')
            .count();
        if word > 0 {
            return format!("`{}`", String::from_utf8_lossy(&rest[..word.min(32)]));
        }
        match String::from_utf8_lossy(&rest[..rest.len().min(4)])
            .chars()
            .next()
        {
            None => "the end of the file".to_owned(),
            Some(c) if c.is_control() || c.is_whitespace() => {
                format!("the character U+{:04X}", u32::from(c))
            }
            Some(c) => format!("`{c}`"),
        }
    }

    fn unexpected(&self, path: &Path, expected: &str) -> Diagnostic {
        Diagnostic::expected(&self.place(path), expected, self.found())
    }

    fn skip_blanks(&mut self, path: &Path) -> Result<(), Diagnostic> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.bump();
        }
        match self.peek() {
            Some(b'/' | b'#') => {
                Err(self.error(path, "JSON has no comments: use the field \"comment\""))
            }
            _ => Ok(()),
        }
    }

    fn value(&mut self, path: Path, depth: usize) -> Result<Json, Diagnostic> {
        let at = self.place(&path);
        let value = match self.peek() {
            Some(b'{' | b'[') if depth >= DEEPEST => {
                let message = format!("nested deeper than {DEEPEST} arrays and objects");
                return Err(Diagnostic::new(&at, message));
            }
            Some(b'{') => self.object(&path, depth)?,
            Some(b'[') => self.array(&path, depth)?,
            Some(b'"') => Value::String(self.string(&path)?),
            Some(b'\'') => {
                return Err(Diagnostic::new(&at, "strings stand in double quotes"));
            }
            Some(b'-' | b'+' | b'.' | b'0'..=b'9') => self.number(&path)?,
            _ => self.word(&path)?,
        };
        Ok(Json { value, at })
    }

    fn word(&mut self, path: &Path) -> Result<Value, Diagnostic> {
        for (word, value) in [
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
            ("null", Value::Null),
        ] {
            let rest = &self.bytes[self.position..];
            let follows = rest.get(word.len()).copied().unwrap_or_default();
            if rest.starts_with(word.as_bytes()) && !follows.is_ascii_alphanumeric() {
                word.bytes().for_each(|_| self.bump());
                return Ok(value);
            }
        }
        Err(self.unexpected(path, "a JSON value"))
    }

    fn object(&mut self, path: &Path, depth: usize) -> Result<Value, Diagnostic> {
        let opened = self.place(path);
        self.bump();
        let container = Arc::new(Container::Value(path.clone()));
        let mut members: Vec<Member> = Vec::new();
        let mut keys: HashSet<Arc<str>> = HashSet::new();
        self.skip_blanks(path)?;
        if self.eat(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            let (line, column) = (self.line, self.column);
            match self.peek() {
                Some(b'"') => {}
                Some(b'\'') => return Err(self.error(path, "keys stand in double quotes")),
                None => return Err(self.unclosed(&opened, '{')),
                _ => return Err(self.unexpected(path, "a key in double quotes")),
            }
            let key: Arc<str> = self.string(path)?.into();
            let last = Segment::Key(key.clone());
            let path_of_value = Path {
                container: container.clone(),
                last,
            };
            self.skip_blanks(&path_of_value)?;
            if !self.eat(b':') {
                return Err(self.unexpected(&path_of_value, "`:` behind the key"));
            }
            self.skip_blanks(&path_of_value)?;
            let value = self.value(path_of_value, depth + 1)?;
            let member = Member {
                key,
                value,
                line,
                column,
            };
            if keys.insert(member.key.clone()) {
                members.push(member);
            } else {
                let message = match members.iter().find(|m| m.key == member.key) {
                    Some(first) => format!(
                        "the key {} is given twice: first on line {}",
                        quoted(&member.key),
                        first.line
                    ),
                    None => format!("the key {} is given twice", quoted(&member.key)),
                };
                self.duplicates
                    .push(Diagnostic::new(&member.key_at(), message));
            }
            if self.ends(path, &opened, '{', b'}')? {
                return Ok(Value::Object(members));
            }
        }
    }

    fn array(&mut self, path: &Path, depth: usize) -> Result<Value, Diagnostic> {
        let opened = self.place(path);
        self.bump();
        let container = Arc::new(Container::Value(path.clone()));
        let mut items = Vec::new();
        self.skip_blanks(path)?;
        if self.eat(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            if self.peek().is_none() {
                return Err(self.unclosed(&opened, '['));
            }
            let last = Segment::Index(u32::try_from(items.len()).unwrap_or(u32::MAX));
            let path_of_item = Path {
                container: container.clone(),
                last,
            };
            items.push(self.value(path_of_item, depth + 1)?);
            if self.ends(path, &opened, '[', b']')? {
                return Ok(Value::Array(items));
            }
        }
    }

    /// Behind a member or an item: whether the container ends here.
    fn ends(
        &mut self,
        path: &Path,
        opened: &Place,
        open: char,
        close: u8,
    ) -> Result<bool, Diagnostic> {
        self.skip_blanks(path)?;
        if self.eat(close) {
            return Ok(true);
        }
        let comma = self.place(path);
        if self.eat(b',') {
            self.skip_blanks(path)?;
            return match self.peek() {
                Some(byte) if byte == close => {
                    Err(Diagnostic::new(&comma, "a comma behind the last item"))
                }
                _ => Ok(false),
            };
        }
        match self.peek() {
            None => Err(self.unclosed(opened, open)),
            _ => Err(self.unexpected(path, &format!("`,` or `{}`", char::from(close)))),
        }
    }

    fn unclosed(&self, opened: &Place, open: char) -> Diagnostic {
        let place = Place {
            path: opened.path.clone(),
            line: self.line,
            column: self.column,
        };
        let message = format!(
            "the file ends within the `{open}` of line {}, column {}",
            opened.line, opened.column
        );
        Diagnostic::new(&place, message)
    }

    fn string(&mut self, path: &Path) -> Result<String, Diagnostic> {
        let opened = self.place(path);
        self.bump();
        let mut text = Vec::new();
        loop {
            match self.peek() {
                None | Some(b'\n' | b'\r') => {
                    return Err(Diagnostic::new(
                        &opened,
                        "the string is not closed on its line",
                    ));
                }
                Some(b'"') => {
                    self.bump();
                    break;
                }
                Some(b'\\') => {
                    let c = self.escape(path)?;
                    text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Some(byte @ 0..0x20) => {
                    let message =
                        format!("control character in a string: write it as \\u{byte:04x}");
                    return Err(self.error(path, message));
                }
                Some(byte) => {
                    text.push(byte);
                    self.bump();
                }
            }
        }
        // Parts of valid UTF-8, cut at ASCII characters, are valid.
        String::from_utf8(text).map_err(|_| Diagnostic::new(&opened, "the string is not UTF-8"))
    }

    fn escape(&mut self, path: &Path) -> Result<char, Diagnostic> {
        let at = self.place(path);
        self.bump();
        let escaped = self.peek();
        let c = match escaped {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.bump();
                return self.unicode_escape(&at);
            }
            _ => return Err(Diagnostic::new(&at, "not an escape of JSON")),
        };
        self.bump();
        Ok(c)
    }

    /// Behind `\u`.
    fn unicode_escape(&mut self, at: &Place) -> Result<char, Diagnostic> {
        let unit = self.hex4(at)?;
        let half = || Diagnostic::new(at, format!("\\u{unit:04x} is half of a surrogate pair"));
        let code = match unit {
            0xd800..=0xdbff => {
                if !self.eat(b'\\') || !self.eat(b'u') {
                    return Err(half());
                }
                let low = self.hex4(at)?;
                if !(0xdc00..=0xdfff).contains(&low) {
                    return Err(half());
                }
                0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
            }
            _ => unit,
        };
        char::from_u32(code).ok_or_else(half)
    }

    fn hex4(&mut self, at: &Place) -> Result<u32, Diagnostic> {
        let mut value = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|b| char::from(b).to_digit(16));
            let Some(digit) = digit else {
                return Err(Diagnostic::new(at, "\\u takes four hexadecimal digits"));
            };
            value = value * 16 + digit;
            self.bump();
        }
        Ok(value)
    }

    fn digits(&mut self) -> usize {
        let start = self.position;
        while let Some(b'0'..=b'9') = self.peek() {
            self.bump();
        }
        self.position - start
    }

    fn number(&mut self, path: &Path) -> Result<Value, Diagnostic> {
        let at = self.place(path);
        let start = self.position;
        let malformed = |message: &str| Err(Diagnostic::new(&at, message));
        if self.peek() == Some(b'+') {
            return malformed("a number has no leading `+`");
        }
        self.eat(b'-');
        let zero = self.peek() == Some(b'0');
        match self.digits() {
            0 => return malformed("a number begins with a digit"),
            1 => {}
            _ if zero => return malformed("a number has no leading zeros"),
            _ => {}
        }
        if zero && matches!(self.peek(), Some(b'x' | b'X')) {
            return malformed("JSON has no hexadecimal numbers: write it in double quotes");
        }
        let mut integer = true;
        if self.eat(b'.') {
            integer = false;
            if self.digits() == 0 {
                return malformed("digits must follow the point of a number");
            }
        }
        if self.eat(b'e') || self.eat(b'E') {
            integer = false;
            if !self.eat(b'+') {
                self.eat(b'-');
            }
            if self.digits() == 0 {
                return malformed("digits must follow the exponent of a number");
            }
        }
        if self
            .peek()
            .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        {
            let message = "a number with a unit stands in double quotes";
            return malformed(message);
        }
        let text = std::str::from_utf8(&self.bytes[start..self.position]).unwrap_or_default();
        let number = if integer && text != "-0" {
            let unsigned = text.parse::<u64>().map(Number::from);
            unsigned
                .or_else(|_| text.parse::<i64>().map(Number::from))
                .ok()
        } else {
            text.parse::<f64>().ok().and_then(Number::from_f64)
        };
        match number {
            Some(number) => Ok(Value::Number(number)),
            None => malformed("the number is out of range: it does not fit in 64 bits"),
        }
    }
}
