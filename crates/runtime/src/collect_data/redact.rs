//! Takes secrets out of what is to be sent to strangers. In doubt something harmless is taken out, too.

use serde_json::Value;

/// What stands in the place of a secret.
const REMOVED: &str = "<removed>";

/// Parts of names whose values are secrets.
const SECRET: [&str; 12] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "api_key",
    "apikey",
    "api-key",
    "credential",
    "private_key",
    "authorization",
    "auth",
];

/// Names that only look like that.
const HARMLESS: [&str; 3] = ["author", "authority", "authorized"];

/// Annotations whose values are kept: what the runtime and the container manager say. Others are the user's.
const KEPT_ANNOTATIONS: [&str; 4] =
    ["io.kubernetes.cri.", "io.kubernetes.cri-o.", "io.katacontainers.", "nerdctl/platform"];

/// Of those, the ones in which users' data come.
const USERS_ANNOTATIONS: [&str; 4] = ["cc_init_data", "agent.policy", "cri-o.annotations", "kube.config"];

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET.iter().any(|word| name.contains(word)) && !HARMLESS.contains(&name.as_str())
}

/// A text of any form: values after names of secrets, passwords in URLs, private keys.
pub(super) fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        let begins = line.contains("-----BEGIN") && line.contains("PRIVATE KEY");
        if begins {
            out.push_str(REMOVED);
            out.push('\n');
        }
        in_key |= begins;
        if !in_key {
            out.push_str(&without_users(line));
        }
        in_key &= !line.contains("-----END");
    }
    without_values(&out)
}

/// `scheme://user:password@host`
fn without_users(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c == '/' || c == '"' || c == '\'' || c.is_whitespace());
        let authority = &after[..end.unwrap_or(after.len())];
        rest = match authority.rfind('@') {
            Some(user) => {
                out.push_str(REMOVED);
                &after[user..]
            }
            None => after,
        };
    }
    out + rest
}

/// `NAME=value`, `name: value`, `"name" = "value"`, `--name value`: for names of secrets.
fn without_values(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((name_end, value)) = assignment(rest) {
        let name_start = rest[..name_end]
            .rfind(|c: char| !is_name(c))
            .map_or(0, |at| at + rest[at..].chars().next().map_or(1, char::len_utf8));
        if is_secret(&rest[name_start..name_end]) {
            out.push_str(&rest[..value]);
            out.push_str(REMOVED);
            rest = &rest[value..][value_length(&rest[value..], &rest[name_start..name_end])..];
        } else {
            out.push_str(&rest[..value]);
            rest = &rest[value..];
        }
    }
    out + rest
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// Where the next name ends and where its value begins.
fn assignment(text: &str) -> Option<(usize, usize)> {
    let mut from = 0;
    loop {
        let start = from + text[from..].find(is_name)?;
        let end = text[start..].find(|c: char| !is_name(c)).map_or(text.len(), |length| start + length);
        let after = &text[end..];
        let mark = after.trim_start_matches(['"', '\'', '\\']).trim_start_matches([' ', '\t']);
        let is_flag = text[start..end].starts_with("--") && after.starts_with(' ');
        if mark.starts_with(['=', ':']) && !mark.starts_with("://") || is_flag {
            let value = if is_flag && !mark.starts_with(['=', ':']) { after } else { &mark[1..] };
            let value = value.trim_start_matches([' ', '\t']);
            return Some((end, text.len() - value.len()));
        }
        from = end;
    }
}

/// How long a value is: to its closing quote or bracket, or to the next space; a header's to the line's end.
fn value_length(value: &str, name: &str) -> usize {
    let end = value.find(['\r', '\n']).unwrap_or(value.len());
    let line = &value[..end];
    if let Some((mark, length)) = quotation(value) {
        return closing(line, length, mark).unwrap_or(end);
    }
    if value.starts_with(['[', '{']) {
        // One that goes on in the next lines has nothing behind its bracket; what is not closed ends with the line.
        let whole = if end == 1 { value } else { line };
        return closing_bracket(whole).unwrap_or(end);
    }
    if name.to_ascii_lowercase().ends_with("authorization") {
        return end;
    }
    line.find(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '&' | '"' | '\'')).unwrap_or(end)
}

