//! One vector and its JSON text.
//!
//! The layout is fixed: `name`, `check` (which rule is asked), `about`, `input`, `expected`. In
//! `expected`, `finding` is null where the check passes, else the word for the fault; what the check gives
//! besides stands beside it. Bytes are lower-case hex, texts stand as they are.

use std::fmt::Write as _;

/// A file to be written, its path relative to `tests/vectors`.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A JSON value of a vector.
#[derive(Clone)]
pub(crate) enum Value {
    Null,
    Text(String),
    Number(u64),
    List(Vec<Value>),
    Object(Vec<(&'static str, Value)>),
}

/// The named values of an object, in the order in which they are written.
pub(crate) type Members = Vec<(&'static str, Value)>;

/// What a check answered: its further outputs, or the word for the fault.
pub(crate) type Answer = Result<Members, &'static str>;

/// Gathers the vectors of one room.
pub(crate) struct Vectors {
    room: &'static str,
    files: Vec<File>,
}

impl Vectors {
    pub(crate) fn new(room: &'static str) -> Vectors {
        Vectors { room, files: Vec::new() }
    }

    /// Adds a vector.
    ///
    /// # Panics
    /// If the code's answer is not the expected one (`""` for no finding), or the name is taken.
    pub(crate) fn add(
        &mut self,
        check: &'static str,
        name: &str,
        about: &str,
        input: Members,
        expected: &str,
        answer: Answer,
    ) {
        assert_eq!(
            answer.as_ref().err().copied().unwrap_or(""),
            expected,
            "{name}: the code answers otherwise"
        );
        let (finding, mut outputs) = match answer {
            Ok(outputs) => (Value::Null, outputs),
            Err(kind) => (text(kind), Vec::new()),
        };
        outputs.insert(0, ("finding", finding));
        let vector = Value::Object(vec![
            ("name", text(name)),
            ("check", text(check)),
            ("about", text(about)),
            ("input", Value::Object(input)),
            ("expected", Value::Object(outputs)),
        ]);
        let path = format!("{}/{name}.json", self.room);
        assert!(self.files.iter().all(|file| file.path != path), "{name} is taken");
        let mut json = String::new();
        print(&vector, 0, &mut json);
        json.push('\n');
        self.files.push(File { path, text: json });
    }

    pub(crate) fn into_files(self) -> Vec<File> {
        self.files
    }
}

pub(crate) fn hex(bytes: &[u8]) -> Value {
    Value::Text(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

pub(crate) fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

pub(crate) fn list<'a>(hashes: impl IntoIterator<Item = &'a [u8]>) -> Value {
    Value::List(hashes.into_iter().map(hex).collect())
}

fn print(value: &Value, depth: usize, out: &mut String) {
    let indent = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&"  ".repeat(depth));
    };
    match value {
        Value::Null => out.push_str("null"),
        Value::Number(number) => {
            let _ = write!(out, "{number}");
        }
        Value::Text(text) => print_text(text, out),
        Value::List(items) if items.is_empty() => out.push_str("[]"),
        Value::List(items) => {
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at == 0 { "[" } else { "," });
                indent(out, depth + 1);
                print(item, depth + 1, out);
            }
            indent(out, depth);
            out.push(']');
        }
        Value::Object(members) => {
            for (at, (name, member)) in members.iter().enumerate() {
                out.push_str(if at == 0 { "{" } else { "," });
                indent(out, depth + 1);
                print_text(name, out);
                out.push_str(": ");
                print(member, depth + 1, out);
            }
            indent(out, depth);
            out.push('}');
        }
    }
}

fn print_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
