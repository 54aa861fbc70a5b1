//! Transcripts in documents: each command of a ```console block is run, and says what stands below it. `[..]` stands for
//! anything in a line, `...` for any lines.

use std::path::Path;
use std::process::Command;

/// The transcripts of a document that run `program`, as commands with what they print.
pub(crate) fn of(document: &str, program: &str) -> Vec<(String, String)> {
    let blocks = document.split("\n```console\n").skip(1);
    let blocks = blocks.map(|rest| rest.split_once("\n```").expect("the block ends").0);
    let mut all = Vec::new();
    for block in blocks.filter(|block| block.contains(program)) {
        for part in format!("\n{block}").split("\n$ ").skip(1) {
            let mut lines = part.split('\n').peekable();
            let mut command = lines.next().unwrap_or_default().to_owned();
            while let Some(line) = lines.next_if(|line| command.ends_with('\\') || line.starts_with("> ")) {
                command.push('\n');
                command.push_str(line.strip_prefix("> ").unwrap_or(line));
            }
            let output: String = lines.map(|line| format!("{line}\n")).collect();
            all.push((command, output));
        }
    }
    assert!(!all.is_empty(), "the document has no transcript of {program}");
    all
}

/// Runs a command in `folder`, with the programs beside `program`; both outputs as one.
pub(crate) fn run(command: &str, folder: &Path, program: &str) -> String {
    let programs = Path::new(program).parent().expect("is in a folder").display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1\n{command}")])
        .current_dir(folder)
        .env("PATH", path)
        .output()
        .expect("there is a shell");
    String::from_utf8(output.stdout).expect("is text")
}

/// Compares what a command prints with what the document says.
pub(crate) fn compare(printed: String, expected: String) {
    // A backslash is none of a path.
    snapbox::Assert::new().normalize_paths(false).eq(printed, expected);
}
