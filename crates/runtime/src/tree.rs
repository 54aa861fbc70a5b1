//! Lines that branch.

/// A line and those below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    text: String,
    below: Vec<Node>,
}

impl Node {
    /// A line.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), below: Vec::new() }
    }

    /// With a line below it for each of these.
    pub(crate) fn with(mut self, below: impl IntoIterator<Item = Self>) -> Self {
        self.below.extend(below);
        self
    }

    /// With such a line below it, if there is anything to say.
    pub(crate) fn fact(self, name: &str, value: Option<impl std::fmt::Display>) -> Self {
        let line = value.map(|value| Self::new(format!("{name}: {value}")));
        self.with(line)
    }

    /// With a branch for these, if there are any.
    pub(crate) fn branch(self, name: &str, below: impl IntoIterator<Item = Self>) -> Self {
        let below: Vec<Self> = below.into_iter().collect();
        if below.is_empty() { self } else { self.with([Self::new(name).with(below)]) }
    }

    /// The lines, with what leads to them.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.text.clone()];
        self.add("", &mut lines);
        lines
    }

    fn add(&self, before: &str, lines: &mut Vec<String>) {
        for (at, node) in self.below.iter().enumerate() {
            let last = at + 1 == self.below.len();
            let (corner, beside) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            lines.push(format!("{before}{corner}{}", node.text));
            node.add(&format!("{before}{beside}"), lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Node;

    #[test]
    fn branches_are_drawn() {
        let tree = Node::new("a").fact("b", Some(1)).fact("no", None::<u32>).branch("none", []);
        let tree = tree.branch("c", [Node::new("d").with([Node::new("e")]), Node::new("f")]);
        assert_eq!(tree.lines(), ["a", "├─ b: 1", "└─ c", "   ├─ d", "   │  └─ e", "   └─ f"]);
    }
}
