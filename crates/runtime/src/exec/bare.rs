//! The console of an agent that is not ours: the bytes of a terminal, and nothing else. What a command leaves is found
//! between marks that the shell prints.

use std::path::PathBuf;

use anyhow::{Context, bail};
use kata_transport::{Dialer, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What is typed, and printed, around a command; the shell echoes the first form, and prints the second.
const BEGIN: &str = "kata-begin";
const END: &str = "kata-end";

/// Bytes that are read at once.
const CHUNK: usize = 16 * 1024;

/// A shell on our standard input and output, or a command; its exit status.
pub(super) async fn run(url: &str, port: u32, command: &[String]) -> anyhow::Result<u32> {
    let stream = connect(url, port).await.with_context(|| {
        format!(
            "Nobody answers on port {port} of the guest; is its debug console on (`debug_console_enabled = true` in \
             [agent.kata], or `agent.debug_console agent.debug_console_vport={port}` among the kernel parameters)?"
        )
    })?;
    if command.is_empty() {
        interact(stream).await?;
        return Ok(0);
    }
    let mark = format!("{:x}", std::process::id());
    run_marked(stream, command, &mark, &mut tokio::io::stdout()).await
}

async fn connect(url: &str, port: u32) -> anyhow::Result<Stream> {
    let dialer = match url.split_once("://") {
        Some(("vsock", rest)) => {
            let cid = rest.split(':').next().unwrap_or(rest);
            Dialer::vsock(cid.parse().with_context(|| format!("{url:?} has no context id"))?)
        }
        Some(("hvsock", rest)) => Dialer::hybrid(socket_path(rest)),
        _ => bail!("The agent is at {url:?}, and only vsock:// and hvsock:// have a debug console"),
    };
    Ok(dialer.connect(port).await?.stream)
}

/// The path in `PATH` or `PATH:PORT`.
fn socket_path(rest: &str) -> PathBuf {
    match rest.rsplit_once(':') {
        Some((path, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => path.into(),
        _ => rest.into(),
    }
}

async fn interact(stream: Stream) -> anyhow::Result<()> {
    let (mut from, mut to) = tokio::io::split(stream);
    let (mut stdin, mut stdout) = (tokio::io::stdin(), tokio::io::stdout());
    let typing = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            match stdin.read(&mut buffer).await? {
                0 => break to.shutdown().await?,
                length => to.write_all(&buffer[..length]).await?,
            }
        }
        std::future::pending::<anyhow::Result<()>>().await
    };
    let showing = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            match from.read(&mut buffer).await? {
                0 => return Ok(()),
                length => {
                    stdout.write_all(&buffer[..length]).await?;
                    stdout.flush().await?;
                }
            }
        }
    };
    tokio::select! {
        ended = typing => ended,
        ended = showing => ended,
    }
}

/// Types the command, and passes on what is between the marks. Both outputs are one.
async fn run_marked(
    stream: impl AsyncRead + AsyncWrite,
    command: &[String],
    mark: &str,
    output: &mut (impl AsyncWrite + Unpin),
) -> anyhow::Result<u32> {
    let (mut from, mut to) = tokio::io::split(stream);
    to.write_all(line(command, mark).as_bytes()).await?;
    to.flush().await?;
    let (begin, end) = (format!("{BEGIN}-{mark}"), format!("{END}-{mark}:"));
    let (mut seen, mut is_inside) = (Vec::new(), false);
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            bail!("The console was closed before the command ended");
        }
        seen.extend_from_slice(&buffer[..length]);
        // The rest of that line is how the terminal ends lines.
        if !is_inside
            && let Some(at) = find(&seen, begin.as_bytes())
            && let Some(rest) = find(&seen[at..], b"\n")
        {
            seen.drain(..=at + rest);
            is_inside = true;
        }
        if !is_inside {
            continue;
        }
        if let Some(at) = find(&seen, end.as_bytes()) {
            let rest = &seen[at + end.len()..];
            if let Some(stop) = rest.iter().position(|byte| !byte.is_ascii_digit()) {
                output.write_all(&seen[..at]).await?;
                output.flush().await?;
                let status = std::str::from_utf8(&rest[..stop]).unwrap_or_default();
                return status.parse().with_context(|| format!("{status:?} is no exit status"));
            }
        } else {
            // The mark may have begun.
            let known = seen.len().saturating_sub(end.len());
            output.write_all(&seen[..known]).await?;
            output.flush().await?;
            seen.drain(..known);
        }
    }
}

/// What is typed. The marks are put together by the shell, so that its echo of this line has none; the terminal is to
/// leave line ends alone.
fn line(command: &[String], mark: &str) -> String {
    let words: Vec<String> =
        command.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
    format!(
        "stty -echo -opost 2>/dev/null; printf '%s-%s\\n' {BEGIN} {mark}; {}; printf '%s-%s:%d\\n' {END} {mark} \"$?\"; exit\n",
        words.join(" ")
    )
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a console with these outputs leaves of a command.
    async fn marked(pieces: &[&str]) -> (anyhow::Result<u32>, String) {
        let (ours, mut guest) = tokio::io::duplex(1 << 16);
        for piece in pieces {
            guest.write_all(piece.as_bytes()).await.unwrap();
        }
        let shutdown = async {
            let mut typed = vec![0; 1000];
            assert!(guest.read(&mut typed).await.unwrap() > 0);
            guest.shutdown().await.unwrap();
        };
        let mut output = Vec::new();
        let command = ["ls".to_owned()];
        let (status, ()) = tokio::join!(run_marked(ours, &command, "7", &mut output), shutdown);
        (status, String::from_utf8(output).unwrap())
    }

    #[tokio::test]
    async fn the_echo_and_the_prompt_are_left_out() {
        let echo = "bash-5.2# ".to_owned() + &line(&["ls".into()], "7");
        let (status, output) = marked(&[&echo, "kata-begin-7\none\ntwo\nkata-end-7:3\nbash-5.2# "]).await;
        assert_eq!((status.unwrap(), output.as_str()), (3, "one\ntwo\n"));
    }

    #[tokio::test]
    async fn output_without_a_last_line_end_is_kept_as_it_is() {
        let (status, output) = marked(&["kata-begin-7\nabckata-end-7:0\n"]).await;
        assert_eq!((status.unwrap(), output.as_str()), (0, "abc"));
    }

    #[tokio::test]
    async fn a_console_that_closes_early_is_an_error() {
        let (status, output) = marked(&["kata-begin-7\nsome output that is longer than a mark"]).await;
        assert!(status.is_err());
        assert!("some output that is longer than a mark".starts_with(&output), "{output}");
    }

    #[test]
    fn a_command_is_quoted() {
        assert!(line(&["echo".into(), "it's $HOME".into()], "1").contains(r"; 'echo' 'it'\''s $HOME'; "));
    }

    #[test]
    fn an_address_of_hybrid_vsock_may_have_a_port() {
        assert_eq!(
            socket_path("/run/kata/x/root/kata.hvsock:1024"),
            PathBuf::from("/run/kata/x/root/kata.hvsock")
        );
        assert_eq!(socket_path("/run/kata/x/kata.hvsock"), PathBuf::from("/run/kata/x/kata.hvsock"));
    }
}
