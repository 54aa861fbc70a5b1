//! The debug console: shells on the machine here, which is the agent's guest.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use kata_protocol::console::{HEADER, Kind, MAX_BODY, Start, WINDOW, header, read_header, read_number, size};
use kata_protocol::ports;
use kata_transport::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::guest::{Guest, read_to_end, skips};

const PATIENCE: Duration = Duration::from_secs(30);

/// The client's end.
struct Console(Stream);

impl Console {
    async fn open(guest: &Guest) -> Self {
        Self(guest.dialer.connect(ports::CONSOLE).await.expect("the agent listens").stream)
    }

    /// A shell that runs this line.
    async fn line(guest: &Guest, line: &str) -> Self {
        let arguments = vec!["-c".to_owned(), line.to_owned()];
        Self::begin(guest, &Start { arguments, ..Start::default() }).await
    }

    async fn begin(guest: &Guest, start: &Start) -> Self {
        let mut console = Self::open(guest).await;
        console.say(Kind::Start, &start.encode().expect("is short")).await;
        if start.brings_shell {
            assert_eq!(console.next().await, (Kind::WantShell, Vec::new()));
            for piece in fs::read("/bin/busybox").expect("is there").chunks(MAX_BODY).chain([&[][..]]) {
                console.say(Kind::Shell, piece).await;
            }
        }
        assert_eq!(console.next().await, (Kind::Allow, WINDOW.to_be_bytes().to_vec()));
        console
    }

    async fn say(&mut self, kind: Kind, body: &[u8]) {
        self.0.write_all(&header(kind, body.len())).await.expect("is heard");
        self.0.write_all(body).await.expect("is heard");
    }

    async fn next(&mut self) -> (Kind, Vec<u8>) {
        let hearing = async {
            let mut head = [0; HEADER];
            self.0.read_exact(&mut head).await.expect("another message");
            let (kind, length) = read_header(head).expect("is one");
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).await.expect("is whole");
            (kind, body)
        };
        timeout(PATIENCE, hearing).await.expect("the agent says something")
    }

    /// Hears output until it has this text.
    async fn expect(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            match self.next().await {
                (Kind::Output, bytes) => seen += &String::from_utf8_lossy(&bytes),
                (Kind::Allow, _) => {}
                other => unreachable!("{other:?} before {text:?}: {seen:?}"),
            }
        }
        seen
    }

    /// Standard output, standard error and the exit status.
    async fn finish(mut self) -> (String, String, u32) {
        let (mut output, mut errors) = (String::new(), String::new());
        loop {
            match self.next().await {
                (Kind::Output, bytes) => output += &String::from_utf8_lossy(&bytes),
                (Kind::Errors, bytes) => errors += &String::from_utf8_lossy(&bytes),
                (Kind::Allow, _) => {}
                (Kind::Exit, status) => return (output, errors, read_number(&status).expect("is one")),
                other => unreachable!("{other:?}"),
            }
        }
    }
}

/// The cgroups of consoles that are there.
fn cgroups(guest: &Guest) -> Vec<PathBuf> {
    let entries = fs::read_dir(&guest.cgroup).expect("is there").flatten().map(|entry| entry.path());
    entries.filter(|path| path.to_string_lossy().contains("_console-")).collect()
}

/// The agent removes a console's cgroup when nothing of it runs any more; how soon is not for a test to say.
async fn until_nothing_is_left(guest: &Guest) {
    let mut pause = tokio::time::interval(Duration::from_millis(10));
    let empty = async {
        while !cgroups(guest).is_empty() {
            pause.tick().await;
        }
    };
    timeout(PATIENCE, empty).await.expect("nothing of the console is left");
}

/// Runs a test with an agent that gives shells.
macro_rules! console_test {
    ($name:ident, |$guest:ident| $body:expr) => {
        #[tokio::test]
        async fn $name() {
            if skips() {
                return;
            }
            let $guest = Guest::with_console().await;
            $body
        }
    };
}

agent_test!(nobody_listens_unless_the_console_is_asked_for, |guest| {
    for port in [ports::CONSOLE, ports::DEBUG_CONSOLE] {
        assert!(guest.dialer.connect(port).await.is_err(), "{port}");
    }
});

