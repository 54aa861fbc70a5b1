//! What values a key takes, and how text becomes one.

use crate::value::Value;

/// What values a key takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number between two bounds, both included.
    Integer {
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// A number, whole or not, between two bounds, both included.
    Number {
        /// The least.
        min: f64,
        /// The greatest.
        max: f64,
    },
    /// Any text.
    Text,
    /// An absolute path.
    Path,
    /// An absolute path, or empty for none.
    OptionalPath,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A list of strings.
    List,
    /// A list of strings that may hold commas: in an annotation there is white space between them.
    Words,
}

impl Kind {
    /// Checks a value from a file.
    ///
    /// # Errors
    /// What is expected, as a phrase: "must be …".
    pub fn check(self, value: Value) -> Result<Value, String> {
        let accepted = match (self, &value) {
            (Self::Bool, Value::Bool(_))
            | (Self::Text, Value::Text(_))
            | (Self::List | Self::Words, Value::List(_)) => true,
            (Self::Integer { min, max }, Value::Int(number)) => (min..=max).contains(number),
            (Self::Number { .. }, Value::Int(_) | Value::Float(_)) => self.number_in_bounds(&value),
            (Self::Path, Value::Text(text)) => is_absolute(text),
            (Self::OptionalPath, Value::Text(text)) => text.is_empty() || is_absolute(text),
            (Self::OneOf(words), Value::Text(text)) => words.contains(&text.as_str()),
            _ => return Err(format!("must be {}, not {}", self.describe(), value.kind_name())),
        };
        if accepted { Ok(value) } else { Err(format!("must be {}, not {value}", self.describe())) }
    }

    /// Makes a value of an annotation's text; lists are separated by commas, or are words.
    ///
    /// # Errors
    /// What is expected, as a phrase: "must be …".
    pub fn parse(self, text: &str) -> Result<Value, String> {
        let wrong = || format!("must be {}, not {text:?}", self.describe());
        let value = match self {
            Self::Bool => Value::Bool(text.trim().parse().map_err(|_| wrong())?),
            Self::Integer { .. } => Value::Int(text.trim().parse().map_err(|_| wrong())?),
            Self::Number { .. } => match text.trim().parse() {
                Ok(whole) => Value::Int(whole),
                Err(_) => Value::Float(text.trim().parse().map_err(|_| wrong())?),
            },
            Self::Text | Self::Path | Self::OptionalPath | Self::OneOf(_) => Value::Text(text.to_owned()),
            Self::List => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Value::List(items.map(str::to_owned).collect())
            }
            Self::Words => Value::List(text.split_whitespace().map(str::to_owned).collect()),
        };
        self.check(value)
    }

    /// What is expected, as a noun phrase.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Integer { min, max } => format!("an integer from {min} to {max}"),
            Self::Number { min, max } => format!("a number from {min} to {max}"),
            Self::Text => "a string".to_owned(),
            Self::Path => "an absolute path".to_owned(),
            Self::OptionalPath => "an absolute path or \"\"".to_owned(),
            Self::OneOf(words) => format!("one of \"{}\"", words.join("\", \"")),
            Self::List | Self::Words => "a list of strings".to_owned(),
        }
    }

    fn number_in_bounds(self, value: &Value) -> bool {
        let Self::Number { min, max } = self else { return false };
        (min..=max).contains(&value.number())
    }
}

fn is_absolute(text: &str) -> bool {
    text.starts_with('/') && !text.chars().any(char::is_control)
}
