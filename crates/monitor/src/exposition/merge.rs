//! One text of many: each family once, with the lines of all sandboxes. It is made piece by piece as it is read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::body::Bytes;

use super::sample::{Labels, Sample};
use super::text::{Kind, Text, bare};

/// Pieces are about so large.
const PIECE: usize = 16 << 10;
/// Families of this name are the monitor's own.
const OWN: &str = "kata_monitor_";

/// What a sandbox has told.
#[derive(Debug)]
pub(crate) struct Told {
    /// Whose it is.
    pub(crate) labels: Labels,
    /// Its figures.
    pub(crate) text: Text,
}

/// Writes all texts as one.
pub(crate) struct Merge {
    told: Vec<Told>,
    /// Text and block, by family.
    order: Vec<(usize, usize)>,
    /// The next block, and the byte in it.
    at: (usize, usize),
    /// The kind of the family that is being written.
    kind: Kind,
    /// Lines that were left out.
    unfit: Arc<AtomicU64>,
}

impl Merge {
    /// Of these texts; `unfit` counts the lines that no collector takes.
    pub(crate) fn new(told: Vec<Told>, unfit: Arc<AtomicU64>) -> Self {
        let blocks =
            told.iter().enumerate().flat_map(|(at, told)| (0..told.text.len()).map(move |block| (at, block)));
        let family = |(at, block): (usize, usize)| -> &str { told[at].text.family(block) };
        let mut order: Vec<_> = blocks.filter(|block| !family(*block).starts_with(OWN)).collect();
        order.sort_by(|one, other| family(*one).cmp(family(*other)).then(one.cmp(other)));
        Self { told, order, at: (0, 0), kind: Kind::Untyped, unfit }
    }

    fn family(&self, index: usize) -> &str {
        let (at, block) = self.order[index];
        self.told[at].text.family(block)
    }

    /// The head of the family that begins at `index`; the first sandbox that tells its kind decides it.
    fn head(&mut self, index: usize, out: &mut Vec<u8>) {
        let name = self.family(index).to_owned();
        let same = || {
            let from_here = self.order[index..].iter().map(|(at, block)| (&self.told[*at].text, *block));
            from_here.take_while(|(text, block)| text.family(*block) == name)
        };
        if let Some(help) = same().find_map(|(text, block)| text.help(block)) {
            out.extend_from_slice(format!("# HELP {name} {help}\n").as_bytes());
        }
        let told = same().map(|(text, block)| text.kind(block)).find(|kind| *kind != Kind::Untyped);
        self.kind = told.unwrap_or(Kind::Untyped);
        out.extend_from_slice(format!("# TYPE {name} {}\n", self.kind.word()).as_bytes());
    }

    /// Lines of the current block until the piece is full; true: there are no more.
    fn block(&mut self, out: &mut Vec<u8>) -> bool {
        let (index, from) = self.at;
        let (at, block) = self.order[index];
        let told = &self.told[at];
        let fits = told.text.kind(block).fits(self.kind);
        let mut done = from;
        for line in told.text.lines(block, from) {
            done += line.len();
            match Sample::parse(bare(line)) {
                Some(sample) if fits => sample.write(&told.labels, out),
                _ => drop(self.unfit.fetch_add(1, Ordering::Relaxed)),
            }
            if out.len() >= PIECE {
                self.at.1 = done;
                return false;
            }
        }
        true
    }
}

