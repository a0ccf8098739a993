//! Strict JSON: one text has one meaning, or it is refused.
//!
//! Two readers that disagree about a signed document are a way around its signature. RFC 8259
//! leaves readers free with duplicate keys and with large numbers; I-JSON (RFC 7493) takes that
//! freedom away, and so does this room. Beyond RFC 7493 it bounds size and depth, so that
//! reading costs no more than the bytes are worth.
//!
//! Limits: the caller's number of bytes, [`DEPTH_MAX`] levels, integers up to
//! [`JSON_INTEGER_MAX`] in magnitude.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize,
    de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor},
};

use crate::time::JSON_INTEGER_MAX;

/// The deepest nesting of objects and arrays, the outermost one included.
pub const DEPTH_MAX: usize = 32;
/// The longest reason that an error repeats, in bytes: a hostile document does not fill a log.
const REASON_BYTES_MAX: usize = 400;
/// The longest key that a path repeats, in bytes.
const KEY_BYTES_SHOWN: usize = 64;
/// [`JSON_INTEGER_MAX`] as a float. Every float beyond it is an integer.
const FLOAT_MAX: f64 = 9_007_199_254_740_991.0;

/// Why bytes are not the strict JSON document that was asked for.
///
/// A path is written as in `models[2].files[0].path`; the document itself is `$`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Longer than the caller's limit.
    #[error("the document has {found} bytes, at most {max} are read")]
    TooLarge {
        /// Bytes given.
        found: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Not UTF-8.
    #[error("the document is not UTF-8 from byte {valid_up_to} on")]
    NotUtf8 {
        /// The bytes before this one are UTF-8.
        valid_up_to: usize,
    },
    /// An object names a key twice; after unescaping, so `"a"` and `"\u0061"` are the same key.
    #[error("the key {path} stands twice")]
    DuplicateKey {
        /// Where the second one stands.
        path: String,
    },
    /// A number that some reader cannot hold exactly.
    #[error("the number at {path} is beyond 2^53-1")]
    NumberTooLarge {
        /// Where.
        path: String,
    },
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("the value at {path} is nested deeper than {DEPTH_MAX} levels")]
    TooDeep {
        /// Where the level too many begins.
        path: String,
    },
    /// Not JSON, or something follows it.
    #[error("not JSON: {reason}")]
    Malformed {
        /// What the reader says, with line and column.
        reason: String,
    },
    /// JSON, but not of the document's shape: an unknown or a missing field, a wrong type.
    #[error("not the document that was expected: {reason}")]
    Shape {
        /// What the reader says, with the field, the line and the column.
        reason: String,
    },
}

/// Reads `bytes` as one JSON document of type `T`, strictly.
///
/// `T` decides whether unknown fields are refused: documents say `deny_unknown_fields`.
///
/// # Errors
/// [`JsonError`] for more than `bytes_max` bytes, bytes that are not UTF-8, a key that stands
/// twice at any depth, a number beyond 2^53-1, nesting beyond [`DEPTH_MAX`], anything after the
/// document, and a document that is not a `T`.
pub fn parse_strict<T: DeserializeOwned>(bytes: &[u8], bytes_max: usize) -> Result<T, JsonError> {
    if bytes.len() > bytes_max {
        return Err(JsonError::TooLarge { found: bytes.len(), max: bytes_max });
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| JsonError::NotUtf8 { valid_up_to: error.valid_up_to() })?;
    scan(text)?;
    serde_json::from_str(text).map_err(|error| JsonError::Shape { reason: reason(&error) })
}

/// Reads the text once and keeps nothing: what a typed reader would silently take is found here.
fn scan(text: &str) -> Result<(), JsonError> {
    let mut scan = Scan { path: Vec::new(), fault: None };
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = Strict(&mut scan).deserialize(&mut reader).and_then(|()| reader.end());
    match (scan.fault, read) {
        (Some(fault), _) => Err(fault),
        (None, Err(error)) => Err(JsonError::Malformed { reason: reason(&error) }),
        (None, Ok(())) => Ok(()),
    }
}

fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    // Control characters of a hostile document have no business on a terminal.
    let mut text: String = text.chars().map(|it| if it.is_control() { '\u{fffd}' } else { it }).collect();
    if text.len() > REASON_BYTES_MAX {
        text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
        text.push_str("...");
        text.push_str(&format!(" at line {} column {}", error.line(), error.column()));
    }
    text
}

enum Segment {
    Key(String),
    Index(usize),
}

struct Scan {
    path: Vec<Segment>,
    fault: Option<JsonError>,
}

impl Scan {
    fn path(&self) -> String {
        let mut text = String::new();
        for segment in &self.path {
            match segment {
                Segment::Key(key) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    let shown = &key[..key.floor_char_boundary(KEY_BYTES_SHOWN)];
                    text.extend(shown.escape_debug());
                    if shown.len() < key.len() {
                        text.push_str("...");
                    }
                }
                Segment::Index(index) => text.push_str(&format!("[{index}]")),
            }
        }
        if text.is_empty() { "$".to_owned() } else { text }
    }

    /// Keeps the typed fault, since serde's error carries only a text.
    fn refuse<E: serde::de::Error>(&mut self, fault: JsonError) -> E {
        let error = E::custom(&fault);
        self.fault = Some(fault);
        error
    }

    fn enter<E: serde::de::Error>(&mut self) -> Result<(), E> {
        if self.path.len() < DEPTH_MAX {
            return Ok(());
        }
        let path = self.path();
        Err(self.refuse(JsonError::TooDeep { path }))
    }

    fn number<E: serde::de::Error>(&mut self, fits: bool) -> Result<(), E> {
        if fits {
            return Ok(());
        }
        let path = self.path();
        Err(self.refuse(JsonError::NumberTooLarge { path }))
    }
}

/// A value that is checked and dropped.
struct Strict<'a>(&'a mut Scan);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.0.number(value.unsigned_abs() <= JSON_INTEGER_MAX)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.0.number(value <= JSON_INTEGER_MAX)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.0.number(value.abs() <= FLOAT_MAX)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.0.enter()?;
        for index in 0.. {
            self.0.path.push(Segment::Index(index));
            let item = items.next_element_seed(Strict(self.0))?;
            self.0.path.pop();
            if item.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        self.0.enter()?;
        let mut seen = HashSet::new();
        while let Some(key) = fields.next_key::<Key>()? {
            let known = !seen.insert(key.0.clone());
            self.0.path.push(Segment::Key(key.0));
            if known {
                let path = self.0.path();
                return Err(self.0.refuse(JsonError::DuplicateKey { path }));
            }
            fields.next_value_seed(Strict(self.0))?;
            self.0.path.pop();
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Key(String);