/// A quotation mark, and in how many strings it stands: within one it is `\"`, within two `\\\"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    quote: char,
    within: u32,
}

impl Mark {
    /// One behind so many backslashes.
    fn behind(mut backslashes: usize, quote: char) -> Self {
        let mut within = 0;
        while backslashes % 2 == 1 {
            within += 1;
            backslashes /= 2;
        }
        Self { quote, within }
    }
}

/// The quotation mark that `text` begins with, and its length with its backslashes; three marks are one, as in TOML.
fn quotation(text: &str) -> Option<(Mark, usize)> {
    let marked = text.trim_start_matches('\\');
    let quote = marked.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let backslashes = text.len() - marked.len();
    let triple = marked.starts_with("\"\"\"") || marked.starts_with("'''");
    let mark = Mark::behind(if quote == '"' { backslashes } else { 0 }, quote);
    Some((mark, backslashes + if triple { 3 } else { 1 }))
}

/// Where the string ends that `mark` opens: behind the mark that closes it, or before one that closes a string around it. The
/// opening one has `length` bytes.
fn closing(text: &str, length: usize, mark: Mark) -> Option<usize> {
    let triple: String = std::iter::repeat_n(mark.quote, 3).collect();
    let is_triple = text[..length].ends_with(&triple);
    let mut backslashes = 0;
    for (at, c) in text[length..].char_indices().map(|(at, c)| (length + at, c)) {
        // Between single marks a backslash is itself.
        let found = Mark::behind(if c == '\'' { 0 } else { backslashes }, c);
        backslashes = if c == '\\' { backslashes + 1 } else { 0 };
        let is_mark = if is_triple { text[at..].starts_with(&triple) } else { c == mark.quote };
        if is_mark && found.within == mark.within {
            return Some(at + if is_triple { 3 } else { 1 });
        }
        if c == '"' && found.within < mark.within {
            return Some(at);
        }
    }
    None
}

/// Where the list or object ends that begins here; brackets in strings are none.
fn closing_bracket(text: &str) -> Option<usize> {
    let (mut at, mut open) = (0, 0_usize);
    while let Some(c) = text[at..].chars().next() {
        if let Some((mark, length)) = quotation(&text[at..]) {
            at += closing(&text[at..], length, mark)?;
            continue;
        }
        at += c.len_utf8();
        match c {
            '[' | '{' => open += 1,
            ']' | '}' if open <= 1 => return Some(at),
            ']' | '}' => open -= 1,
            _ => {}
        }
    }
    None
}