impl Iterator for Merge {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut out = Vec::with_capacity(PIECE + PIECE / 4);
        while self.at.0 < self.order.len() && out.len() < PIECE {
            let (index, from) = self.at;
            if from == 0 && (index == 0 || self.family(index) != self.family(index - 1)) {
                self.head(index, &mut out);
            }
            if self.block(&mut out) {
                self.at = (index + 1, 0);
            }
        }
        (!out.is_empty()).then(|| out.into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::{Merge, Told};
    use crate::exposition::sample::Sample;
    use crate::exposition::{Labels, Text};

    /// The merged text of sandboxes `s0`, `s1`, …, and how many lines were unfit.
    fn merged(texts: &[&str]) -> (String, u64) {
        let told = texts.iter().enumerate().map(|(number, text)| Told {
            labels: Labels::new(&format!("s{number}"), None),
            text: Text::new(text.as_bytes().to_vec()),
        });
        let unfit = Arc::new(AtomicU64::new(0));
        let pieces = Merge::new(told.collect(), unfit.clone()).flat_map(|piece| piece.to_vec());
        let text = String::from_utf8(pieces.collect()).unwrap();
        (text, unfit.load(Ordering::Relaxed))
    }

    #[test]
    fn a_family_of_all_sandboxes_has_one_head() {
        let one = "# HELP b Bees.\n# TYPE b gauge\nb{x=\"1\"} 1\n# TYPE a counter\na 2\n";
        let other = "# TYPE a counter\na 3\n# TYPE b gauge\nb 4\nc 5\n";
        let all = "# TYPE a counter\na{sandbox_id=\"s0\"} 2\na{sandbox_id=\"s1\"} 3\n\
                   # HELP b Bees.\n# TYPE b gauge\nb{x=\"1\",sandbox_id=\"s0\"} 1\nb{sandbox_id=\"s1\"} 4\n\
                   # TYPE c untyped\nc{sandbox_id=\"s1\"} 5\n";
        assert_eq!(merged(&[one, other]), (all.to_owned(), 0));
    }

    #[test]
    fn a_line_that_would_spoil_the_rest_is_left_out_and_counted() {
        let (text, unfit) = merged(&["# TYPE a counter\na 1\na{x} 2\nb two\n", "# TYPE a gauge\na 3\n"]);
        assert_eq!(text, "# TYPE a counter\na{sandbox_id=\"s0\"} 1\n# TYPE b untyped\n");
        assert_eq!(unfit, 3, "and one of another kind");
    }

    #[test]
    fn who_does_not_tell_a_kind_does_not_decide_it() {
        let all = "# TYPE a gauge\na{sandbox_id=\"s0\"} 1\na{sandbox_id=\"s1\"} 2\n";
        assert_eq!(merged(&["a 1\n", "# TYPE a gauge\na 2\n"]), (all.to_owned(), 0));
    }

    #[test]
    fn a_sandbox_cannot_tell_the_monitors_own_figures() {
        assert_eq!(merged(&["# TYPE kata_monitor_x gauge\nkata_monitor_x 1\n"]), (String::new(), 0));
    }

    #[test]
    fn a_large_text_comes_in_pieces_and_whole() {
        let text: String = (0..5000).map(|number| format!("a{{n=\"{number}\"}} {number}\n")).collect();
        let (merged, _) = merged(&[&text, &text]);
        assert_eq!(merged.lines().count(), 10_001);
        let last = "a{n=\"4999\",sandbox_id=\"s1\"} 4999\n";
        assert!(merged.ends_with(last), "{}", &merged[merged.len() - 100..]);
    }

    /// Lines as they might come, and others.
    fn lines() -> impl Strategy<Value = String> {
        let names = "[ab](_sum|_count|_bucket)?";
        let line = prop_oneof![
            4 => (names, "(\\{[xy]=\"[a-z\\\\\"]{0,3}\"\\})?", "[0-9]{1,3}|NaN|x").prop_map(|(n, l, v)| format!("{n}{l} {v}")),
            2 => ("[ab]", "counter|gauge|histogram|summary|other").prop_map(|(n, k)| format!("# TYPE {n} {k}")),
            1 => "[ab]".prop_map(|name| format!("# HELP {name} Some \\n text")),
            1 => "\\PC{0,20}",
        ];
        proptest::collection::vec(line, 0..20).prop_map(|lines| lines.join("\n"))
    }

    proptest! {
        #[test]
        fn whatever_shims_tell_the_whole_is_well_formed(one in lines(), other in lines()) {
            let (text, unfit) = merged(&[&one, &other]);
            let mut heads = HashSet::new();
            let mut samples = 0;
            for line in text.lines() {
                if let Some(head) = line.strip_prefix("# ") {
                    let mut words = head.split(' ');
                    let head = (words.next().unwrap(), words.next().unwrap());
                    prop_assert!(heads.insert(head), "twice: {line}");
                } else {
                    prop_assert!(Sample::parse(line).is_some_and(|sample| sample.label("sandbox_id").is_some()), "{line}");
                    samples += 1;
                }
            }
            // Nothing is lost without being counted.
            let fit = |line: &&str| !line.starts_with('#') && Sample::parse(line.trim_end_matches('\r')).is_some();
            let came = one.lines().chain(other.lines()).filter(fit).count();
            prop_assert!(samples <= came && came as u64 <= samples as u64 + unfit, "{samples} of {came}");
        }
    }
}
