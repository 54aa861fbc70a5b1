//! `kata-runtime exec` and `cp`: shells in the guest, outside of its containers, and files into and out of it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use kata_e2e::{Container, Containerd, Finished, Pattern, eventually, kata_test, sha256, sha256_of_file};

const LIMIT: Duration = Duration::from_secs(30);

/// Sandboxes that start from now on give shells to the host.
fn open_console(containerd: &Containerd) {
    containerd.reconfigure(|text| {
        let off = "\ndebug_console_enabled = false\n";
        assert!(text.contains(off), "the shipped file:\n{text}");
        text.replace(off, "\ndebug_console_enabled = true\n")
    });
}

fn sleeper(containerd: &Containerd) -> Container<'_> {
    containerd.container().command(["/bin/sleep", "1000"]).start()
}

/// A container whose guest gives shells.
fn opened(containerd: &Containerd) -> Container<'_> {
    open_console(containerd);
    sleeper(containerd)
}

/// `kata-runtime exec` of a line of a shell.
fn line(containerd: &Containerd, container: &Container<'_>, line: &str) -> Finished {
    containerd.kata_runtime(["exec", container.id(), "--", "sh", "-c", line])
}

/// `kata-runtime cp`; `ID` stands for the container's id.
fn copy(containerd: &Containerd, container: &Container<'_>, from: &str, to: &str) -> Finished {
    let [from, to] = [from, to].map(|place| place.replacen("ID:", &format!("{}:", container.id()), 1));
    containerd.kata_runtime(["cp", &from, &to])
}

/// What runs in the guest outside of containers, and the files of copies.
fn consoles(containerd: &Containerd, container: &Container<'_>) -> String {
    let what = "ls -d /sys/fs/cgroup/_console-* /run/.kata-cp-* /tmp/.kata-cp-* 2>/dev/null";
    line(containerd, container, what).text()
}

#[test]
fn the_console_is_off_and_the_error_says_what_to_set() {
    kata_test(|containerd| {
        let container = sleeper(containerd);
        let refused = containerd.kata_runtime(["exec", container.id(), "--", "ls"]);
        refused.fails_because("set `debug_console_enabled = true` in [agent.kata]");
        copy(containerd, &container, "/etc/hostname", "ID:/tmp/x").fails_because("debug_console_enabled");
        let words = fs::read_to_string(format!("/proc/{}/cmdline", vmm(containerd))).unwrap();
        assert!(!words.contains("debug_console"), "{words}");
    });
}

fn vmm(containerd: &Containerd) -> i32 {
    let all = containerd.processes();
    all.iter().find(|process| process.is("qemu-system-x86_64")).expect("a VMM runs").pid
}

#[test]
fn a_command_runs_in_the_guest_with_its_streams_and_exit_code() {
    kata_test(|containerd| {
        let container = opened(containerd);
        let done =
            line(containerd, &container, "echo out; echo err >&2; readlink /proc/1/exe; exit 7").with_code(7);
        assert_eq!((done.text().as_str(), done.complaint().as_str()), ("out\n/init", "err"));
        let missing = containerd.kata_runtime(["exec", container.id(), "--", "nonsense"]).with_code(127);
        assert!(missing.complaint().contains("not found"), "{missing:?}");
        let mut piped = containerd.live_kata_runtime(["exec", container.id(), "--", "sha256sum"]);
        let bytes = Pattern::new(1, 3_000_000).bytes();
        piped.stdin.as_mut().expect("is piped").write_all(&bytes).unwrap();
        let hash = sha256(&bytes[..]).unwrap().0;
        assert_eq!(piped.finish().ok().text(), format!("{hash}  -"));
    });
}

#[test]
fn a_beginning_of_the_id_is_enough_and_a_namespace_is_compared() {
    kata_test(|containerd| {
        let container = opened(containerd);
        let short = &container.id()[..container.id().len() - 1];
        containerd.kata_runtime(["exec", short, "--", "true"]).ok().done();
        let wrong = ["exec", "--runtime-namespace", "elsewhere", container.id(), "--", "true"];
        containerd.kata_runtime(wrong).fails_because("not in \"elsewhere\"");
    });
}

