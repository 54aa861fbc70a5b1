//! Untyped values as they come from a file, an annotation or a default.

use std::fmt;

use serde::Serialize;

/// A value before it is applied. The table of options knows which kind each key takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// A string.
    Text(String),
    /// A list of strings.
    List(Vec<String>),
}

/// A [`Value`] that can stand in a constant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fixed {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A string.
    Text(&'static str),
    /// A list of strings.
    List(&'static [&'static str]),
}

impl From<Fixed> for Value {
    fn from(fixed: Fixed) -> Self {
        match fixed {
            Fixed::Bool(flag) => Self::Bool(flag),
            Fixed::Int(number) => Self::Int(number),
            Fixed::Text(text) => Self::Text(text.to_owned()),
            Fixed::List(items) => Self::List(items.iter().map(|&item| item.to_owned()).collect()),
        }
    }
}

/// The accessors return an empty value for another kind: the kind was checked before a value is applied.
impl Value {
    /// The flag, or `false`.
    #[must_use]
    pub fn flag(&self) -> bool {
        *self == Self::Bool(true)
    }

    /// The whole number, or 0.
    #[must_use]
    pub fn integer(&self) -> i64 {
        if let Self::Int(number) = self { *number } else { 0 }
    }

    /// The whole number as `u32`, or 0 if it is something else or does not fit.
    #[must_use]
    pub fn unsigned(&self) -> u32 {
        u32::try_from(self.integer()).unwrap_or(0)
    }

    /// The number, whole or not, or 0.
    #[must_use]
    pub fn number(&self) -> f64 {
        match self {
            Self::Int(number) => *number as f64,
            Self::Float(number) => *number,
            _ => 0.0,
        }
    }

    /// The text, or an empty one.
    #[must_use]
    pub fn text(&self) -> &str {
        if let Self::Text(text) = self { text } else { "" }
    }

    /// The list, or an empty one.
    #[must_use]
    pub fn list(&self) -> &[String] {
        if let Self::List(items) = self { items } else { &[] }
    }

    /// What this is, as an error message names it.
    #[must_use]
    pub fn kind_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a number with a fraction",
            Self::Text(_) => "a string",
            Self::List(_) => "a list of strings",
        }
    }
}

/// TOML spelling.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(flag) => write!(f, "{flag}"),
            Self::Int(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number}"),
            Self::Text(text) => write!(f, "{}", toml::Value::String(text.clone())),
            Self::List(items) => {
                let quoted: Vec<String> =
                    items.iter().map(|item| toml::Value::String(item.clone()).to_string()).collect();
                write!(f, "[{}]", quoted.join(", "))
            }
        }
    }
}
