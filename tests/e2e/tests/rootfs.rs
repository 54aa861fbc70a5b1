//! The root file system: what the container writes is on the host's snapshot, in every respect.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kata_e2e::{Bind, Container, Containerd, Pattern, sha256_of_file, test};

const LONG: Duration = Duration::from_secs(400);

#[test]
fn a_read_only_root_cannot_be_written() {
    test(|containerd| {
        let run = containerd.container().option("--read-only").shell("echo x > /new").run();
        run.fails_because("Read-only file system");
    });
}

#[test]
fn a_read_only_root_can_be_read_and_run() {
    test(|containerd| {
        let line = "cat /etc/passwd > /dev/null && echo x > /dev/shm/x && cat /dev/shm/x";
        assert_eq!(containerd.container().option("--read-only").shell(line).run().ok().text(), "x");
    });
}

#[test]
fn a_file_is_on_the_hosts_snapshot_with_owner_and_mode() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let _ = container.shell("echo content > /etc/new; chown 1234:567 /etc/new; chmod 4751 /etc/new");
        let file = container.changes_on_host().join("etc/new");
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "content\n");
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (1234, 567, 0o4751));
    });
}

#[test]
fn times_are_kept() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let _ = container.shell("touch -d '2001-02-03 04:05:06' /old");
        assert_eq!(container.shell("TZ=UTC stat -c %Y /old"), "981173106");
        assert_eq!(fs::metadata(container.changes_on_host().join("old")).unwrap().mtime(), 981_173_106);
    });
}

#[test]
fn symbolic_links_stay_links() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let _ = container.shell("ln -s /etc/passwd /to-file; ln -s ../nowhere /dangling; cat /to-file");
        let root = container.changes_on_host();
        assert_eq!(fs::read_link(root.join("to-file")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(fs::read_link(root.join("dangling")).unwrap(), Path::new("../nowhere"));
        assert_eq!(container.shell("readlink /dangling"), "../nowhere");
    });
}

#[test]
fn hard_links_share_one_file() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let count = "echo a > /one; ln /one /two; echo b >> /two; cat /one; stat -c %h /one";
        assert_eq!(container.shell(count), "a\nb\n2");
        let root = container.changes_on_host();
        let (one, two) = (fs::metadata(root.join("one")).unwrap(), fs::metadata(root.join("two")).unwrap());
        assert_eq!((one.ino(), one.nlink()), (two.ino(), 2));
    });
}

/// A busybox that also has the host's programs.
fn with_programs_of_the_host(containerd: &Containerd) -> Container<'_> {
    let container = containerd.container().bind(&Bind::read_only(Path::new("/usr"), "/usr"));
    let container = container.bind(&Bind::read_only(Path::new("/usr/lib"), "/lib"));
    let container = container.bind(&Bind::read_only(Path::new("/usr/lib64"), "/lib64"));
    container.command(["/bin/sleep", "1000"]).start()
}

#[test]
fn extended_attributes_are_kept() {
    test(|containerd| {
        let container = with_programs_of_the_host(containerd);
        let line = "touch /x; setfattr -n user.colour -v blue /x; getfattr --only-values -n user.colour /x";
        assert_eq!(container.shell(line), "blue");
        let file = container.changes_on_host().join("x");
        let host =
            Command::new("getfattr").args(["--only-values", "-n", "user.colour"]).arg(file).output().unwrap();
        assert_eq!(host.stdout, b"blue");
        let _ = container.shell("setfattr -x user.colour /x");
        container.exec_shell("getfattr -n user.colour /x").run().fails_because("No such attribute");
    });
}

#[test]
fn sparse_files_stay_sparse() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let _ = container
            .shell("truncate -s 1G /sparse; echo end | dd of=/sparse bs=1 seek=500000000 conv=notrunc");
        assert_eq!(container.shell("stat -c %s /sparse"), "1073741824");
        let metadata = fs::metadata(container.changes_on_host().join("sparse")).unwrap();
        assert_eq!(metadata.size(), 1 << 30);
        assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
    });
}

#[test]
fn a_file_of_two_gigabytes_is_written_and_read() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let line =
            "dd if=/dev/zero of=/big bs=1M count=2049 2>/dev/null && echo tail >> /big && tail -c 5 /big";
        assert_eq!(container.exec_shell(line).attach().finish_within(LONG).ok().text(), "tail");
        let file = container.changes_on_host().join("big");
        assert_eq!(fs::metadata(&file).unwrap().size(), 2049 * (1 << 20) + 5);
        fs::remove_file(file).unwrap();
    });
}