console_test!(a_command_has_its_streams_and_its_exit_status, |guest| {
    let console = Console::line(&guest, "echo out; echo err >&2; exit 7").await;
    assert_eq!(console.finish().await, ("out\n".to_owned(), "err\n".to_owned(), 7));
    assert!(cgroups(&guest).is_empty());
});

console_test!(a_command_that_a_signal_ends_has_128_and_the_signal, |guest| {
    assert_eq!(Console::line(&guest, "kill -9 $$").await.finish().await.2, 137);
});

console_test!(standard_input_has_an_end, |guest| {
    let mut console = Console::line(&guest, "cat; echo over").await;
    console.say(Kind::Input, b"bytes\n").await;
    console.say(Kind::Input, b"").await;
    assert_eq!(console.finish().await.0, "bytes\nover\n");
});

console_test!(many_bytes_come_out_unchanged, |guest| {
    let (output, _, status) = Console::line(&guest, "seq 1 300000").await.finish().await;
    assert_eq!((output.lines().count(), output.lines().last(), status), (300_000, Some("300000"), 0));
});

console_test!(a_terminal_has_its_size_and_takes_another, |guest| {
    let start = Start { terminal: Some((33, 111)), term: "vt100".to_owned(), ..Start::default() };
    let mut console = Console::begin(&guest, &start).await;
    console.say(Kind::Input, b"stty size; echo $TERM; tty\n").await;
    let shown = console.expect("/dev/pts/").await;
    assert!(shown.contains("33 111") && shown.contains("vt100"), "{shown:?}");
    console.say(Kind::Resize, &size((44, 55))).await;
    console.say(Kind::Input, b"stty size\n").await;
    console.expect("44 55").await;
    console.say(Kind::Input, b"exit 5\n").await;
    assert_eq!(console.finish().await.2, 5);
});

console_test!(a_terminal_interrupts_what_runs_on_it, |guest| {
    let start = Start { terminal: Some((24, 80)), ..Start::default() };
    let mut console = Console::begin(&guest, &start).await;
    // What runs says so itself: by then its shell has given it the terminal.
    console.say(Kind::Input, b"sh -c \"echo beg''un; exec sleep 1000\"; echo status $?\n").await;
    console.expect("begun").await;
    console.say(Kind::Input, b"\x03").await;
    console.say(Kind::Input, b"echo go''es on\nexit\n").await;
    console.expect("goes on").await;
});

console_test!(a_client_can_bring_its_shell, |guest| {
    let arguments = ["-c", "readlink /proc/self/exe; exec \"$@\"", "sh", "uname"].map(str::to_owned).to_vec();
    let start = Start { brings_shell: true, arguments, ..Start::default() };
    let (output, errors, status) = Console::begin(&guest, &start).await.finish().await;
    assert_eq!((output.as_str(), status), ("/memfd:shell (deleted)\nLinux\n", 0), "{errors}");
});

console_test!(what_is_brought_must_run, |guest| {
    let mut console = Console::open(&guest).await;
    let start = Start { brings_shell: true, ..Start::default() };
    console.say(Kind::Start, &start.encode().expect("is short")).await;
    assert_eq!(console.next().await.0, Kind::WantShell);
    console.say(Kind::Shell, b"no program").await;
    console.say(Kind::Shell, b"").await;
    let (_, errors, status) = console.finish().await;
    assert!(status == 126 && errors.contains("kata-agent: Cannot run"), "{status} {errors}");
});

console_test!(a_shell_is_like_any_process_of_the_guest, |guest| {
    let line = "cat /proc/self/oom_score_adj; ulimit -n; trap '' PIPE; grep SigIgn /proc/self/status; cat /proc/self/cgroup";
    let (output, errors, _) = Console::line(&guest, line).await.finish().await;
    assert!(output.starts_with("0\n1024\n") && output.contains("/_console-0\n"), "{output}{errors}");
    let (output, ..) = Console::line(&guest, "grep SigIgn /proc/self/status").await.finish().await;
    assert_eq!(output, "SigIgn:\t0000000000000000\n");
});

