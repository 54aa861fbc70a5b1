//! `exec` and `cp`, against shims and agents that are threads of the test. The agent's shells are this machine's.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use kata_protocol::console::{HEADER, Kind, Start, header, read_header};

use crate::tree::{Printed, Tree};

/// Reads the head of a request; its first line.
fn head(stream: &mut UnixStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap().lines().next().unwrap_or_default().to_owned()
}

/// A sandbox `abc123` whose shim answers one request after another like this.
fn shim(tree: &Tree, answers: Vec<Box<dyn FnOnce(UnixStream) + Send>>) -> JoinHandle<Vec<String>> {
    fs::create_dir_all(tree.path("state/abc123")).unwrap();
    let listener = UnixListener::bind(tree.path("state/abc123/shim-monitor.sock")).unwrap();
    thread::spawn(move || {
        let answer = |answer: Box<dyn FnOnce(UnixStream) + Send>| {
            let (mut stream, _) = listener.accept().unwrap();
            let asked = head(&mut stream);
            answer(stream);
            asked
        };
        answers.into_iter().map(answer).collect()
    })
}

fn says(status: &'static str, body: String) -> Box<dyn FnOnce(UnixStream) + Send> {
    Box::new(move |mut stream| {
        let length = body.len();
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
            .unwrap();
    })
}

/// The shim gives a console of our manner; what it does with the messages is the agent's.
fn upgrades(agent: impl FnOnce(UnixStream) + Send + 'static) -> Box<dyn FnOnce(UnixStream) + Send> {
    Box::new(move |mut stream| {
        let answer =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: kata-console\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
        agent(stream);
    })
}

fn hear(stream: &mut impl Read) -> io::Result<(Kind, Vec<u8>)> {
    let mut head = [0; HEADER];
    stream.read_exact(&mut head)?;
    let (kind, length) = read_header(head).unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((kind, body))
}

fn say(stream: &Mutex<UnixStream>, kind: Kind, body: &[u8]) {
    let mut stream = stream.lock().unwrap();
    // The client may have ended.
    let _ = stream.write_all(&header(kind, body.len())).and_then(|()| stream.write_all(body));
}

/// An agent without terminals: runs busybox as the shell, with all of its input allowed at once.
fn agent(stream: UnixStream) {
    let mut from = stream.try_clone().unwrap();
    let to = Arc::new(Mutex::new(stream));
    let start = Start::decode(&hear(&mut from).unwrap().1).unwrap();
    if start.brings_shell {
        say(&to, Kind::WantShell, b"");
        while !hear(&mut from).unwrap().1.is_empty() {}
    }
    let mut shell = Command::new("/bin/busybox");
    shell
        .arg("sh")
        .args(&start.arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    say(&to, Kind::Allow, &u32::MAX.checked_div(8).unwrap().to_be_bytes());
    let pass = |mut output: Box<dyn Read + Send>, kind, to: Arc<Mutex<UnixStream>>| {
        thread::spawn(move || {
            let mut buffer = [0; 30_000];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                say(&to, kind, &buffer[..length]);
            }
        })
    };
    let outputs = [
        pass(Box::new(shell.stdout.take().unwrap()), Kind::Output, to.clone()),
        pass(Box::new(shell.stderr.take().unwrap()), Kind::Errors, to.clone()),
    ];
    let mut stdin = shell.stdin.take();
    thread::spawn(move || {
        while let Ok((Kind::Input, bytes)) = hear(&mut from) {
            if bytes.is_empty() {
                stdin = None;
            }
            // Who reads no more has had enough.
            let _ = stdin.as_mut().map(|stdin| stdin.write_all(&bytes));
        }
    });
    let status = shell.wait().unwrap();
    outputs.into_iter().for_each(|output| output.join().unwrap());
    say(&to, Kind::Exit, &status.code().unwrap().to_be_bytes());
}

fn run(tree: &Tree, words: &[&str]) -> Printed {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kata-runtime"));
    tree.printed(command.arg("--root").arg(tree.path("state")).args(words).stdin(Stdio::null()))
}

fn has_busybox() -> bool {
    let is_there = Path::new("/bin/busybox").exists();
    if !is_there {
        println!("skipped: there is no /bin/busybox (package busybox-static)");
    }
    is_there
}

#[test]
fn a_console_that_is_off_is_told_in_the_shims_words() {
    let tree = Tree::complete();
    let asked =
        shim(&tree, vec![says("409 Conflict", "The debug console of this sandbox is off: set …".into())]);
    let printed = run(&tree, &["exec", "abc", "--", "ls"]);
    assert_eq!(printed.code, 1);
    assert!(
        printed.stderr.starts_with("kata-runtime: The debug console of this sandbox is off"),
        "{}",
        printed.stderr
    );
    assert_eq!(asked.join().unwrap(), ["GET /console HTTP/1.1"]);
}

