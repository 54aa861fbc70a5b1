//! Real programs that work a file system hard and look at what they get back, on every kind of root.

use std::time::{Duration, Instant};

use kata_e2e::{Container, Containerd, Image, Recipe, RootMount, amount, check_ext4, fail, kata_test, test};
use serde_json::json;

/// A program's work, in a directory of its own.
struct Step {
    name: &'static str,
    /// How often, how many, how large, as `$N`; and where the tests do all they can.
    number: [u32; 2],
    /// For `sh -e`: it fails if anything is not as it must be.
    lines: &'static str,
}

const STRESS_NG: Step = Step {
    name: "stress-ng --verify",
    number: [10, 200],
    lines: r#"
set --
for stressor in access chmod chown dentry dir fallocate fcntl filename flock fpunch fstat getdent hdd iomix lockf \
    locka lockofd mknod open readahead rename revio seek sendfile sync-file touch utime xattr; do
    set -- "$@" --$stressor 1 --$stressor-ops $N
done
# An operation of these makes thousands of links.
if [ $N -gt 100 ]; then set -- "$@" --link 1 --link-ops 10 --symlink 1 --symlink-ops 10; fi
stress-ng --verify --temp-path . --timeout 0 --dentries 64 --fallocate-bytes 4m --hdd-bytes 4m --iomix-bytes 4m \
    --readahead-bytes 4m --revio-bytes 4m --seek-size 4m --sync-file-bytes 4m "$@"
"#,
};

const FIO: Step = Step {
    name: "fio --verify",
    number: [4, 256],
    lines: r#"
fio --minimal --directory=. --ioengine=psync --size=${N}m --verify=crc32c --verify_fatal=1 --do_verify=1 --end_fsync=1 \
    --name=sequential --rw=write --bs=64k --name=random --rw=randwrite --bs=4k --name=mixed --rw=randrw --bs=4k
"#,
};

const DBENCH: Step = Step {
    name: "dbench",
    number: [2000, 400_000],
    lines: r#"
head -n $N /usr/share/dbench/client.txt > load
dbench -s -D . -c load -t $((2 + N / 10000)) 2 | tee log
grep -q '^Throughput [1-9]' log
! grep -qi failed: log
"#,
};

const SQLITE: Step = Step {
    name: "sqlite in WAL mode, two processes write",
    number: [50, 5000],
    lines: r#"
sqlite3 db 'PRAGMA journal_mode=wal; CREATE TABLE t(writer, n)'
write() {
    { echo '.timeout 120000'; seq -f "BEGIN IMMEDIATE; INSERT INTO t VALUES($1, %.0f); COMMIT;" $N; } | sqlite3 -bail db
}
write 1 & first=$!
write 2
wait $first
[ "$(sqlite3 db 'SELECT count(DISTINCT n), writer FROM t GROUP BY writer' | tr '\n' ' ')" = "$N|1 $N|2 " ]
[ "$(sqlite3 db 'PRAGMA integrity_check; PRAGMA journal_mode' | tr '\n' ' ')" = 'ok wal ' ]
"#,
};

const POSTGRESQL: Step = Step {
    name: "PostgreSQL's initdb, pgbench, a crash of the server",
    number: [20, 5000],
    lines: r#"
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
export PGHOST=$PWD PGUSER=postgres
chown postgres .
as() { setpriv --reuid postgres --regid postgres --clear-groups "$@"; }
as initdb -D data -A trust --no-locale -E UTF8
begin() { as pg_ctl -D data -w -t 120 -l server.log -o "-k $PWD -c listen_addresses=''" start; }
begin
pgbench -q -i -s 1 postgres
pgbench -c 2 -t $N postgres
as pg_ctl -D data -m immediate stop
begin
right='(SELECT sum(delta) FROM pgbench_history) = (SELECT sum(abalance) FROM pgbench_accounts)'
[ "$(psql -At -c "SELECT count(*), $right FROM pgbench_history" postgres)" = "$((2 * N))|t" ]
as pg_ctl -D data stop
"#,
};

const GIT: Step = Step {
    name: "git clone",
    number: [500, 5000],
    lines: r#"
git init -q source
for folder in $(seq 10); do
    mkdir source/$folder
    seq $((N / 10)) | split -l 1 -a 4 -d - source/$folder/
done
git -C source add .
git -C source -c user.name=x -c user.email=x@example.test commit -qm all
git clone -q file://$PWD/source clone
git -C clone fsck --strict
[ -z "$(git -C clone status --porcelain)" ]
[ $(git -C clone ls-files | wc -l) = $N ]
diff -r -x .git source clone
"#,
};

const APT: Step = Step {
    name: "apt-get install of a package of a local directory",
    number: [1, 1],
    lines: r#"
mkdir -p package/DEBIAN package/usr/share/from-here
echo content > package/usr/share/from-here/file
printf 'Package: from-here\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.test>\nDescription: x\n' \
    > package/DEBIAN/control
printf '#!/bin/sh\necho configured > /usr/share/from-here/state\n' > package/DEBIAN/postinst
chmod 755 package/DEBIAN/postinst
dpkg-deb --root-owner-group --build package from-here.deb
export DEBIAN_FRONTEND=noninteractive
apt-get install -qq ./from-here.deb
[ "$(cat /usr/share/from-here/file /usr/share/from-here/state)" = "$(printf 'content\nconfigured')" ]
dpkg -s from-here | grep -q 'Status: install ok installed'
dpkg --verify from-here
apt-get purge -qq from-here
[ ! -e /usr/share/from-here/file ]
"#,
};

