//! Volumes of pods, on the host as a kubelet prepares them.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kata_e2e::proto::{ContainerConfig, Device, Mount, MountPropagation, PodSandboxConfig};
use kata_e2e::{Bind, Containerd, Image, LoopDevice, cri_test, eventually, kata_cri_test, kata_test, test};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;

/// A guest may know names and sizes for a second.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

const WRITABLE: &str = "the test's directory is writable";
const ROOT: &str = "root can mount";

fn volume(host: &Path, container: &str, readonly: bool) -> Mount {
    let host_path = host.to_string_lossy().into_owned();
    Mount { host_path, container_path: container.to_owned(), readonly, ..Default::default() }
}

fn mounts(mounts: Vec<Mount>) -> impl FnOnce(&mut ContainerConfig) {
    |config| config.mounts.extend(mounts)
}

/// Files as a ConfigMap's, a Secret's or a projected volume's: names that link to the present version's.
struct Projected(PathBuf);

impl Projected {
    fn new(dir: PathBuf, files: &[(&str, &str)]) -> Self {
        fs::create_dir_all(&dir).expect(WRITABLE);
        let projected = Self(dir);
        projected.publish("..1", files);
        for (name, _) in files {
            symlink(Path::new("..data").join(name), projected.0.join(name)).expect(WRITABLE);
        }
        projected
    }

    /// The new version appears at once, and the old one goes.
    fn publish(&self, version: &str, files: &[(&str, &str)]) {
        let (dir, data) = (self.0.join(version), self.0.join("..data"));
        fs::create_dir(&dir).expect(WRITABLE);
        for (name, content) in files {
            fs::write(dir.join(name), content).expect(WRITABLE);
        }
        let old = fs::read_link(&data);
        symlink(version, self.0.join("..data_tmp")).expect(WRITABLE);
        fs::rename(self.0.join("..data_tmp"), data).expect(WRITABLE);
        if let Ok(old) = old {
            fs::remove_dir_all(self.0.join(old)).expect(WRITABLE);
        }
    }
}