#[test]
fn a_command_has_its_output_its_errors_and_its_exit_code() {
    if !has_busybox() {
        return;
    }
    let tree = Tree::complete();
    shim(&tree, vec![upgrades(agent)]);
    let printed =
        run(&tree, &["exec", "abc", "--", "sh", "-c", "echo \"$0|$1\"; echo err >&2; exit 42", "a b", "$x"]);
    assert_eq!((printed.code, printed.stdout.as_str(), printed.stderr.as_str()), (42, "a b|$x\n", "err\n"));
}

#[test]
fn an_agent_that_refuses_says_why() {
    let tree = Tree::complete();
    let refuse = |mut stream: UnixStream| {
        hear(&mut stream).unwrap();
        say(&Mutex::new(stream), Kind::Refused, b"There are too many");
    };
    shim(&tree, vec![upgrades(refuse)]);
    let printed = run(&tree, &["exec", "abc"]);
    assert_eq!((printed.code, printed.stderr.as_str()), (1, "kata-runtime: There are too many\n"));
}

#[test]
fn a_guest_that_goes_away_is_an_error() {
    let tree = Tree::complete();
    shim(&tree, vec![upgrades(|mut stream| drop(hear(&mut stream)))]);
    let printed = run(&tree, &["exec", "abc"]);
    assert!(
        printed.code == 1 && printed.stderr.contains("does the sandbox still run?"),
        "{}",
        printed.stderr
    );
}

/// An agent that is not ours: its console, by hybrid vsock, is a shell's input and output.
fn foreign(tree: &Tree) -> JoinHandle<String> {
    let path = tree.path("kata.hvsock");
    let listener = UnixListener::bind(&path).unwrap();
    let url = format!("hvsock://{}:1024", path.display());
    shim(tree, vec![says("404 Not Found", String::new()), says("200 OK", url)]);
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 13];
        stream.read_exact(&mut asked).unwrap();
        stream.write_all(b"OK 5\n").unwrap();
        let end = || Stdio::from(OwnedFd::from(stream.try_clone().unwrap()));
        let mut shell = Command::new("/bin/sh").stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        shell.wait().unwrap();
        String::from_utf8(asked.to_vec()).unwrap()
    })
}

#[test]
fn upstreams_agent_is_spoken_to_as_upstream_does() {
    let tree = Tree::complete();
    let asked = foreign(&tree);
    let printed = run(&tree, &["exec", "abc", "--", "sh", "-c", "echo one; echo \"it's two\"; exit 3"]);
    assert_eq!((printed.code, printed.stdout.as_str()), (3, "one\nit's two\n"), "{}", printed.stderr);
    assert_eq!(asked.join().unwrap(), "CONNECT 1026\n");
}

#[test]
fn files_are_copied_by_way_of_our_agent_only() {
    let tree = Tree::complete();
    tree.file("file", "x");
    shim(&tree, vec![says("404 Not Found", String::new()), says("200 OK", "vsock://3:1024".into())]);
    let printed = run(&tree, &["cp", tree.path("file").to_str().unwrap(), "abc:/tmp/x"]);
    assert!(printed.code == 1 && printed.stderr.contains("is not of this release"), "{}", printed.stderr);
}

#[test]
fn one_side_of_a_copy_is_in_a_guest() {
    let tree = Tree::complete();
    for (words, cause) in [
        (["cp", "/a", "/b"], "Neither is in a guest"),
        (["cp", "x:/a", "y:/b"], "Both are in guests"),
        (["cp", "x:a", "/b"], "begins with a slash"),
    ] {
        let printed = run(&tree, &words);
        assert!(printed.code == 1 && printed.stderr.contains(cause), "{}", printed.stderr);
    }
}

