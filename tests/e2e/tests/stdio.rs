//! Standard input, output and error: kept apart, complete, with their ends and their back-pressure.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use kata_e2e::{Bind, Pattern, Slowly, kata_test, sha256, sha256_of_file, test};

const HUNDRED_MB: u64 = 100 << 20;
/// For what moves hundreds of megabytes through a guest without hardware virtualisation.
const LONG: Duration = Duration::from_secs(300);

fn write_pattern(path: &Path, seed: u64) -> io::Result<(String, u64)> {
    io::copy(&mut Pattern::new(seed, HUNDRED_MB), &mut File::create(path)?)?;
    sha256_of_file(path)
}

#[test]
fn stdout_and_stderr_are_kept_apart() {
    test(|containerd| {
        let run = containerd.container().shell("echo to stdout; echo to stderr >&2; echo again").run().ok();
        assert_eq!(run.stdout, b"to stdout\nagain\n");
        assert_eq!(run.stderr, b"to stderr\n");
    });
}

#[test]
fn output_just_before_the_end_is_not_lost() {
    test(|containerd| {
        let run = containerd.container().shell("dd if=/dev/zero bs=60000 count=1 2>/dev/null; exit 9").run();
        assert_eq!((run.code, run.stdout.len()), (9, 60_000));
    });
}

#[test]
fn no_output_is_no_output() {
    test(|containerd| {
        let run = containerd.container().command(["/bin/true"]).run();
        assert_eq!((run.code, run.stdout.len(), run.stderr.len()), (0, 0, 0));
    });
}

#[test]
fn a_hundred_megabytes_each_of_stdout_and_stderr_reach_slow_readers_byte_for_byte() {
    test(|containerd| {
        let data = containerd.directory();
        let written =
            (write_pattern(&data.join("out"), 1).unwrap(), write_pattern(&data.join("err"), 2).unwrap());
        let container = containerd.container().bind(&Bind::read_only(&data, "/data"));
        // What is under way when the workload ends is another test's subject.
        let mut run = container.shell("cat /data/err >&2 & cat /data/out; wait; sleep 2").attach();
        let (stdout, stderr) = (run.stdout.take().unwrap(), run.stderr.take().unwrap());
        let stdout = thread::spawn(|| sha256(Slowly::new(stdout)).unwrap());
        let stderr = thread::spawn(|| sha256(Slowly::new(stderr)).unwrap());
        assert_eq!((stdout.join().unwrap(), stderr.join().unwrap()), written);
        run.finish().ok().done();
    });
}

/// containerd's shim for runc loses up to 64 KiB here.
#[test]
fn output_under_way_when_the_workload_ends_reaches_a_slow_reader() {
    kata_test(|containerd| {
        let mut run = containerd.container().shell("head -c 3000000 /dev/zero").attach();
        let (_, length) = sha256(Slowly::new(run.stdout.take().unwrap())).unwrap();
        assert_eq!(length, 3_000_000);
        run.finish().ok().done();
    });
}

#[test]
fn a_reader_of_stdout_that_stands_still_does_not_hold_up_stderr() {
    test(|containerd| {
        let line = "(dd if=/dev/zero bs=1M count=20 2>/dev/null) & echo finished >&2; wait";
        let mut run = containerd.container().shell(line).attach();
        let mut stderr = run.stderr.take().unwrap();
        let mut first = [0; 9];
        stderr.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"finished\n");
        assert_eq!(run.finish().ok().stdout.len(), 20 << 20);
    });
}

#[test]
fn stdin_reaches_cat_to_its_end() {
    test(|containerd| {
        let mut run = containerd.container().shell("echo up; exec cat").attach();
        run.expect_line("up");
        run.stdin
            .as_mut()
            .unwrap()
            .write_all(
                b"one
two, without an end of line",
            )
            .unwrap();
        assert_eq!(
            run.finish().ok().stdout,
            b"one
two, without an end of line"
        );
    });
}

#[test]
fn stdin_reaches_sha256sum_to_its_end() {
    test(|containerd| {
        let input = Pattern::new(3, 5_000_000);
        let expected = sha256(input.clone()).unwrap().0;
        let mut run = containerd.container().shell("echo up; exec sha256sum").attach();
        run.expect_line("up");
        run.stdin.as_mut().unwrap().write_all(&input.bytes()).unwrap();
        assert_eq!(run.finish().ok().text(), format!("{expected}  -"));
    });
}