/// Mounted on the host until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// As a kubelet does it for a `subPath`.
    fn bind(source: &Path, target: PathBuf) -> Self {
        if source.is_dir() {
            fs::create_dir_all(&target).expect(WRITABLE);
        } else {
            fs::create_dir_all(target.parent().expect("below the test's directory")).expect(WRITABLE);
            fs::write(&target, "").expect(WRITABLE);
        }
        mount(Some(source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect(ROOT);
        Self(target)
    }

    fn tmpfs(target: PathBuf) -> Self {
        fs::create_dir_all(&target).expect(WRITABLE);
        mount(Some("tmpfs"), &target, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect(ROOT);
        Self(target)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What a failed test leaves is unmounted with its namespace.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_new_version_of_a_config_map_is_seen_by_the_workload() {
    cri_test(|cri| {
        let config =
            Projected::new(cri.containerd.directory().join("config"), &[("key", "one"), ("other", "1")]);
        let pod = cri.pod().run();
        let container =
            pod.container("main").with(mounts(vec![volume(&config.0, "/config", true)])).idle().start();
        assert_eq!(container.shell("cat /config/key /config/other; ls /config"), "one1key\nother");
        for (version, content) in [("..2", "two and longer"), ("..3", "3")] {
            config.publish(version, &[("key", content), ("other", content)]);
            eventually("the new version is there", SEEN_WITHIN, || {
                container.exec_shell("cat /config/key").text() == content
            });
            assert_eq!(
                container.shell("cat /config/other; readlink /config/..data"),
                format!("{content}{version}")
            );
        }
        assert_ne!(container.exec_shell("echo x > /config/key").code, 0, "it is read-only");
    });
}

#[test]
fn sub_paths_are_the_directory_or_file_below_the_volume() {
    cri_test(|cri| {
        let dir = cri.containerd.directory();
        let disk = dir.join("volumes/disk");
        fs::create_dir_all(disk.join("pod-0/logs")).unwrap();
        fs::write(disk.join("app.conf"), "from the volume").unwrap();
        let at =
            |container: &str, number: &str| dir.join("volume-subpaths/disk").join(container).join(number);
        let logs = disk.join("pod-0/logs");
        let [own, file, other] = [
            Mounted::bind(&logs, at("main", "0")),
            Mounted::bind(&disk.join("app.conf"), at("main", "1")),
            Mounted::bind(&logs, at("other", "0")),
        ];
        let pod = cri.pod().run();
        let mine = vec![volume(&own.0, "/logs", false), volume(&file.0, "/etc/app.conf", true)];
        // Busybox has no `flock`.
        let container = |name: &str| pod.container(name).image(Image::Debian);
        let main = container("main").with(mounts(mine)).idle().start();
        let other = container("other").with(mounts(vec![volume(&other.0, "/logs", false)])).idle().start();
        assert_eq!(main.shell("cat /etc/app.conf; echo line > /logs/main; ls /logs"), "from the volumemain");
        assert_eq!(fs::read_to_string(logs.join("main")).unwrap(), "line\n");
        // One file system in the guest, whatever the kubelet's mounts.
        main.shell(
            "flock /logs/lock sh -c 'echo > /logs/held; exec sleep 1000' > /dev/null 2>&1 & \
             until [ -e /logs/held ]; do sleep 0.1; done",
        );
        assert_eq!(other.exec_shell("flock -n /logs/lock true; echo $?").text(), "1");
        assert_eq!(other.exec_shell("flock -n /logs/free true; echo $?").text(), "0");
        pod.remove();
    });
}

#[test]
fn a_file_that_is_replaced_on_the_host_is_the_new_one_for_the_next_container() {
    cri_test(|cri| {
        let dir = cri.containerd.directory();
        fs::write(dir.join("hosts"), "old").unwrap();
        let pod = cri.pod().run();
        let with = || mounts(vec![volume(&dir.join("hosts"), "/etc/hosts", false)]);
        let first = pod.container("first").with(with()).idle().start();
        fs::write(dir.join("new"), "new").unwrap();
        fs::rename(dir.join("new"), dir.join("hosts")).unwrap();
        assert_eq!(first.shell("cat /etc/hosts"), "old");
        assert_eq!(pod.container("second").with(with()).shell("cat /etc/hosts").run().text(), "new");
    });
}

#[test]
fn a_mount_that_the_host_makes_later_is_seen_if_the_volume_follows_the_host() {
    cri_test(|cri| {
        let shared = Mounted::tmpfs(cri.containerd.directory().join("shared"));
        mount(None::<&str>, &shared.0, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        fs::create_dir(shared.0.join("later")).unwrap();
        let follows = Mount {
            propagation: MountPropagation::PropagationHostToContainer.into(),
            ..volume(&shared.0, "/follows", false)
        };
        let pod = cri.pod().run();
        let with = mounts(vec![follows, volume(&shared.0, "/private", false)]);
        let container = pod.container("main").with(with).idle().start();
        assert_eq!(container.shell("ls /follows/later /private/later"), "/follows/later:\n\n/private/later:");
        let later = Mounted::tmpfs(shared.0.join("later"));
        fs::write(later.0.join("file"), "").unwrap();
        eventually("the mount is seen", SEEN_WITHIN, || container.shell("ls /follows/later") == "file");
        assert_eq!(container.shell("ls /private/later"), "");
        pod.remove();
    });
}

/// As a program that brings a file system (FUSE, a CSI driver's helper) beside the one that uses it.
#[test]
fn what_a_container_mounts_is_seen_by_the_pods_others_if_the_volume_goes_both_ways() {
    cri_test(|cri| {
        let shared = Mounted::tmpfs(cri.containerd.directory().join("shared"));
        mount(None::<&str>, &shared.0, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        fs::create_dir(shared.0.join("made")).unwrap();
        let with = |propagation: MountPropagation, target: &str| Mount {
            propagation: propagation.into(),
            ..volume(&shared.0, target, false)
        };
        let pod = cri.pod().with(privileged_pod).run();
        let both_ways = mounts(vec![with(MountPropagation::PropagationBidirectional, "/brings")]);
        let brings = pod.container("brings").with(both_ways).security(|s| s.privileged = true).idle().start();
        let uses = |name: &str, propagation: MountPropagation| {
            pod.container(name).with(mounts(vec![with(propagation, "/uses")])).idle().start()
        };
        let follows = uses("follows", MountPropagation::PropagationHostToContainer);
        let private = uses("private", MountPropagation::PropagationPrivate);
        brings.shell("mount -t tmpfs tmpfs /brings/made && echo x > /brings/made/file");
        assert_eq!(follows.shell("cat /uses/made/file"), "x");
        assert_eq!(private.shell("ls /uses/made"), "");
        let late = uses("late", MountPropagation::PropagationHostToContainer);
        assert_eq!(late.shell("cat /uses/made/file"), "x");
        // What is in a VM is not on its host.
        assert_eq!(shared.0.join("made/file").exists(), !cri.containerd.stage.is_kata());
        brings.shell("umount /brings/made");
        assert_eq!(follows.shell("ls /uses/made"), "");
        pod.remove();
    });
}

fn privileged_pod(config: &mut PodSandboxConfig) {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
}

/// A socket's other end would be a process of the host, which the guest's kernel does not know.
#[test]
fn what_leads_to_a_process_or_device_of_the_host_is_refused_by_name() {
    kata_cri_test(|cri| {
        let dir = cri.containerd.directory();
        let _listener = UnixListener::bind(dir.join("socket")).unwrap();
        mkfifo(&dir.join("fifo"), Mode::S_IRWXU).unwrap();
        let pod = cri.pod().run();
        let sources = [
            ("socket", dir.join("socket")),
            ("FIFO", dir.join("fifo")),
            ("character device", "/dev/fuse".into()),
        ];
        for (kind, source) in sources {
            let with = mounts(vec![volume(&source, "/x", false)]);
            let started = pod.container(&format!("c{}", kind.len())).with(with).idle().create().try_start();
            let text = started.unwrap_err();
            assert!(text.contains(&format!("is a {kind}")) && text.contains("\"/x\""), "{text}");
        }
        assert_eq!(pod.container("good").shell("echo well").run().text(), "well");
    });
}

/// A pod's volumes, one of each kind, in turns.
struct Kinds<'c> {
    containerd: &'c Containerd,
    dir: PathBuf,
    held: Vec<Mounted>,
    disks: Vec<LoopDevice>,
    assigned: Vec<PathBuf>,
    mounts: Vec<Mount>,
    devices: Vec<Device>,
}

impl<'c> Kinds<'c> {
    const COUNT: usize = 10;

    fn new(containerd: &'c Containerd) -> Self {
        let dir = containerd.directory().join("pods/7f/volumes");
        let (held, disks, assigned, mounts, devices) = Default::default();
        Self { containerd, dir, held, disks, assigned, mounts, devices }
    }

    fn add(&mut self, number: usize) {
        let (path, target) = (self.dir.join(format!("any/{number}")), format!("/v/{number}"));
        match number % Self::COUNT {
            0 => self.mounts.push(volume(&Projected::new(path, &[("file", "x")]).0, &target, true)),
            1 => {
                // A Secret is in memory on the host, too.
                self.held.push(Mounted::tmpfs(path.clone()));
                self.mounts.push(volume(&Projected::new(path, &[("file", "x")]).0, &target, true));
            }
            2 => {
                let path = self.dir.join(format!("kubernetes.io~empty-dir/{number}"));
                self.held.push(Mounted::tmpfs(path.clone()));
                self.mounts.push(volume(&path, &target, false));
            }
            3 => {
                let whole = self.directory_with_file(&format!("below-{number}"));
                self.held.push(Mounted::bind(&whole, path.clone()));
                self.mounts.push(volume(&path, &target, false));
            }
            4 => {
                let file = self.directory_with_file(&format!("file-{number}")).join("file");
                self.mounts.push(volume(&file, &format!("{target}/file"), false));
            }
            5 => {
                let readonly = self.directory_with_file(&format!("host-{number}"));
                self.mounts.push(volume(&readonly, &target, true));
            }
            6 => {
                let disk = self.containerd.loop_device(1 << 20);
                self.devices.push(Device {
                    container_path: format!("/dev/disk-{number}"),
                    host_path: disk.node.display().to_string(),
                    permissions: "rw".to_owned(),
                });
                self.disks.push(disk);
            }
            7 if self.containerd.stage.is_kata() => {
                let assigned = self.assigned(&path);
                self.mounts.push(volume(&assigned, &target, false));
            }
            // emptyDir, hostPath, a volume of another container runtime's.
            _ => {
                let plain = self.directory_with_file(&format!("plain-{number}"));
                self.mounts.push(volume(&plain, &target, false));
            }
        }
    }

    fn directory_with_file(&self, name: &str) -> PathBuf {
        let directory = self.dir.join(name);
        fs::create_dir_all(&directory).expect(WRITABLE);
        fs::write(directory.join("file"), "x").expect(WRITABLE);
        directory
    }

    /// As a CSI driver assigns a disk directly.
    fn assigned(&mut self, path: &Path) -> PathBuf {
        fs::create_dir_all(path).expect(WRITABLE);
        let image = self.containerd.ext4_of(&self.directory_with_file("of-disk"));
        let info = json!({ "volume-type": "block", "device": image, "fstype": "ext4", "options": [] });
        let words = ["direct-volume", "add", "--volume-path", &path.display().to_string()];
        self.containerd.kata_runtime(words.iter().chain(&["--mount-info", &info.to_string()])).ok().done();
        self.assigned.push(path.to_owned());
        path.to_owned()
    }

    /// Has them all.
    fn give(&self) -> impl FnOnce(&mut ContainerConfig) + use<> {
        let (mounts, devices) = (self.mounts.clone(), self.devices.clone());
        |config| {
            config.mounts.extend(mounts);
            config.devices.extend(devices);
        }
    }

    fn take_back(self) {
        for path in &self.assigned {
            let words = ["direct-volume", "remove", "--volume-path", &path.display().to_string()];
            self.containerd.kata_runtime(words).ok().done();
        }
    }
}

/// Of every kind that a kubelet knows, read and written by two containers, and nothing is left.
#[test]
fn a_pod_may_have_twenty_volumes_of_all_kinds() {
    cri_test(|cri| {
        let mut kinds = Kinds::new(cri.containerd);
        (0..20).for_each(|number| kinds.add(number));
        let pod = cri.pod().run();
        let line = "for v in /v/*; do echo $1 >> $v/file && printf .; done 2> /dev/null; \
                    for d in /dev/disk-*; do echo $1 | dd of=$d bs=512 seek=$1 conv=fsync,sync && printf :; done 2> /dev/null";
        let write = |name: &str, number: &str| {
            let words = ["/bin/sh", "-c", line, "sh", number];
            pod.container(name).with(kinds.give()).command(words).run().text()
        };
        // ConfigMaps, Secrets and one kind of hostPath are read-only, and two volumes are devices.
        assert_eq!(write("first", "1"), format!("{}::", ".".repeat(12)));
        assert_eq!(write("second", "2"), format!("{}::", ".".repeat(12)));
        let look =
            "cat /v/*/file | wc -c; cat /v/*/file | grep -c 2; cat /dev/disk-* | grep -ac 1; ls /v | wc -l";
        let seen = pod.container("last").with(kinds.give()).shell(look).run().text();
        // 16 of the host's, as memory begins empty, and 12 that were written to twice.
        assert_eq!(seen, "64\n12\n2\n18");
        pod.remove();
        kinds.take_back();
    });
}

/// The daemon had each volume open that there ever was, and the root file system of the last container that was removed.
#[test]
fn files_of_containers_that_are_gone_are_not_kept_open() {
    kata_cri_test(|cri| {
        let dir = cri.containerd.directory();
        let pod = cri.pod().run();
        let before = open_by_daemons(cri.containerd);
        let run = |number: usize| {
            let (folder, file) = (dir.join(format!("folder-{number}")), dir.join(format!("file-{number}")));
            fs::create_dir(&folder).unwrap();
            let memory = Mounted::tmpfs(folder);
            fs::write(memory.0.join("x"), "x").unwrap();
            fs::write(&file, "x").unwrap();
            let with = mounts(vec![volume(&memory.0, "/folder", false), volume(&file, "/file", false)]);
            let container = pod.container(&format!("c{number}")).with(with);
            let container = container.shell("cat /folder/x /file; echo; exec sleep 1000").start();
            container.wait_for_line("xx");
            let open = open_by_daemons(cri.containerd);
            assert!([&memory.0, &file].iter().all(|volume| open.contains(&identity(volume).unwrap())));
            container.stop(0);
            container.remove();
        };
        (0..4).for_each(run);
        // The guest looks for what it remembers a while after a container was removed.
        eventually("the daemon closes them", SEEN_WITHIN, || {
            open_by_daemons(cri.containerd).is_subset(&before)
        });
    });
}

/// Device and inode.
fn identity(file: &Path) -> Option<(u64, u64)> {
    fs::metadata(file).ok().map(|found| (found.dev(), found.ino()))
}

/// The files that virtiofsd has open.
fn open_by_daemons(containerd: &Containerd) -> HashSet<(u64, u64)> {
    let daemons = containerd.processes_of("virtiofsd");
    let folders = daemons.iter().filter_map(|daemon| fs::read_dir(format!("/proc/{}/fd", daemon.pid)).ok());
    folders.flatten().flatten().filter_map(|descriptor| identity(&descriptor.path())).collect()
}

#[test]
fn hooks_in_the_guest_may_run_programs_that_the_configuration_shares() {
    kata_test(|containerd| {
        let dir = containerd.directory();
        let (tools, notes) = (dir.join("tools"), dir.join("notes"));
        fs::create_dir_all(&tools).unwrap();
        fs::create_dir_all(&notes).unwrap();
        fs::copy("/bin/busybox", tools.join("busybox")).unwrap();
        let named = format!("[\"{}\", \"{}:rw\"]", tools.display(), notes.display());
        containerd.configure(&[("sandbox_bind_mounts", &named)]);
        let place = "/run/kata-containers/shared/containers/sandbox-mounts";
        let line = format!(
            "echo hook > {place}/notes/file; echo x > {place}/tools/file || echo refused >> {place}/notes/file"
        );
        let run = containerd.container().spec(|spec| {
            spec["hooks"] = json!({ "createContainer": [
                { "path": format!("{place}/tools/busybox"), "args": ["busybox", "sh", "-c", line] }
            ] });
            spec["process"]["args"] = json!(["/bin/sh", "-c", format!("ls {place}")]);
        });
        let run = run.run();
        assert_eq!(fs::read_to_string(notes.join("file")).unwrap_or_default(), "hook\nrefused\n", "{run:?}");
        run.fails_because("No such file or directory");
        assert!(!tools.join("file").exists());
    });
}

/// How long a change on the host stays unseen: by what `virtio_fs_cache` means.
#[test]
fn the_cache_mode_decides_how_soon_a_change_on_the_host_is_seen() {
    kata_test(|containerd| {
        for (mode, at_once, later) in [
            ("never", true, true),
            ("metadata", false, false),
            ("auto", false, true),
            ("always", false, false),
        ] {
            let data = containerd.directory().join(mode);
            fs::create_dir(&data).unwrap();
            fs::write(data.join("file"), "1").unwrap();
            containerd.configure(&[("virtio_fs_cache", &format!("\"{mode}\""))]);
            let container = containerd.container().bind(&Bind::writable(&data, "/data"));
            // The shell stays, so that nothing but the change lies between its two looks.
            let line = "stat -c %s /data/file; read x; stat -c %s /data/file; sleep 2; stat -c %s /data/file";
            let mut run = container.shell(line).attach();
            run.expect_line("1");
            fs::write(data.join("file"), "longer").unwrap();
            run.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
            let text = run.finish_within(Duration::from_secs(30)).text();
            let seen: Vec<&str> = text.lines().collect();
            if at_once {
                assert_eq!(seen[seen.len() - 2], "6", "{mode}: {text}");
            }
            assert_eq!(seen[seen.len() - 1] == "6", later, "{mode}: {text}");
        }
    });
}

#[test]
fn the_queue_to_the_daemon_is_as_long_as_configured() {
    kata_test(|containerd| {
        containerd.configure(&[("virtio_fs_queue_size", "64")]);
        let data = containerd.directory();
        let container = containerd.container().bind(&Bind::writable(&data, "/data"));
        let container = container.command(["/bin/sleep", "1000"]).start();
        // More at once than there is room for in the queue.
        let line = "for i in $(seq 100); do dd if=/dev/zero of=/data/$i bs=1M count=1 conv=fsync 2> /dev/null & done; \
                    wait; cat /data/* | wc -c";
        assert_eq!(container.shell(line), (100 << 20).to_string());
        let vm = containerd.processes_of("qemu-system-x86_64");
        assert!(vm.iter().all(|process| process.command.contains("queue-size=64")), "{vm:?}");
        container.remove();
    });
}

/// virtiofsd holds a descriptor for each file that the guest remembers: with none left nothing could be opened any more.
#[test]
fn a_container_may_have_seen_more_files_than_virtiofsd_may_open() {
    kata_test(|containerd| {
        containerd.configure(&[("virtio_fs_extra_args", "[\"--rlimit-nofile=1500\"]")]);
        let container = containerd.container().command(["sleep", "1000"]).start();
        let line =
            "mkdir /many && cd /many && seq 3000 | xargs touch && ls | wc -l && ls -l | wc -l && rm -r /many";
        assert_eq!(container.shell(line), "3000\n3001");
        container.remove();
    });
}

#[test]
fn an_argument_that_breaks_the_daemons_walls_is_refused() {
    kata_test(|containerd| {
        containerd.configure(&[("virtio_fs_extra_args", "[\"--sandbox=none\"]")]);
        containerd.container().shell("true").run().fails_because("cannot have \"--sandbox=none\"");
    });
}

/// Links of the workload's own lead nowhere but into its container.
#[test]
fn a_link_in_a_volume_leads_into_the_container() {
    test(|containerd| {
        let data = containerd.directory();
        symlink("/etc/hostname-of-the-host", data.join("link")).unwrap();
        fs::write(data.join("x"), "").unwrap();
        let line = "echo own > /etc/hostname-of-the-host; cat /data/link";
        let run = containerd.container().bind(&Bind::writable(&data, "/data")).shell(line).run();
        assert_eq!(run.ok().text(), "own");
    });
}
