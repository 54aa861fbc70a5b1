//! Kernel parameters as an ordered list of names and values.

use std::fmt;

/// One word of the kernel command line: `name` or `name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelParam {
    /// Everything before the first `=`.
    pub name: String,
    /// Everything after it, with its quotes; `None` if there is no `=`.
    pub value: Option<String>,
}

/// An ordered list of kernel parameters. A name may occur more than once (`console=`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KernelParams(Vec<KernelParam>);

impl KernelParams {
    /// Splits a command line at spaces; spaces inside double quotes do not count, as in the kernel.
    ///
    /// # Errors
    /// Says in one sentence what is wrong: an open quote, a control character, a word that begins with `=`.
    pub fn parse(line: &str) -> Result<Self, String> {
        if let Some(bad) = line.chars().find(|c| c.is_control() && *c != '\t') {
            return Err(format!("contains the control character {bad:?}; write it on one line"));
        }
        let mut quoted = false;
        let words: Vec<&str> = line
            .split(|c: char| {
                quoted ^= c == '"';
                !quoted && (c == ' ' || c == '\t')
            })
            .filter(|word| !word.is_empty())
            .collect();
        if quoted {
            return Err("has a double quote that is never closed".to_owned());
        }
        words.into_iter().map(KernelParam::parse).collect::<Result<_, _>>().map(Self)
    }

    /// The parameters in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &KernelParam> {
        self.0.iter()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One word for each parameter, ready for a command line.
    #[must_use]
    pub fn to_words(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }

    /// Puts `self` over `base`: a name given here replaces every parameter of that name there.
    #[must_use]
    pub fn over(&self, base: &Self) -> Self {
        let kept = base.0.iter().filter(|old| self.0.iter().all(|new| new.name != old.name));
        Self(kept.chain(&self.0).cloned().collect())
    }
}

impl KernelParam {
    fn parse(word: &str) -> Result<Self, String> {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word, None),
        };
        if name.is_empty() {
            return Err(format!("has the word `{word}` without a name before `=`"));
        }
        Ok(Self { name: name.to_owned(), value })
    }
}

impl fmt::Display for KernelParam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl fmt::Display for KernelParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_words().join(" "))
    }
}
