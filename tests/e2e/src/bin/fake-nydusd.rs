//! A stand-in for nydusd: its arguments and its management interface, over a real virtiofsd.
//!
//! What is mounted is bound, in a mount namespace of its own, into the directory that virtiofsd shares. An image is the
//! directory that its configuration names as the backend's. Each request is written down, a line of JSON each.
//!
//! Two arguments are its own: `--virtiofsd` (the program), `--record` (where requests are written down).

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, exit};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

type Done<T> = Result<T, Box<dyn Error>>;

/// nydusd's own arguments that have a value.
const KNOWN: [&str; 5] = ["--log-level", "--apisock", "--sock", "--virtiofsd", "--record"];
const MOUNT: &str = "/api/v1/mount?mountpoint=";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Done<()> {
    let given = arguments()?;
    let value = |name: &str| given.get(name).ok_or_else(|| format!("{name} is missing"));
    let (api, vmm) = (PathBuf::from(value("--apisock")?), value("--sock")?);
    let listener = UnixListener::bind(&api)?;
    let tree = api.with_extension("tree");
    fs::create_dir(&tree)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    // What the host mounts later is seen, and nothing of ours gets out.
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)?;
    mount(Some("tree"), &tree, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))?;
    let mut virtiofsd = Command::new(value("--virtiofsd")?)
        .arg("--shared-dir")
        .arg(&tree)
        .args(["--sandbox=none", "--seccomp=none", "--cache=auto", "--xattr", "--log-level=warn"])
        // As nydusd: to the guest its tree is one file system. An overlay takes no lower layer that is still to be mounted.
        .arg("--no-announce-submounts")
        // For the attributes of an overlay's upper layer.
        .args(["--modcaps=+sys_admin", "--socket-path", vmm.as_str()])
        .spawn()?;
    // As nydusd, it ends with its VM, which virtiofsd does.
    thread::spawn(move || exit(virtiofsd.wait().ok().and_then(|status| status.code()).unwrap_or(1)));
    let mut server = Server { tree, record: value("--record")?.into(), asked: 0 };
    for stream in listener.incoming() {
        server.serve(stream?)?;
    }
    Ok(())
}

fn arguments() -> Done<HashMap<String, String>> {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() != Some("virtiofs") || words.next().as_deref() != Some("--hybrid-mode") {
        return Err("not started as `nydusd virtiofs --hybrid-mode`".into());
    }
    let mut given = HashMap::new();
    while let Some(name) = words.next() {
        if !KNOWN.contains(&name.as_str()) {
            return Err(format!("{name} is not understood").into());
        }
        let value = words.next().ok_or_else(|| format!("{name} has no value"))?;
        given.insert(name, value);
    }
    Ok(given)
}

struct Server {
    tree: PathBuf,
    record: PathBuf,
    asked: usize,
}

impl Server {
    fn serve(&mut self, stream: UnixStream) -> Done<()> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(()) };
        let body = body(&mut reader)?;
        let mut record = OpenOptions::new().create(true).append(true).open(&self.record)?;
        writeln!(record, "{}", json!({ "method": method, "target": target, "body": body }))?;
        let (status, answer) = match self.answer(&method, &target, &body) {
            Ok(None) => ("204 No Content", String::new()),
            Ok(Some(answer)) => ("200 OK", answer.to_string()),
            Err(error) => {
                let refusal = json!({ "code": "Undefined", "message": error.to_string() });
                ("500 Internal Server Error", refusal.to_string())
            }
        };
        let length = answer.len();
        let mut stream = reader.into_inner();
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}")?;
        Ok(())
    }

    fn answer(&mut self, method: &str, target: &str, body: &str) -> Done<Option<Value>> {
        if (method, target) == ("GET", "/api/v1/daemon") {
            // It is not ready when it is asked for the first time.
            let state = if self.asked == 0 { "INIT" } else { "RUNNING" };
            self.asked += 1;
            return Ok(Some(json!({ "id": null, "state": state, "backend_collection": {} })));
        }
        let mountpoint = target.strip_prefix(MOUNT).ok_or("there is no such interface")?;
        let place = self.tree.join(mountpoint.strip_prefix('/').ok_or("no absolute path")?);
        match method {
            "POST" => bind(&source(&serde_json::from_str(body)?)?, &place)?,
            "DELETE" => {
                umount2(&place, MntFlags::MNT_DETACH)?;
                fs::remove_dir(&place)?;
            }
            _ => return Err("there is no such method".into()),
        }
        Ok(None)
    }
}

fn body(reader: &mut impl BufRead) -> Done<String> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse()?;
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = String::new();
    reader.take(length).read_to_string(&mut body)?;
    Ok(body)
}

/// The directory that stands for a file system.
fn source(asked: &Value) -> Done<PathBuf> {
    let text = |name: &str| asked[name].as_str().ok_or_else(|| format!("{name} is no text"));
    let (source, config) = (text("source")?, text("config")?);
    match text("fs_type")? {
        "passthrough_fs" if config.is_empty() => Ok(source.into()),
        "rafs" => {
            fs::metadata(source).map_err(|error| format!("the bootstrap {source}: {error}"))?;
            let config: Value = serde_json::from_str(config)?;
            let backend = &config["device"]["backend"];
            match backend["config"]["dir"].as_str() {
                Some(dir) if backend["type"] == "localfs" => Ok(dir.into()),
                _ => Err("a backend that is not understood".into()),
            }
        }
        _ => Err("a file system that is not understood".into()),
    }
}

fn bind(source: &Path, place: &Path) -> Done<()> {
    if place.exists() {
        return Err("something is mounted there".into());
    }
    fs::create_dir_all(place)?;
    let none: Option<&str> = None;
    let bound = mount(Some(source), place, none, MsFlags::MS_BIND | MsFlags::MS_REC, none);
    if bound.is_err() {
        fs::remove_dir(place)?;
    }
    Ok(bound?)
}
