//! One line of figures: `name{label="value",…} figure [time]`.

/// A line of figures, taken apart. All parts are as they stand in the line, values of labels with their escapes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sample<'t> {
    /// The series' name.
    pub(crate) name: &'t str,
    /// Labels: names and escaped values.
    pub(crate) labels: Vec<(&'t str, &'t str)>,
    /// The figure, and behind it a time if there is one.
    pub(crate) figure: &'t str,
}

impl<'t> Sample<'t> {
    /// `None` for what no collector takes: it would refuse everything else with it.
    pub(crate) fn parse(line: &'t str) -> Option<Self> {
        let (name, rest) = split_name(line, true)?;
        let rest = blank(rest);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest)?,
            None => (Vec::new(), rest),
        };
        let figure = rest.trim_matches(BLANKS);
        let mut words = figure.split(BLANKS).filter(|word| !word.is_empty());
        if !is_number(words.next()?) {
            return None;
        }
        let timed = words.next().is_none_or(|time| time.parse::<i64>().is_ok());
        (timed && words.next().is_none()).then_some(Self { name, labels, figure })
    }

    /// The escaped value of a label.
    pub(crate) fn label(&self, name: &str) -> Option<&'t str> {
        self.labels.iter().find(|(there, _)| *there == name).map(|(_, value)| *value)
    }

    /// The figure alone.
    pub(crate) fn value(&self) -> f64 {
        let number = self.figure.split(BLANKS).next().unwrap_or_default();
        number.parse().unwrap_or(f64::NAN)
    }

    /// Adds the line to `out`, with labels put in place of those of the same names.
    pub(crate) fn write(&self, ours: &Labels, out: &mut Vec<u8>) {
        out.extend_from_slice(self.name.as_bytes());
        out.push(b'{');
        for (name, value) in self.labels.iter().filter(|(name, _)| !Labels::has(name)) {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"=\"");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\",");
        }
        out.extend_from_slice(ours.text().as_bytes());
        out.extend_from_slice(b"} ");
        out.extend_from_slice(self.figure.as_bytes());
        out.push(b'\n');
    }
}

/// The labels by which a sandbox's figures are told from others', escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Labels(String);

impl Labels {
    const NAMES: [&'static str; 4] = ["sandbox_id", "cri_uid", "cri_name", "cri_namespace"];

    /// Of a sandbox, and of its pod as the container manager calls it: uid, name, namespace.
    pub(crate) fn new(sandbox: &str, pod: Option<[&str; 3]>) -> Self {
        let values = std::iter::once(sandbox).chain(pod.into_iter().flatten());
        let pairs =
            Self::NAMES.iter().zip(values).map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
        Self(pairs.collect::<Vec<_>>().join(","))
    }

    /// As they stand between the braces.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    fn has(name: &str) -> bool {
        Self::NAMES.contains(&name)
    }
}

const BLANKS: [char; 2] = [' ', '\t'];

fn blank(text: &str) -> &str {
    text.trim_start_matches(BLANKS)
}

