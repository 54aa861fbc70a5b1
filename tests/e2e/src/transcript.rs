//! Transcripts in documents: code blocks in the language `console`, where a line that begins with `# ` is a command for
//! root's shell, and what follows is what it answers.

use std::path::Path;
use std::process::Command;

use crate::containerd::{Containerd, socket};
use crate::failure::fail;
use crate::recipe::Image;

/// Where the configuration is in documents.
const CONFIGURATION: &str = "/etc/kata-containers/configuration.toml";
/// Stands for anything within a line.
const ANYTHING: &str = "[..]";

/// The transcript below one heading.
#[derive(Debug)]
pub struct Transcript {
    /// The heading.
    pub title: String,
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    command: String,
    answer: Vec<String>,
}

impl Transcript {
    /// Those of a document, which is a path in the repository.
    #[track_caller]
    pub fn all(document: &str) -> Vec<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(document);
        let text = std::fs::read_to_string(&path);
        let text = text.unwrap_or_else(|e| fail(format_args!("Cannot read {}: {e}", path.display())));
        let (mut title, mut all) = (String::new(), Vec::new());
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if line.starts_with('#') {
                line.trim_start_matches('#').trim().clone_into(&mut title);
            } else if line == "```console" {
                let inside = lines.by_ref().take_while(|line| *line != "```");
                all.push(Self { title: title.clone(), steps: steps(inside) });
            }
        }
        all
    }

    /// Gives its commands, which must be answered as it says.
    #[track_caller]
    pub fn play(&self, containerd: &Containerd) {
        let image = Image::Busybox;
        containerd.ensure_image(image);
        let configuration = containerd.kata_configuration();
        let configuration = configuration.to_str().expect("the harness has chosen it");
        for Step { command, answer } in &self.steps {
            let mut shell = Command::new("sh");
            // Not among its arguments, where `pgrep -f` in a command would find it.
            shell.args(["-c", "exec 2>&1; eval \"$COMMAND\""]).env("COMMAND", command);
            shell.env("PATH", containerd.stage.path()).env("KATA_CONF_FILE", configuration);
            shell.env("CONTAINERD_NAMESPACE", &containerd.host.mark);
            shell.env("CONTAINERD_ADDRESS", socket()).env("IMAGE", image.name());
            let said = crate::command::run(&mut shell).text().replace(configuration, CONFIGURATION);
            let said: Vec<&str> = said.lines().map(str::trim_end).collect();
            let same =
                said.len() == answer.len() && said.iter().zip(answer).all(|(said, told)| is_like(said, told));
            assert!(
                same,
                "{}: {command}\nsays\n{}\nand not\n{}",
                self.title,
                said.join("\n"),
                answer.join("\n")
            );
        }
    }
}

fn steps<'l>(lines: impl Iterator<Item = &'l str>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in lines {
        match (line.strip_prefix("# "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step { command: command.to_owned(), answer: Vec::new() }),
            (None, Some(step)) => step.answer.push(line.trim_end().to_owned()),
            (None, None) => fail(format_args!("A transcript begins with what nobody asked: {line}")),
        }
    }
    steps
}

/// Whether the line is as told.
fn is_like(line: &str, told: &str) -> bool {
    let mut parts = told.split(ANYTHING);
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut last = None;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        (rest, last) = (after, Some(part));
    }
    // What ends with anything has no end of its own.
    rest.is_empty() || last.is_some_and(|part| part.is_empty() || line.ends_with(part))
}

#[cfg(test)]
mod tests {
    use super::is_like;

    #[test]
    fn dots_stand_for_anything_within_a_line() {
        assert!(is_like("a 1 b 2 c", "a [..] b [..] c"));
        assert!(is_like("took 3 ms ms", "took [..] ms"));
        assert!(is_like("anything", "[..]"));
        assert!(!is_like("a 1 b", "a [..] c"));
        assert!(!is_like("a 1 b and more", "a [..] b"));
        assert!(!is_like("same", "sam"));
    }
}
