//! What one shim answers, with an index of its families. The text is kept as it came; lines are looked at when they are
//! written.

use std::ops::Range;

use super::sample::{Sample, split_name};

/// The kind of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
    Untyped,
}

impl Kind {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "counter" => Self::Counter,
            "gauge" => Self::Gauge,
            "histogram" => Self::Histogram,
            "summary" => Self::Summary,
            "untyped" => Self::Untyped,
            _ => return None,
        })
    }

    /// As it stands behind `# TYPE`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
            Self::Untyped => "untyped",
        }
    }

    /// Whether lines of this kind may stand in a family of another.
    pub(crate) fn fits(self, family: Self) -> bool {
        self == family || (self == Self::Untyped && matches!(family, Self::Counter | Self::Gauge))
    }

    /// What the names of a family's series may have behind the family's.
    fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Histogram => &["_bucket", "_sum", "_count"],
            Self::Summary => &["", "_sum", "_count"],
            _ => &[""],
        }
    }
}

/// Lines of one family that stand together.
#[derive(Debug)]
pub(crate) struct Block {
    name: Range<usize>,
    help: Option<Range<usize>>,
    kind: Kind,
    lines: Range<usize>,
}

/// A shim's answer.
#[derive(Debug)]
pub(crate) struct Text {
    text: String,
    blocks: Vec<Block>,
}

impl Text {
    /// Takes an answer in. What is no UTF-8 makes its line unfit, which is left out when it is written.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let text = String::from_utf8(bytes);
        let text = text.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        let mut index = Index { text: &text, blocks: Vec::new(), help: None };
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            index.line(start..start + line.len());
            start += line.len();
        }
        let blocks = index.blocks;
        Self { text, blocks }
    }

    /// How many blocks there are.
    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// The family of a block.
    pub(crate) fn family(&self, block: usize) -> &str {
        &self.text[self.blocks[block].name.clone()]
    }

    /// Its kind.
    pub(crate) fn kind(&self, block: usize) -> Kind {
        self.blocks[block].kind
    }

    /// What it says about itself.
    pub(crate) fn help(&self, block: usize) -> Option<&str> {
        self.blocks[block].help.clone().map(|help| &self.text[help])
    }

    /// The lines of a block, from the byte `from` of it on.
    pub(crate) fn lines(&self, block: usize, from: usize) -> impl Iterator<Item = &str> {
        let lines = &self.text[self.blocks[block].lines.clone()];
        lines[from..].split_inclusive('\n')
    }

    /// The samples of one family.
    pub(crate) fn samples<'t>(&'t self, family: &'t str) -> impl Iterator<Item = Sample<'t>> {
        let blocks = (0..self.len()).filter(move |block| self.family(*block) == family);
        blocks.flat_map(|block| self.lines(block, 0)).filter_map(|line| Sample::parse(bare(line)))
    }
}

/// A line without its end.
pub(crate) fn bare(line: &str) -> &str {
    line.trim_end_matches(['\n', '\r'])
}

struct Index<'t> {
    text: &'t str,
    blocks: Vec<Block>,
    /// Name and text of a family whose kind is not told yet.
    help: Option<(Range<usize>, Range<usize>)>,
}

impl Index<'_> {
    fn line(&mut self, line: Range<usize>) {
        let text = bare(&self.text[line.clone()]);
        if let Some(comment) = text.strip_prefix('#') {
            self.comment(comment, line);
        } else if !text.trim().is_empty() {
            self.sample(text, line);
        }
    }

    /// `HELP name text`, `TYPE name kind`; other comments are for nobody.
    fn comment(&mut self, comment: &str, line: Range<usize>) {
        let comment = comment.trim_start();
        let (word, rest) = comment.split_once([' ', '\t']).unwrap_or((comment, ""));
        let Some((name, rest)) = split_name(rest.trim_start(), true) else { return };
        let name = self.place(name);
        let rest = rest.trim_start_matches([' ', '\t']);
        match word {
            "HELP" => self.help = Some((name, self.place(rest))),
            "TYPE" => {
                let Some(kind) = Kind::parse(rest.trim()) else { return };
                let help = self.help_of(&name);
                self.blocks.push(Block { name, help, kind, lines: line.end..line.end });
            }
            _ => {}
        }
    }

    fn sample(&mut self, text: &str, line: Range<usize>) {
        let Some((name, _)) = split_name(text, true) else { return };
        if let Some(last) = self.blocks.last_mut()
            && last.lines.end == line.start
            && belongs(self.text, last, name)
        {
            last.lines.end = line.end;
            return;
        }
        let earlier = self.blocks.iter().rev().find(|block| belongs(self.text, block, name));
        let block = match earlier {
            Some(block) => {
                Block { name: block.name.clone(), help: block.help.clone(), kind: block.kind, lines: line }
            }
            None => {
                let name = self.place(name);
                Block { help: self.help_of(&name), name, kind: Kind::Untyped, lines: line }
            }
        };
        self.blocks.push(block);
    }

    fn help_of(&mut self, name: &Range<usize>) -> Option<Range<usize>> {
        let (of, help) = self.help.take()?;
        (self.text[of] == self.text[name.clone()]).then_some(help)
    }

    /// Where in the text a part of it stands.
    fn place(&self, part: &str) -> Range<usize> {
        let start = part.as_ptr() as usize - self.text.as_ptr() as usize;
        start..start + part.len()
    }
}

fn belongs(text: &str, block: &Block, name: &str) -> bool {
    let rest = name.strip_prefix(&text[block.name.clone()]);
    rest.is_some_and(|rest| block.kind.suffixes().contains(&rest))
}

#[cfg(test)]
mod tests {
    use super::{Kind, Text};

    const HISTOGRAM: &str =
        "# HELP t How long.\n# TYPE t histogram\nt_bucket{le=\"+Inf\"} 1\nt_sum 2\nt_count 1\n";

    #[test]
    fn a_family_is_its_head_and_the_lines_that_belong_to_it() {
        let text = Text::new(format!("{HISTOGRAM}# TYPE g gauge\ng 1\n\n# a comment\ng 2\nalone 3\n").into());
        let families: Vec<_> = (0..text.len()).map(|block| (text.family(block), text.kind(block))).collect();
        let g = ("g", Kind::Gauge);
        assert_eq!(families, [("t", Kind::Histogram), g, g, ("alone", Kind::Untyped)]);
        assert_eq!((text.help(0), text.help(1)), (Some("How long."), None));
        assert_eq!(
            text.lines(0, 0).collect::<Vec<_>>(),
            ["t_bucket{le=\"+Inf\"} 1\n", "t_sum 2\n", "t_count 1\n"]
        );
        assert_eq!(text.samples("g").map(|sample| sample.value()).collect::<Vec<_>>(), [1.0, 2.0]);
    }

    #[test]
    fn a_line_that_comes_later_still_belongs_to_its_family() {
        let text = Text::new(format!("{HISTOGRAM}other 1\nt_count 2").into());
        assert_eq!((text.family(2), text.kind(2)), ("t", Kind::Histogram));
    }
}