#[test]
fn ten_thousand_small_files_are_all_there() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let line = "mkdir /many; cd /many; i=0; while [ $i -lt 10000 ]; do echo $i > $i; i=$((i+1)); done; ls | wc -l";
        assert_eq!(container.exec_shell(line).attach().finish_within(LONG).ok().text(), "10000");
        let many = container.changes_on_host().join("many");
        assert_eq!(fs::read_dir(&many).unwrap().count(), 10_000);
        for n in [0, 1, 4999, 9999] {
            assert_eq!(fs::read_to_string(many.join(n.to_string())).unwrap(), format!("{n}\n"));
        }
        assert_eq!(container.exec_shell("rm -r /many; ls -d /many").attach().finish_within(LONG).code, 1);
    });
}

#[test]
fn files_of_the_image_can_be_changed_and_removed() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let _ = container.shell("echo more >> /etc/passwd; rm /etc/group; mv /root /moved");
        assert_eq!(container.shell("tail -n 1 /etc/passwd; ls /etc; ls -d /moved"), "more\npasswd\n/moved");
        let root = container.changes_on_host();
        assert!(fs::read_to_string(root.join("etc/passwd")).unwrap().ends_with("more\n"));
    });
}

#[test]
fn special_files_can_be_made() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let line =
            "mkfifo /pipe; (echo through > /pipe &); cat /pipe; mknod /null c 1 3; stat -c %F /pipe /null";
        assert_eq!(container.shell(line), "through\nfifo\ncharacter special file");
    });
}

#[test]
fn permissions_hold_for_directories_with_the_sticky_bit() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let _ = container.shell("mkdir -m 1777 /shared; echo mine > /shared/file");
        let remove = container.exec_shell("rm -f /shared/file").option("--user", "1000:1000").run();
        assert_ne!(remove.code, 0, "{remove:?}");
        let mode = fs::metadata(container.changes_on_host().join("shared")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o1777);
    });
}

#[test]
fn a_locked_file_is_locked_for_others() {
    test(|containerd| {
        let container = with_programs_of_the_host(containerd);
        let line = "flock -n /lock sh -c 'flock -n /lock echo both || echo one'; flock -n /lock echo free";
        assert_eq!(container.shell(line), "one\nfree");
    });
}

#[test]
fn a_root_file_system_in_a_plain_directory_works() {
    test(|containerd| {
        let data = containerd.directory();
        let mut rootfs = String::new();
        let run = containerd.container().spec(|spec| {
            spec["root"]["path"].as_str().unwrap().clone_into(&mut rootfs);
            spec["process"]["args"] = serde_json::json!(["/bin/sh", "-c", "echo kept > /new"]);
        });
        run.run().ok().done();
        assert_eq!(fs::read_to_string(Path::new(&rootfs).join("new")).unwrap(), "kept\n");
        drop(data);
    });
}

#[test]
fn what_was_written_last_is_on_the_host_when_the_container_is_gone() {
    test(|containerd| {
        let container = containerd
            .container()
            .shell("head -c 5000000 /dev/urandom > /last; sha256sum < /last > /sum")
            .start();
        container.wait_until_stopped();
        let root = container.changes_on_host();
        let told = fs::read_to_string(root.join("sum")).unwrap();
        assert_eq!(told.split(' ').next().unwrap(), sha256_of_file(&root.join("last")).unwrap().0);
        assert_eq!(container.delete(), 0);
    });
}

#[test]
fn random_access_gives_the_bytes_that_were_written() {
    test(|containerd| {
        let container = containerd.container().command(["/bin/sleep", "1000"]).start();
        let pattern = Pattern::new(9, 4 << 20).bytes();
        let mut writer = container.exec_shell("echo up; cat > /random").attach();
        writer.expect_line("up");
        std::io::Write::write_all(writer.stdin.as_mut().unwrap(), &pattern).unwrap();
        writer.finish().ok().done();
        for block in [0_usize, 7, 511, 1023] {
            let line = format!("dd if=/random bs=4096 skip={block} count=1 2>/dev/null");
            let read = container.exec_shell(&line).run().ok();
            assert!(read.stdout == pattern[block * 4096..(block + 1) * 4096], "block {block} is as written");
        }
    });
}