#[test]
fn a_terminal_has_the_size_of_ours_and_follows_it() {
    kata_test(|containerd| {
        let container = opened(containerd);
        let mut terminal = containerd.kata_runtime_on_terminal(["exec", container.id()], (111, 33));
        terminal.type_in("stty size; echo at $((6*7))\n");
        assert!(terminal.expect("at 42").contains("33 111"));
        terminal.resize(77, 22);
        terminal.type_in("until [ \"$(stty size)\" = '22 77' ]; do :; done; echo resi''zed\n");
        terminal.expect("resized");
        // Said by who is in the foreground already: before that, Ctrl-C is the shell's.
        terminal.type_in("sh -c \"echo slee''ping; exec sleep 1000\"\n");
        terminal.expect("sleeping");
        terminal.type_in("\x03");
        terminal.type_in("echo interr''upted; exit 9\n");
        terminal.expect("interrupted");
        assert_eq!(terminal.finish().0, 9);
        assert_eq!(consoles(containerd, &container).lines().count(), 1, "only the one that looks");
    });
}

#[test]
fn a_client_that_is_killed_leaves_no_shell_in_the_guest() {
    kata_test(|containerd| {
        let container = opened(containerd);
        let words = ["exec", container.id(), "--", "sh", "-c", "echo begun; sleep 1000"];
        let mut client = containerd.live_kata_runtime(words);
        client.expect_line("begun");
        drop(client);
        eventually("the shell is gone", LIMIT, || {
            let alive =
                line(containerd, &container, "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '").text();
            !alive.contains("echo begun; sleep 1000")
        });
    });
}

#[test]
fn the_workload_has_no_way_to_the_console() {
    kata_test(|containerd| {
        let container = opened(containerd);
        let major =
            line(containerd, &container, "sed -n 's/ *\\([0-9]*\\) virtio-portsdev/\\1/p' /proc/devices")
                .ok()
                .text();
        let tries = format!(
            "ls /dev/vport* /dev/virtio-ports /dev/vsock; mknod /port c {major} 1; cat /port; \
             ls /run/kata-containers; echo end"
        );
        let seen = container.exec_shell(&format!("({tries}) 2>&1")).run().text();
        assert!(seen.contains("can't open '/port': Operation not permitted"), "{seen}");
        for path in ["/dev/vport*", "/dev/virtio-ports", "/dev/vsock", "/run/kata-containers"] {
            assert!(seen.contains(&format!("ls: {path}: No such file")), "{path}: {seen}");
        }
    });
}

#[test]
fn files_and_directories_are_copied_both_ways_with_their_modes() {
    kata_test(|containerd| {
        let container = opened(containerd);
        let (there, back) = (containerd.directory(), containerd.directory());
        let tree = there.join("a tree");
        fs::create_dir_all(tree.join("empty")).unwrap();
        fs::create_dir_all(tree.join("deep/er")).unwrap();
        fs::write(tree.join("binary"), (0..=255).cycle().take(1_000_003).collect::<Vec<u8>>()).unwrap();
        fs::write(tree.join("deep/er/-odd 'name'\n"), "odd").unwrap();
        fs::write(tree.join("nothing"), "").unwrap();
        symlink("binary", tree.join("link")).unwrap();
        fs::set_permissions(tree.join("binary"), PermissionsExt::from_mode(0o751)).unwrap();
        fs::set_permissions(tree.join("deep"), PermissionsExt::from_mode(0o700)).unwrap();

        copy(containerd, &container, tree.to_str().unwrap(), "ID:/tmp").ok().done();
        assert_eq!(
            line(containerd, &container, "stat -c %a '/tmp/a tree/binary' '/tmp/a tree/deep'").text(),
            "751\n700"
        );
        copy(containerd, &container, "ID:/tmp/a tree", back.to_str().unwrap()).ok().done();
        assert_eq!(look(&back.join("a tree")), look(&tree));

        copy(containerd, &container, tree.join("binary").to_str().unwrap(), "ID:/run/renamed").ok().done();
        copy(containerd, &container, "ID:/run/renamed", back.join("again").to_str().unwrap()).ok().done();
        assert_eq!(look(&back.join("again")), look(&tree.join("binary")));
        assert_eq!(consoles(containerd, &container).lines().count(), 1, "only the one that looks");
    });
}