const TAR: Step = Step {
    name: "tar of small files, with all that is known of them",
    number: [1000, 50_000],
    lines: r#"
mkdir tree copy
for folder in $(seq 10); do
    mkdir tree/$folder
    seq $((N / 10)) | split -l 1 -a 4 -d - tree/$folder/
done
chown -R 12:34 tree/1
chmod 6755 tree/2/0000
chmod 1770 tree/3
touch -d '2001-02-03 04:05:06.789' tree/4/*
ln -s 0000 tree/5/link
ln tree/6/0000 tree/7/hard
mkfifo tree/8/fifo
python3 -c 'import os; os.setxattr("tree/9/0000", "user.x", b"kept")'
tar --format=pax --xattrs -cf - -C tree . | tar --xattrs --same-owner -xpf - -C copy
list() { (cd $1; find . -type d -printf '%P %m %U %G %T@\n' -o -printf '%P %y %m %U %G %s %n %T@ %l\n' | sort); }
list tree > tree.list
list copy > copy.list
diff tree.list copy.list
diff -r -x fifo tree copy
[ $(wc -l < copy.list) = $((N + 14)) ]
python3 -c 'import os; assert os.getxattr("copy/9/0000", "user.x") == b"kept"'
"#,
};

/// Everything.
const ALL: [Step; 8] = [STRESS_NG, FIO, DBENCH, SQLITE, POSTGRESQL, GIT, APT, TAR];
/// What is about the file system itself.
const OF_THE_FILE_SYSTEM: [Step; 4] = [STRESS_NG, FIO, DBENCH, TAR];

/// Runs them one after the other below `directory`; all of them, and then fails if one has.
#[track_caller]
fn work(container: &Container<'_>, directory: &str, steps: &[Step]) {
    let mut failed = Vec::new();
    for step in steps {
        let begun = Instant::now();
        let place = format!("{directory}/{}", step.name.split([' ', '\'']).next().unwrap_or_default());
        let line = format!(
            "mkdir {place}; cd {place}; N={}\nexport LC_ALL=C HOME={place}\n{}cd /; rm -r {place}",
            amount(step.number[0], step.number[1]),
            step.lines
        );
        let exec = container.exec(["/bin/sh", "-exc", &line]).attach();
        let done = exec.finish_within(Duration::from_secs(amount(300, 3600)));
        println!("{} in {directory}: {:.1} s", step.name, begun.elapsed().as_secs_f64());
        if done.code != 0 {
            let said = [done.text(), done.complaint()].map(|text| {
                let lines: Vec<&str> = text.lines().collect();
                lines[lines.len().saturating_sub(20)..].join("\n    ")
            });
            failed.push(format!(
                "{} ({}):\n    {}",
                step.name,
                done.code,
                said.join("\n  and to stderr:\n    ")
            ));
        }
    }
    if !failed.is_empty() {
        fail(format_args!("Failed in {directory}:\n  {}", failed.join("\n  ")));
    }
}

/// For a root file system that is mounted for it.
fn idle(containerd: &Containerd) -> Recipe<'_> {
    containerd.container().spec(|spec| {
        spec["root"]["path"] = json!("rootfs");
        spec["process"]["args"] = json!(["/bin/sleep", "infinity"]);
        let options = ["mode=1777", amount("size=512m", "size=2g")];
        let memory =
            json!({ "destination": "/memory", "type": "tmpfs", "source": "tmpfs", "options": options });
        spec["mounts"].as_array_mut().expect("a list").push(memory);
    })
}

#[test]
fn programs_get_back_what_they_write_to_a_shared_root() {
    test(|containerd| {
        let container = containerd.container().image(Image::Tools).command(["sleep", "infinity"]).start();
        work(&container, "/var/tmp", &ALL);
        container.remove();
    });
}

#[test]
fn programs_get_back_what_they_write_to_a_root_on_a_disk() {
    test(|containerd| {
        let ext4 = containerd.ext4_of_tools();
        let container = idle(containerd).start_on(&[RootMount::new("ext4", &ext4, ["loop"])]);
        work(&container, "/var/tmp", &ALL);
        container.remove();
        check_ext4(&ext4);
    });
}

#[test]
fn programs_get_back_what_they_write_over_layers_and_to_memory() {
    kata_test(|containerd| {
        // All of it is in the guest's memory, a half of which a tmpfs may have.
        let memory = format!("\ndefault_memory = {}", amount(2048, 8192));
        containerd.reconfigure(|text| text.replace("\ndefault_memory = 2048", &memory));
        let layer = RootMount::new("erofs", containerd.erofs_of_tools(), ["ro", "loop"]);
        let options = ["workdir=/none/work", "upperdir=/none/fs", "lowerdir={{ overlay 0 0 }}"];
        let container =
            idle(containerd).start_on(&[layer, RootMount::new("format/overlay", "overlay", options)]);
        work(&container, "/var/tmp", &OF_THE_FILE_SYSTEM);
        work(&container, "/memory", &OF_THE_FILE_SYSTEM);
        container.remove();
    });
}