/// What Go's `ParseFloat` takes, too: there, digits that make more than a number can be are an error, not infinity, and a
/// NaN has no sign.
fn is_number(word: &str) -> bool {
    let has_digits = word.contains(|c: char| c.is_ascii_digit());
    word.parse::<f64>().is_ok_and(|number| match has_digits {
        true => number.is_finite(),
        false => !number.is_nan() || !word.starts_with(['+', '-']),
    })
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A name, and what follows it. Only those of series have colons.
pub(super) fn split_name(text: &str, colons: bool) -> Option<(&str, &str)> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    let end = text.find(|c| !allowed(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let starts = name.chars().next().is_some_and(|c| !c.is_ascii_digit());
    starts.then_some((name, rest))
}

type Pairs<'t> = Vec<(&'t str, &'t str)>;

/// What stands behind `{`, and what follows `}`.
fn labels(mut rest: &str) -> Option<(Pairs<'_>, &str)> {
    let mut pairs: Pairs<'_> = Vec::new();
    loop {
        rest = blank(rest);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((pairs, rest));
        }
        let (name, after) = split_name(rest, false)?;
        let after = blank(blank(after).strip_prefix('=')?).strip_prefix('"')?;
        let end = closing_quote(after)?;
        if pairs.iter().any(|(there, _)| *there == name) {
            return None;
        }
        pairs.push((name, &after[..end]));
        rest = blank(&after[end + 1..]);
        rest = match rest.strip_prefix(',') {
            Some(rest) => rest,
            None if rest.starts_with('}') => rest,
            None => return None,
        };
    }
}

/// Where the value ends; `None` if it does not, or has an escape that there is not.
fn closing_quote(text: &str) -> Option<usize> {
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some(at),
            b'\\' => {
                let (_, next) = bytes.next()?;
                if !matches!(next, b'\\' | b'"' | b'n') {
                    return None;
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{Labels, Sample};

    fn relabelled(line: &str, labels: &Labels) -> Option<String> {
        let mut out = Vec::new();
        Sample::parse(line)?.write(labels, &mut out);
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn labels_are_put_behind_those_that_are_there() {
        let labels = Labels::new("s1", Some(["u", "web", "default"]));
        let ours = r#"sandbox_id="s1",cri_uid="u",cri_name="web",cri_namespace="default""#;
        let all = |line| relabelled(line, &labels).unwrap();
        assert_eq!(all("a 1"), format!("a{{{ours}}} 1\n"));
        assert_eq!(all("a{} 1 17"), format!("a{{{ours}}} 1 17\n"));
        assert_eq!(all("a { x = \"1\" , } +Inf"), format!("a{{x=\"1\",{ours}}} +Inf\n"));
        assert_eq!(
            all(r#"a:b{x="\"\\\n}",y="{"}  NaN "#),
            format!(r#"a:b{{x="\"\\\n}}",y="{{",{ours}}} NaN"#) + "\n"
        );
    }

    #[test]
    fn a_sandbox_cannot_speak_for_another() {
        let labels = Labels::new("s1", None);
        let line = r#"a{sandbox_id="s2",cri_name="other",x="1"} 1"#;
        assert_eq!(relabelled(line, &labels).unwrap(), "a{x=\"1\",sandbox_id=\"s1\"} 1\n");
    }

    #[test]
    fn names_are_escaped() {
        let labels = Labels::new("a\"b\\c\nd", None);
        assert_eq!(labels.text(), r#"sandbox_id="a\"b\\c\nd""#);
        assert!(Sample::parse(&format!("x{{{}}} 1", labels.text())).is_some());
    }

    #[test]
    fn what_no_collector_takes_is_no_sample() {
        for line in [
            "",
            "a",
            "a x",
            "1a 1",
            "a 1 x",
            "a 1 1 1",
            "a{x} 1",
            "a{x=1} 1",
            r#"a{x="1} 1"#,
            r#"a{x="\q"} 1"#,
            r#"a{x="1"y="2"} 1"#,
            r#"a{x="1",x="2"} 1"#,
            r#"a{1x="1"} 1"#,
            r#"a{x:y="1"} 1"#,
            "a{ 1",
            "ä 1",
            "a 1_000",
            // Go's numbers end sooner than Rust's, and a NaN has no sign there.
            "a 1e999",
            "a -1e999",
            "a +nan",
            "a -NaN",
        ] {
            assert_eq!(Sample::parse(line), None, "{line}");
        }
    }

    #[test]
    fn infinity_and_no_number_are_figures_if_they_are_meant() {
        for line in ["a +Inf", "a -Inf", "a Inf", "a infinity", "a NaN", "a nan", "a 1e308", "a 1e-999"] {
            assert!(Sample::parse(line).is_some(), "{line}");
        }
    }

    #[test]
    fn a_sample_has_its_figure_and_labels() {
        let sample = Sample::parse(r#"a{x="1",y="2"} 2.5e3 17"#).unwrap();
        assert_eq!((sample.value(), sample.label("y"), sample.label("z")), (2500.0, Some("2"), None));
    }
}