#[test]
fn a_tree_goes_in_and_comes_out_as_it_is() {
    if !has_busybox() {
        return;
    }
    let tree = Tree::complete();
    tree.file("in/tree/file", &"some text\n".repeat(100_000));
    tree.file("in/tree/deep/other", "");
    fs::set_permissions(tree.path("in/tree/file"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::create_dir(tree.path("guest")).unwrap();
    fs::create_dir(tree.path("out")).unwrap();
    shim(&tree, vec![upgrades(agent), upgrades(agent)]);
    let path = |name: &str| tree.path(name).display().to_string();
    let put = run(&tree, &["cp", &path("in/tree"), &format!("abc:{}", path("guest"))]);
    assert_eq!((put.code, put.stderr.as_str()), (0, ""));
    let get = run(&tree, &["cp", &format!("abc:{}", path("guest/tree")), &path("out")]);
    assert_eq!((get.code, get.stderr.as_str()), (0, ""));
    let compare = Command::new("diff").arg("-r").args([path("in/tree"), path("out/tree")]).status().unwrap();
    assert!(compare.success());
    let mode = |name: &str| fs::metadata(tree.path(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("guest/tree/file"), mode("out/tree/file")), (0o640, 0o640));
    for folder in ["guest", "out"] {
        assert_eq!(fs::read_dir(tree.path(folder)).unwrap().count(), 1, "nothing but the tree");
    }
}

#[test]
fn what_is_there_is_not_mixed_with_what_is_copied() {
    if !has_busybox() {
        return;
    }
    let tree = Tree::complete();
    tree.file("in/tree/file", "new");
    tree.file("guest/tree/file", "old");
    shim(&tree, vec![upgrades(agent)]);
    let guest = tree.path("guest").display().to_string();
    let put = run(&tree, &["cp", tree.path("in/tree").to_str().unwrap(), &format!("abc:{guest}")]);
    assert!(put.code == 1 && put.stderr.contains("remove it first"), "{}", put.stderr);
    assert_eq!(fs::read_to_string(tree.path("guest/tree/file")).unwrap(), "old");
    let get = run(&tree, &["cp", "abc:/x/tree", &guest]);
    assert!(get.code == 1 && get.stderr.contains("remove it first"), "{}", get.stderr);
}

/// An agent that answers with this archive, and says that this is its hash.
fn sends(archive: Vec<u8>, hash: &'static str) -> Box<dyn FnOnce(UnixStream) + Send> {
    upgrades(move |mut stream| {
        let to = Mutex::new(stream.try_clone().unwrap());
        if Start::decode(&hear(&mut stream).unwrap().1).unwrap().brings_shell {
            say(&to, Kind::WantShell, b"");
            while !hear(&mut stream).unwrap().1.is_empty() {}
        }
        say(&to, Kind::Allow, &1000_u32.to_be_bytes());
        archive.chunks(30_000).for_each(|piece| say(&to, Kind::Output, piece));
        say(&to, Kind::Errors, format!("{hash}  -\n").as_bytes());
        say(&to, Kind::Exit, &0_u32.to_be_bytes());
        // The client ends the connection.
        while hear(&mut stream).is_ok() {}
    })
}

fn entry(tar: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, link: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o4755);
    header.set_size(if kind.is_file() { 4 } else { 0 });
    // As a guest may do, and the crate's own methods refuse to.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    tar.append(&header, &b"evil"[..if kind.is_file() { 4 } else { 0 }]).unwrap();
}

#[test]
fn a_guest_cannot_write_outside_of_what_is_asked_for() {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target").display().to_string();
    fs::write(&target, "good").unwrap();
    let folder = outside.path().display().to_string();
    for entries in [
        vec![("x", Directory, ""), ("x/../../target", Regular, "")],
        vec![(target.as_str(), Regular, "")],
        vec![("x", Directory, ""), ("x/l", Symlink, folder.as_str()), ("x/l/target", Regular, "")],
        vec![("x", Symlink, folder.as_str()), ("x/target", Regular, "")],
        vec![("x", Directory, ""), ("x/l", Symlink, target.as_str()), ("x/l", Regular, "")],
        vec![("x", Directory, ""), ("x/l", Link, target.as_str())],
        vec![("x", Directory, ""), ("x/b", tar::EntryType::Block, "")],
        vec![("x", Symlink, target.as_str())],
    ] {
        let tree = Tree::complete();
        let mut tar = tar::Builder::new(Vec::new());
        entries.iter().for_each(|(name, kind, link)| entry(&mut tar, name, *kind, link));
        shim(&tree, vec![sends(tar.into_inner().unwrap(), "none")]);
        fs::create_dir(tree.path("out")).unwrap();
        let printed = run(&tree, &["cp", "abc:/x", tree.path("out").to_str().unwrap()]);
        assert_eq!(printed.code, 1, "{entries:?}");
        assert_eq!(fs::read_to_string(&target).unwrap(), "good", "{entries:?}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "{entries:?}");
        assert_eq!(fs::read_dir(tree.path("out")).unwrap().count(), 0, "{entries:?}");
    }
}

#[test]
fn an_archive_with_another_hash_is_not_kept() {
    let tree = Tree::complete();
    let mut tar = tar::Builder::new(Vec::new());
    entry(&mut tar, "x", tar::EntryType::Regular, "");
    shim(&tree, vec![sends(tar.into_inner().unwrap(), "0123")]);
    fs::create_dir(tree.path("out")).unwrap();
    let printed = run(&tree, &["cp", "abc:/x", tree.path("out").to_str().unwrap()]);
    assert!(printed.code == 1 && printed.stderr.contains("is not what was sent"), "{}", printed.stderr);
    assert_eq!(fs::read_dir(tree.path("out")).unwrap().count(), 0);
}