#[test]
fn a_hundred_megabytes_of_stdin_arrive_byte_for_byte_at_a_slow_reader() {
    test(|containerd| {
        let data = containerd.directory();
        let sent = write_pattern(&data.join("in"), 4).unwrap();
        let container = containerd.container().bind(&Bind::writable(&data, "/data"));
        let mut run = container.shell("sleep 2; cat > /data/arrived").attach();
        io::copy(&mut File::open(data.join("in")).unwrap(), run.stdin.as_mut().unwrap()).unwrap();
        run.finish_within(LONG).ok().done();
        assert_eq!(sha256_of_file(&data.join("arrived")).unwrap(), sent);
    });
}

#[test]
fn a_hundred_megabytes_go_in_and_out_at_the_same_time() {
    test(|containerd| {
        let mut run = containerd.container().shell("echo up; exec cat").attach();
        run.expect_line("up");
        let (mut stdin, stdout) = (run.stdin.take().unwrap(), run.stdout.take().unwrap());
        let writer = thread::spawn(move || io::copy(&mut Pattern::new(5, HUNDRED_MB), &mut stdin).unwrap());
        let returned = sha256(stdout).unwrap();
        assert_eq!(writer.join().unwrap(), HUNDRED_MB);
        assert_eq!(returned, sha256(Pattern::new(5, HUNDRED_MB)).unwrap());
        run.finish().ok().done();
    });
}

#[test]
fn an_answer_comes_while_stdin_stays_open() {
    test(|containerd| {
        let mut run =
            containerd.container().shell("read line; echo got $line; read line; echo got $line").attach();
        let (stdin, stdout) = (run.stdin.as_mut().unwrap(), run.stdout.as_mut().unwrap());
        let mut answer = [0; 8];
        for word in ["one", "two"] {
            writeln!(stdin, "{word}").unwrap();
            stdout.read_exact(&mut answer).unwrap();
            assert_eq!(answer, format!("got {word}\n").as_bytes());
        }
        run.finish_with_open_stdin().ok().done();
    });
}

#[test]
fn a_workload_ends_although_nobody_closes_its_stdin() {
    test(|containerd| {
        containerd.container().shell("exit 4").attach().finish_with_open_stdin().with_code(4).done();
    });
}

#[test]
fn input_that_nobody_reads_does_not_hold_up_the_end() {
    test(|containerd| {
        let mut run = containerd.container().shell("echo up; head -c 3").attach();
        run.expect_line("up");
        let mut stdin = run.stdin.take().unwrap();
        // `ctr` may be gone before all of it is written.
        let writer = thread::spawn(move || drop(stdin.write_all(&Pattern::new(6, 1 << 20).bytes())));
        assert_eq!(run.finish().ok().stdout, &Pattern::new(6, 1 << 20).bytes()[..3]);
        writer.join().unwrap();
    });
}

#[test]
fn stdin_of_an_exec_is_its_own() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let mut cat = container.exec_shell("echo up; exec cat").attach();
        let mut wc = container.exec_shell("echo up; exec wc -c").attach();
        cat.expect_line("up");
        wc.expect_line("up");
        let input = Pattern::new(7, 3_000_000).bytes();
        let (mut to_cat, mut to_wc) = (cat.stdin.take().unwrap(), wc.stdin.take().unwrap());
        let writer = thread::spawn(move || to_cat.write_all(&Pattern::new(7, 3_000_000).bytes()).unwrap());
        to_wc.write_all(b"twelve bytes").unwrap();
        drop(to_wc);
        assert_eq!(wc.finish().ok().text(), "12");
        assert!(cat.finish().ok().stdout == input, "cat gives back what it got");
        writer.join().unwrap();
    });
}

#[test]
fn output_of_an_exec_that_ends_at_once_is_complete() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        for _ in 0..20 {
            let run = container.exec_shell("seq 1 1000; echo end >&2").run().ok();
            assert_eq!((run.stdout.len(), run.stderr.as_slice()), (3893, b"end\n".as_slice()));
        }
    });
}
