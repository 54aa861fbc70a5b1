//! What the programs for `cargo xtask bench` have in common.

use std::io::{self, Write};

use serde_json::Value;

/// Has each line of standard input answered by a line of JSON, until there are no more.
pub fn answer_lines(answer: impl Fn(&str) -> Value) {
    for line in io::stdin().lines() {
        let line = line.expect("the benchmark writes lines of text");
        println!("{}", answer(&line));
        io::stdout().flush().expect("the benchmark reads the answers");
    }
}