console_test!(what_a_shell_leaves_behind_ends_with_it, |guest| {
    let console = Console::line(&guest, "setsid sleep 1000 & setsid sleep 1000 & echo two").await;
    assert_eq!(console.finish().await.0, "two\n");
    assert!(cgroups(&guest).is_empty());
});

console_test!(a_client_that_goes_away_leaves_no_shell, |guest| {
    let mut console = Console::line(&guest, "setsid sleep 1000 & echo begun; sleep 1000").await;
    console.expect("begun").await;
    assert_eq!(cgroups(&guest).len(), 1);
    drop(console);
    until_nothing_is_left(&guest).await;
});

// What a shell starts after it was hung up, it waits for: the program is there before it says so.
console_test!(a_shell_whose_client_is_gone_can_tidy_up, |guest| {
    let (file, begun) = (guest.folder.path().join("tidy"), guest.folder.path().join("begun"));
    fs::write(&file, "").expect("written");
    let line = format!(
        "trap 'rm {0}' EXIT; trap exit HUP; : > {1}; sleep 1000 & echo begun; wait",
        file.display(),
        begun.display()
    );
    let mut console = Console::line(&guest, &line).await;
    console.expect("begun").await;
    drop(console);
    until_nothing_is_left(&guest).await;
    assert!(begun.exists() && !file.exists());
});

console_test!(a_client_that_goes_away_is_noticed_behind_input_that_nobody_reads, |guest| {
    let mut console = Console::line(&guest, "echo begun; sleep 1000").await;
    console.expect("begun").await;
    for _ in 0..WINDOW as usize / MAX_BODY {
        console.say(Kind::Input, &[0; MAX_BODY]).await;
    }
    drop(console);
    until_nothing_is_left(&guest).await;
});

console_test!(a_client_that_sends_more_than_it_may_is_cut_off, |guest| {
    let mut console = Console::line(&guest, "echo begun; sleep 1000").await;
    console.expect("begun").await;
    for _ in 0..4 * WINDOW as usize / MAX_BODY {
        let piece = [&header(Kind::Input, MAX_BODY)[..], &[0; MAX_BODY]].concat();
        if console.0.write_all(&piece).await.is_err() {
            break;
        }
    }
    until_nothing_is_left(&guest).await;
});

console_test!(what_is_no_start_is_refused_with_a_reason, |guest| {
    for (kind, body) in [(Kind::Input, &b"ls\n"[..]), (Kind::Start, b"\0")] {
        let mut console = Console::open(&guest).await;
        console.say(kind, body).await;
        let (kind, words) = console.next().await;
        assert!(kind == Kind::Refused && String::from_utf8_lossy(&words).contains("protocol"), "{words:?}");
    }
});

console_test!(there_are_only_so_many_consoles, |guest| {
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(Console::line(&guest, "sleep 1000").await);
    }
    let mut console = Console::open(&guest).await;
    let (kind, words) = console.next().await;
    assert!(kind == Kind::Refused && String::from_utf8_lossy(&words).contains("16 consoles"), "{words:?}");
    drop(open);
    until_nothing_is_left(&guest).await;
});

console_test!(upstreams_clients_get_the_bytes_of_a_terminal, |guest| {
    let mut stream = guest.dialer.connect(ports::DEBUG_CONSOLE).await.expect("the agent listens").stream;
    stream.write_all(b"tty; stty -echo; echo $((6*7)); exit\n").await.expect("is read");
    let shown = String::from_utf8_lossy(&read_to_end(&mut stream).await).into_owned();
    assert!(shown.contains("/dev/pts/") && shown.contains("42\r\n"), "{shown:?}");
    until_nothing_is_left(&guest).await;
});

console_test!(an_upstream_client_that_goes_away_leaves_no_shell, |guest| {
    let mut stream = guest.dialer.connect(ports::DEBUG_CONSOLE).await.expect("the agent listens").stream;
    stream.write_all(b"echo beg''un; sleep 1000\n").await.expect("is read");
    let mut seen = String::new();
    while !seen.contains("begun") {
        let mut buffer = [0; 1000];
        let length = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("goes on").expect("readable");
        seen += &String::from_utf8_lossy(&buffer[..length]);
    }
    drop(stream);
    until_nothing_is_left(&guest).await;
});
