//! How long containerd's requests took, by the names that upstream's metrics give them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use kata_metrics::{Exposition, Family, Histogram, Told};

static DURATIONS: Family = Family::histogram(
    "kata_shim_rpc_durations_histogram_milliseconds",
    "Requests of the container manager.",
    Told::WhenAsked,
);

/// A histogram for each method that was called.
#[derive(Debug, Default)]
pub(crate) struct Rpcs(Mutex<BTreeMap<String, Histogram>>);

impl Rpcs {
    /// Counts an answer to `action`.
    pub(crate) fn record(&self, action: &str, took: Duration) {
        let mut actions = self.actions();
        if let Some(histogram) = actions.get(action) {
            return histogram.record(took);
        }
        actions.entry(action.to_owned()).or_default().record(took);
    }

    /// Writes them.
    pub(crate) fn write(&self, text: &mut Exposition) {
        let actions = self.actions();
        text.histograms(&DURATIONS, actions.iter().map(|(action, histogram)| (action.as_str(), histogram)));
    }

    fn actions(&self) -> MutexGuard<'_, BTreeMap<String, Histogram>> {
        self.0.lock().expect("a panic ends the process, so nobody left the lock poisoned")
    }
}

/// `CloseIO` is `close_io`.
pub(crate) fn action(method: &str) -> String {
    let mut name = String::with_capacity(method.len() + 2);
    let mut was_upper = true;
    for letter in method.chars() {
        if letter.is_ascii_uppercase() && !was_upper {
            name.push('_');
        }
        was_upper = letter.is_ascii_uppercase();
        name.push(letter.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kata_metrics::{Exposition, Selection};

    use super::{Rpcs, action};

    #[test]
    fn methods_go_by_upstreams_names() {
        let names = ["CloseIO", "ResizePty", "Create", "SandboxStatus"].map(action);
        assert_eq!(names, ["close_io", "resize_pty", "create", "sandbox_status"]);
    }

    #[test]
    fn a_method_has_a_histogram_once_it_was_called() {
        let rpcs = Rpcs::default();
        rpcs.record("create", Duration::from_millis(3));
        rpcs.record("create", Duration::from_millis(5));
        let mut text = Exposition::new(Selection::all());
        rpcs.write(&mut text);
        let text = text.finish();
        let count = "kata_shim_rpc_durations_histogram_milliseconds_count{action=\"create\"} 2\n";
        assert!(text.ends_with(count) && !text.contains("delete"), "{text}");
    }
}
