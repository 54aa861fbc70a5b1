//! The results of the checks and the verdicts they add up to.

use std::fmt;

use serde::Serialize;

use crate::table::{self, Align};

/// The first verdict, word for word as tools look for it.
const CAPABLE: &str = "System is capable of running Kata Containers";
/// The second verdict.
const CAN_CREATE: &str = "System can currently create Kata Containers";

/// What a check is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Need {
    /// Without it this host can never run a sandbox.
    Run,
    /// Without it no sandbox can be created now.
    Create,
    /// Things work without it, slower or in another way.
    Nothing,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// In order.
    Ok,
    /// Not there, and not needed.
    Absent,
    /// Works, but not as well as it could.
    Warning,
    /// Missing and needed.
    Failed,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Item {
    /// What was looked at.
    pub(crate) name: &'static str,
    /// How it ended.
    pub(crate) status: Status,
    /// What it is needed for.
    pub(crate) needed_for: Need,
    /// What was found.
    pub(crate) detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<String>,
}

impl Item {
    /// Something that is in order.
    pub(crate) fn ok(name: &'static str, needed_for: Need, detail: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, needed_for, detail: detail.into(), advice: None }
    }

    /// Something that is not, with what to do.
    pub(crate) fn not(name: &'static str, status: Status, detail: impl Into<String>, advice: &str) -> Self {
        let needed_for = if status == Status::Failed { Need::Create } else { Need::Nothing };
        Self { name, status, needed_for, detail: detail.into(), advice: Some(advice.to_owned()) }
    }

    /// The same check, needed for something else.
    pub(crate) fn needed_for(mut self, need: Need) -> Self {
        self.needed_for = need;
        self
    }

    /// Whether this stands in the way of `need`.
    pub(crate) fn is_failure(&self, need: Need) -> bool {
        self.status == Status::Failed && self.needed_for == need
    }

    /// Whether a person should be told even if not asking for details.
    pub(crate) fn is_remarkable(&self) -> bool {
        matches!(self.status, Status::Warning | Status::Failed)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Absent => "absent",
            Self::Warning => "warning",
            Self::Failed => "failed",
        })
    }
}

/// `failed: kernel: … . Advice`
impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.status, self.name, self.detail)?;
        self.advice.as_ref().map_or(Ok(()), |advice| write!(f, "; {advice}"))
    }
}

/// All checks and what they add up to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// This runtime's version.
    pub(crate) version: &'static str,
    /// The checks in order.
    #[serde(rename = "checks")]
    pub(crate) items: Vec<Item>,
    /// Whether it was root who looked.
    pub(crate) root: bool,
    /// The first verdict.
    pub(crate) capable: bool,
    /// The second verdict; unknown without root.
    pub(crate) can_create: Option<bool>,
    /// Whether the exit code is 0.
    pub(crate) ok: bool,
}

impl Report {
    /// Adds the checks up. `strict` lets warnings count as failures of the whole.
    pub(crate) fn new(items: Vec<Item>, root: bool, strict: bool) -> Self {
        let capable = !items.iter().any(|item| item.is_failure(Need::Run));
        let complete = capable && !items.iter().any(|item| item.is_failure(Need::Create));
        let warned = items.iter().any(|item| item.status == Status::Warning);
        let ok = complete && !(strict && warned);
        let version = crate::version::SEMVER;
        Self { version, items, root, capable, can_create: root.then_some(complete), ok }
    }

    /// The verdict lines: what is not the case is said as well.
    pub(crate) fn verdicts(&self) -> Vec<String> {
        if !self.capable {
            return vec![CAPABLE.replace(" is ", " is not ")];
        }
        let second = match self.can_create {
            Some(true) => Some(CAN_CREATE.to_owned()),
            Some(false) => Some(CAN_CREATE.replace(" can ", " cannot ")),
            None => None,
        };
        [CAPABLE.to_owned()].into_iter().chain(second).collect()
    }

    /// All checks in columns.
    pub(crate) fn table(&self) -> Vec<String> {
        let row = |item: &Item| {
            let advice = item.advice.as_ref().map_or_else(String::new, |advice| format!("; {advice}"));
            [item.status.to_string(), item.name.to_owned(), format!("{}{advice}", item.detail)]
        };
        let rows: Vec<_> = self.items.iter().map(row).collect();
        table::lines([Align::Left; 3], &rows)
    }
}