/// Every name below, with its mode, and its bytes or where it leads.
fn look(path: &Path) -> Vec<(String, u32, Vec<u8>)> {
    let metadata = fs::symlink_metadata(path).expect("can be looked at");
    let mut all = Vec::new();
    let name = path.file_name().expect("can be looked at").to_string_lossy().into_owned();
    if metadata.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path)
            .expect("can be looked at")
            .map(|entry| entry.expect("can be looked at").path())
            .collect();
        entries.sort();
        all.push((name, metadata.permissions().mode(), Vec::new()));
        all.extend(entries.iter().flat_map(|entry| look(entry)));
    } else if metadata.is_symlink() {
        all.push((
            name,
            0,
            fs::read_link(path).expect("can be looked at").into_os_string().into_encoded_bytes(),
        ));
    } else {
        all.push((String::new(), metadata.permissions().mode(), fs::read(path).expect("can be looked at")));
    }
    all
}

#[test]
fn a_large_file_comes_back_as_it_went() {
    kata_test(|containerd| {
        let container = opened(containerd);
        let directory = containerd.directory();
        let (there, back) = (directory.join("there"), directory.join("back"));
        fs::write(&there, Pattern::new(2, 24 << 20).bytes()).unwrap();
        copy(containerd, &container, there.to_str().unwrap(), "ID:/run/large").ok().done();
        copy(containerd, &container, "ID:/run/large", back.to_str().unwrap()).ok().done();
        assert_eq!(sha256_of_file(&back).unwrap(), sha256_of_file(&there).unwrap());
    });
}

#[test]
fn a_copy_that_fails_leaves_nothing() {
    kata_test(|containerd| {
        let container = opened(containerd);
        let directory = containerd.directory();
        fs::write(directory.join("file"), "new").unwrap();
        let file = directory.join("file").display().to_string();
        copy(containerd, &container, "/nonexistent", "ID:/tmp/x").fails_because("Cannot copy /nonexistent");
        copy(containerd, &container, &file, "ID:/no/where/x")
            .fails_because("There is no directory /no/where");
        copy(containerd, &container, "ID:/no/where", &file)
            .fails_because("There is no /no/where in the guest");
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        // A file system with less room than the file needs.
        line(containerd, &container, "mkdir /run/small && mount -t tmpfs -o size=64k none /run/small")
            .ok()
            .done();
        fs::write(directory.join("big"), vec![1; 1 << 20]).unwrap();
        let big = directory.join("big").display().to_string();
        copy(containerd, &container, &big, "ID:/run/small/").fails_because("is there room in /run/small");
        assert_eq!(line(containerd, &container, "ls -A /run/small").ok().text(), "");
        // A FIFO, behind files that were sent already.
        let tree = directory.join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("a"), "a").unwrap();
        nix::unistd::mkfifo(&tree.join("z"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let refused = copy(containerd, &container, tree.to_str().unwrap(), "ID:/tmp/tree");
        refused.fails_because("is no file, directory or symbolic link");
        assert_eq!(line(containerd, &container, "ls -A /tmp").ok().text(), "");
        let left: Vec<_> =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "{left:?}");
    });
}

/// `yes > /dev/hvc0` in the guest filled the host's `/run`, where all sandboxes have their state.
#[test]
fn a_guest_that_writes_to_its_console_without_end_fills_nothing() {
    kata_test(|containerd| {
        let container = opened(containerd);
        let flood = "head -c 3000000 /dev/zero | tr '\\0' 'x' | fold -w 99 > /dev/hvc0";
        line(containerd, &container, flood).ok().done();
        line(containerd, &container, "echo 'the last words' > /dev/hvc0").ok().done();
        // Lines without a time are told with the last one that has one, before what the shim has logged since.
        let logs = || containerd.kata_runtime(["logs", container.id()]).ok().text();
        eventually("the end is there", LIMIT, || logs().contains("the last words"));
        let kept = fs::read_dir(Path::new("/run/kata").join(container.id())).unwrap().map(Result::unwrap);
        let kept = kept.filter(|file| file.file_name().to_string_lossy().starts_with("console.log"));
        let lengths: Vec<u64> = kept.map(|file| file.metadata().unwrap().len()).collect();
        assert!(lengths.len() == 2 && lengths.iter().all(|length| *length <= 512 << 10), "{lengths:?}");
    });
}