/// JSON of any form, `config.json` among it: as [`text`], and all values of environment variables and users' annotations.
pub(super) fn json(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("env", Value::Array(variables)) => variables.iter_mut().for_each(variable),
                    ("annotations" | "labels", Value::Object(annotations)) => {
                        annotations.iter_mut().for_each(|(name, value)| annotation(name, value));
                    }
                    ("args", Value::Array(args)) => arguments(args),
                    (name, value) if is_secret(name) && !value.is_null() => {
                        *value = REMOVED.into();
                    }
                    (_, value) => json(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(json),
        Value::String(string) => *string = text(string),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn variable(value: &mut Value) {
    let name = value.as_str().and_then(|pair| Some(pair.split_once('=')?.0.to_owned()));
    *value = format!("{}={REMOVED}", name.unwrap_or_default()).into();
}

fn annotation(name: &str, value: &mut Value) {
    let known = KEPT_ANNOTATIONS.iter().any(|start| name.starts_with(start));
    if known && !is_secret(name) && !USERS_ANNOTATIONS.iter().any(|part| name.contains(part)) {
        json(value);
    } else {
        *value = REMOVED.into();
    }
}

/// A secret may be the argument behind the one that names it.
fn arguments(args: &mut [Value]) {
    let mut expected = false;
    for arg in args {
        let Some(word) = arg.as_str() else { continue };
        let names = word.starts_with('-') && !word.contains('=') && is_secret(word);
        *arg = if expected { REMOVED.into() } else { text(word).into() };
        expected = names;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{json, text};

    #[test]
    fn secrets_in_text_are_taken_out_and_the_rest_stays() {
        let cases = [
            ("password = \"hunter2\"\n", "password = <removed>\n"),
            ("DB_PASSWORD=hunter2 other=1\n", "DB_PASSWORD=<removed> other=1\n"),
            (
                "agent.https_proxy=http://u:hunter2@proxy:3128 quiet",
                "agent.https_proxy=http://<removed>@proxy:3128 quiet",
            ),
            ("http://proxy:3128/a@b", "http://proxy:3128/a@b"),
            ("Authorization: Bearer hunter2\nnext", "Authorization: <removed>\nnext"),
            (r#"{"auth":"hunter2","server":"x"}"#, r#"{"auth":<removed>,"server":"x"}"#),
            ("cmd --registry-token hunter2 -v", "cmd --registry-token <removed> -v"),
            ("kernel = \"/a/b\" # token-free\n", "kernel = \"/a/b\" # token-free\n"),
            ("tokens = [\"hunter2\", \"hunter2\"]\n", "tokens = <removed>\n"),
            // All of these let `hunter2` through, or a part of it.
            (r#"msg="password=\"hunter2\"" next=1"#, r#"msg="password=<removed>" next=1"#),
            (r#"msg="{\"token\": \"hunter2\", \"a\": 1}""#, r#"msg="{\"token\": <removed>, \"a\": 1}""#),
            (
                r#"a="{\"b\": \"{\\\"token\\\": \\\"hunter2\\\"}\"}""#,
                r#"a="{\"b\": \"{\\\"token\\\": <removed>}\"}""#,
            ),
            (r#"msg="{\"token\": \"a\\\"hunter2\"}""#, r#"msg="{\"token\": <removed>}""#),
            (r#"msg="password=\"hunter2" next="a""#, r#"msg="password=<removed>" next="a""#),
            (r#"password = "ab\"hunter2" # why"#, "password = <removed> # why"),
            (r#"password = "ab\\" # why"#, "password = <removed> # why"),
            ("password = 'ab\\' # why", "password = <removed> # why"),
            (r#"password = """a"hunter2""" # why"#, "password = <removed> # why"),
            (r#"{"secret": {"value": "hunter2}", "n": [1]}, "a": 1}"#, r#"{"secret": <removed>, "a": 1}"#),
            (
                "{\n\"secret\": {\n\"value\": \"hunter2\"\n},\n\"a\": 1}",
                "{\n\"secret\": <removed>,\n\"a\": 1}",
            ),
            (r#"tokens = ["]", "hunter2"]"#, "tokens = <removed>"),
            ("token: {hunter2\nlevel=info", "token: <removed>\nlevel=info"),
            ("password = \"hunter2\nlevel=info", "password = <removed>\nlevel=info"),
            (
                "a\n-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----\nb\n",
                "a\n<removed>\nb\n",
            ),
        ];
        for (given, expected) in cases {
            assert_eq!(text(given), expected, "{given}");
        }
    }

    #[test]
    fn a_specification_keeps_names_and_loses_values() {
        let mut spec = json!({
            "process": {
                "args": ["app", "--password", "hunter2", "--token=hunter2", "-v"],
                "env": ["PATH=/bin", "KEY=hunter2", "broken"],
                "cwd": "/",
            },
            "annotations": {
                "io.kubernetes.cri.container-type": "sandbox",
                "kubectl.kubernetes.io/last-applied-configuration": "{env: hunter2}",
                "io.katacontainers.config.hypervisor.cc_init_data": "hunter2",
                "io.katacontainers.config.hypervisor.kernel_params": "agent.https_proxy=https://u:hunter2@p",
            },
            "hooks": {"prestart": [{"path": "/h", "env": ["A=hunter2"]}]},
            "token": 4_711_815,
            "secret": {"value": "hunter2", "at": [4_711_815]},
            "nothing": {"auth": null},
            "mounts": [{"destination": "/m", "options": ["username=me,password=hunter2"]}],
        });
        json(&mut spec);
        let shown = spec.to_string();
        assert!(!shown.contains("hunter2") && !shown.contains("4711815"), "{shown}");
        for kept in
            ["PATH=<removed>", "KEY=<removed>", r#""app""#, r#""-v""#, r#""sandbox""#, "username=me", "@p"]
        {
            assert!(shown.contains(kept), "{kept}: {shown}");
        }
    }
}
