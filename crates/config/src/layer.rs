//! One source of values: a list of what it gives, and of what is wrong in it.

use crate::error::Problem;
use crate::nearest::nearest;
use crate::options::{self, Row, Table, known};
use crate::origin::Origin;
use crate::value::{Fixed, Value};

/// A value given for a row.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) row: &'static Row,
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// What one file, or the annotations, give.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    pub(crate) given: Vec<Given>,
    pub(crate) problems: Vec<Problem>,
}

impl Layer {
    /// Notes that something is wrong.
    pub(crate) fn problem(&mut self, place: Origin, text: impl Into<String>) {
        self.problems.push(Problem { place, text: text.into() });
    }

    /// Files a value under its row, or says why that is impossible.
    pub(crate) fn give(&mut self, table: Table, key: &str, value: Value, origin: Origin) {
        if let Some(row) = options::find(table, key) {
            self.give_row(row, key, value, origin);
        } else if let Some((row, factor)) = options::find_alias(table, key) {
            match value {
                Value::Int(number) => {
                    self.give_row(row, key, Value::Int(number.saturating_mul(factor)), origin);
                }
                other => self.give_row(row, key, other, origin),
            }
        } else if let Some(today) = known::find(table, key) {
            self.not_yet(key, today, &value, origin);
        } else {
            self.problem(origin, unknown(table, key));
        }
    }

    fn give_row(&mut self, row: &'static Row, key: &str, value: Value, origin: Origin) {
        if let Some(earlier) = self.given.iter().find(|given| std::ptr::eq(given.row, row)) {
            let text = format!("`{key}` sets the same as {}; keep one of them", earlier.origin);
            return self.problem(origin, text);
        }
        match row.kind.check(value) {
            Ok(value) => self.given.push(Given { row, value, origin }),
            Err(reason) => self.problem(origin, format!("`{key}` {reason}")),
        }
    }

    /// Accepts a known key only if its value says what happens anyway.
    pub(crate) fn not_yet(&mut self, key: &str, today: Option<Fixed>, value: &Value, origin: Origin) {
        let text = match today.map(Value::from) {
            Some(today) if same(&today, value) => return,
            Some(today) => format!(
                "`{key} = {value}` is known but not supported yet; remove it, or set it to {today}, which is what happens today"
            ),
            None => format!("`{key}` is known but not supported yet; remove it"),
        };
        self.problem(origin, text);
    }
}

fn same(left: &Value, right: &Value) -> bool {
    let numeric = |value: &Value| matches!(value, Value::Int(_) | Value::Float(_));
    left == right || (numeric(left) && numeric(right) && left.number().total_cmp(&right.number()).is_eq())
}

fn unknown(table: Table, key: &str) -> String {
    let elsewhere = |other: &Table| {
        *other != table && (options::find(*other, key).is_some() || known::find(*other, key).is_some())
    };
    if let Some(other) = Table::ALL.iter().find(|other| elsewhere(other)) {
        return format!("Unknown key `{key}` in {table}; it belongs in {other}");
    }
    let honoured = options::rows().filter(|row| row.table == table).map(|row| row.key);
    match nearest(key, honoured.chain(known::keys(table))) {
        Some(near) => format!("Unknown key `{key}` in {table}; did you mean `{near}`?"),
        None => format!("Unknown key `{key}` in {table}; remove it"),
    }
}
