//! The last lines of QEMU's standard error.

use tokio::io::AsyncReadExt;
use tokio::process::ChildStderr;

/// How many bytes are kept.
const KEPT: usize = 8 * 1024;

/// Reads until the end and returns the last 8 KiB, trimmed; a line that was cut is left out. Each piece goes to
/// the log as it comes.
pub(super) async fn collect(stderr: Option<ChildStderr>, pid: u32) -> String {
    let Some(mut stderr) = stderr else { return String::new() };
    let mut kept = Vec::new();
    let mut piece = [0; 1024];
    // An error ends it like the end of the stream.
    while let Ok(count @ 1..) = stderr.read(&mut piece).await {
        let text = String::from_utf8_lossy(&piece[..count]);
        tracing::debug!(pid, text = text.trim_end(), "QEMU's standard error");
        kept.extend_from_slice(&piece[..count]);
        forget_oldest(&mut kept);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

/// Cuts whole lines from the front until at most [`KEPT`] bytes are left.
fn forget_oldest(kept: &mut Vec<u8>) {
    let Some(surplus) = kept.len().checked_sub(KEPT).filter(|surplus| *surplus > 0) else { return };
    let line_end = kept[surplus..].iter().position(|byte| *byte == b'\n');
    kept.drain(..line_end.map_or(surplus, |end| surplus + end + 1));
}

#[cfg(test)]
mod tests {
    use super::{KEPT, forget_oldest};

    #[test]
    fn the_oldest_lines_go_first() {
        let mut kept = b"short\n".to_vec();
        forget_oldest(&mut kept);
        assert_eq!(kept, b"short\n");

        let mut kept: Vec<u8> = (0..2000).flat_map(|i| format!("line {i}\n").into_bytes()).collect();
        forget_oldest(&mut kept);
        assert!(kept.len() <= KEPT && kept.len() > KEPT - 20);
        assert!(kept.starts_with(b"line ") && kept.ends_with(b"line 1999\n"));

        let mut kept = vec![b'x'; KEPT + 5];
        forget_oldest(&mut kept);
        assert_eq!(kept.len(), KEPT);
    }
}
