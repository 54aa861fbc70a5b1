//! Figures as Prometheus text (format 0.0.4), on the host and in the guest. Nothing is kept but the counters of requests:
//! files of `/proc` are read when somebody asks, and only those that the question needs.
//!
//! - `family.rs`: what a family is; `families.rs`: the tables of all of them, which decide what is told unasked.
//! - `exposition.rs`: the text; `selection.rs`: which families a scraper wants.
//! - `process.rs`: a process's figures; `guest.rs`: a kernel's. Each has the readers of its files.
//! - `histogram.rs`: how long requests took.
//! - `foreign.rs`: takes from somebody else's text what is well-formed and theirs to tell.

mod exposition;
mod families;
mod family;
mod foreign;
mod guest;
mod histogram;
mod numbers;
mod process;
mod selection;

pub use exposition::{BRIEF_SERIES, Exposition, Samples};
pub use families::{GUEST, GUEST_FAMILIES, Source, agent, hypervisor, shim};
pub use family::{Family, Kind, Told};
pub use foreign::admit;
pub use guest::guest;
pub use histogram::{BOUNDS_MS, Histogram};
pub use process::process;
pub use selection::{Refused, Selection};
