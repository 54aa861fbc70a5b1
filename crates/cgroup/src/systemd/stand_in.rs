//! A bus of a test's own with something on it that answers as systemd does.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustbus::message_builder::{MarshalledMessage, MessageBuilder, MessageType};
use rustbus::params::{Base, Container, Param};
use rustbus::standard_messages;
use rustbus::wire::ObjectPath;
use tempfile::TempDir;

use super::{INTERFACE, NAME, OBJECT, Systemd};
use crate::bus::Bus;

/// What it does with a request for a unit.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    /// The job ends with this word.
    EndsAs(&'static str),
    /// The request is answered with this error.
    Refuses(&'static str),
    /// Nothing.
    IsSilent,
    /// The bus is gone before there is an answer.
    Vanishes,
}

/// A request for a unit.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) unit: String,
    pub(crate) mode: String,
    /// By name, as Rust shows them.
    pub(crate) properties: HashMap<String, String>,
    pub(crate) processes: Vec<u32>,
    /// The programs that those were at the time.
    pub(crate) programs: Vec<PathBuf>,
}

pub(crate) struct StandIn {
    directory: TempDir,
    daemon: Arc<Mutex<Child>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    server: Option<JoinHandle<()>>,
}

const CONFIGURATION: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=SOCKET</listen>
  <policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>
"#;

impl StandIn {
    pub(crate) fn new(manner: Manner) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (file, socket) = (directory.path().join("bus.conf"), directory.path().join("bus"));
        fs::write(&file, CONFIGURATION.replace("SOCKET", socket.to_str().unwrap())).unwrap();
        let mut command = Command::new("dbus-daemon");
        command.args(["--nofork", "--print-address", "--config-file"]).arg(&file).stdout(Stdio::piped());
        let mut daemon = command.spawn().expect("the package dbus-daemon is installed");
        // It listens when it has said where.
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let mut stand_in =
            Self { directory, daemon: Arc::new(Mutex::new(daemon)), asked: Arc::default(), server: None };
        let mut bus = stand_in.connect();
        bus.call(&standard_messages::request_name(NAME, 0)).unwrap();
        let service = Service {
            bus,
            manner,
            daemon: Arc::clone(&stand_in.daemon),
            asked: Arc::clone(&stand_in.asked),
            stranger: stand_in.connect(),
        };
        stand_in.server = Some(std::thread::spawn(move || service.run()));
        stand_in
    }

    pub(crate) fn systemd(&self) -> Systemd {
        Systemd::at(self.directory.path().join("bus"))
    }

    pub(crate) fn systemd_within(&self, patience: Duration) -> Systemd {
        Systemd { patience, ..self.systemd() }
    }

    /// What it was asked for until now.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn connect(&self) -> Bus {
        let mut bus = Bus::connect(&self.directory.path().join("bus"), Duration::from_secs(60)).unwrap();
        bus.call(&standard_messages::hello()).unwrap();
        bus
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let mut daemon = self.daemon.lock().unwrap();
        // It may have gone before.
        daemon.kill().ok();
        daemon.wait().unwrap();
        drop(daemon);
        let ended = self.server.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

struct Service {
    bus: Bus,
    manner: Manner,
    daemon: Arc<Mutex<Child>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Somebody else on the bus.
    stranger: Bus,
}

impl Service {
    /// Until the bus is gone.
    fn run(mut self) {
        while let Ok(call) = self.bus.receive() {
            match call.dynheader.member.as_deref() {
                _ if call.typ != MessageType::Call => {}
                Some("Subscribe") => self.answer(&call.dynheader.make_response()),
                Some("StartTransientUnit" | "StopUnit") => self.unit(&call),
                other => panic!("{other:?} is asked for"),
            }
        }
    }

    fn answer(&mut self, message: &MarshalledMessage) {
        self.bus.send(message).unwrap();
    }

    fn unit(&mut self, call: &MarshalledMessage) {
        assert_eq!(call.dynheader.interface.as_deref(), Some(INTERFACE));
        assert_eq!(call.dynheader.object.as_deref(), Some(OBJECT));
        self.asked.lock().unwrap().push(asked(call));
        match self.manner {
            Manner::EndsAs(result) => {
                let job = "/org/freedesktop/systemd1/job/7";
                let mut answer = call.dynheader.make_response();
                answer.body.push_param(ObjectPath::new(job).unwrap()).unwrap();
                self.answer(&answer);
                let caller = call.dynheader.sender.clone().unwrap();
                self.stranger.send(&removed(job, "by a stranger", Some(caller))).unwrap();
                self.answer(&removed("/org/freedesktop/systemd1/job/6", "of another", None));
                self.answer(&removed(job, result, None));
            }
            Manner::Refuses(name) => {
                self.bus.write(&refusal(call, name, "it is so")).unwrap();
            }
            Manner::IsSilent => {}
            Manner::Vanishes => self.daemon.lock().unwrap().kill().unwrap(),
        }
    }
}

fn removed(job: &str, result: &str, to: Option<String>) -> MarshalledMessage {
    let mut signal = MessageBuilder::new().signal(INTERFACE, "JobRemoved", OBJECT);
    if let Some(to) = to {
        signal = signal.to(to);
    }
    let mut signal = signal.build();
    signal.body.push_param4(7_u32, ObjectPath::new(job).unwrap(), "x.scope", result).unwrap();
    signal
}

/// An error in answer to a call, in bytes: rustbus writes no name of an error.
fn refusal(call: &MarshalledMessage, name: &str, text: &str) -> Vec<u8> {
    let string = |text: &str| [&length(text), text.as_bytes(), b"\0"].concat();
    let (to, reply_to) = (call.dynheader.sender.as_deref().unwrap(), call.dynheader.serial.unwrap());
    let mut fields = [b"\x05\x01u\0".to_vec(), reply_to.to_le_bytes().to_vec()].concat();
    for (code, value) in [(6, to), (4, name)] {
        fields.resize(fields.len().next_multiple_of(8), 0);
        fields.extend([&[code], b"\x01s\0".as_slice(), &string(value)].concat());
    }
    fields.resize(fields.len().next_multiple_of(8), 0);
    fields.extend(b"\x08\x01g\0\x01s\0");
    let body = string(text);
    let lengths = [body.len(), 9999, fields.len()].map(|number| u32::try_from(number).unwrap().to_le_bytes());
    fields.resize(fields.len().next_multiple_of(8), 0);
    [b"l\x03\0\x01".as_slice(), &lengths.concat(), &fields, &body].concat()
}

fn length(text: &str) -> [u8; 4] {
    u32::try_from(text.len()).unwrap().to_le_bytes()
}

fn asked(call: &MarshalledMessage) -> Asked {
    let method = call.dynheader.member.clone().unwrap();
    let mut body = call.body.parser();
    let (unit, mode) = body.get2::<String, String>().unwrap();
    let mut asked = Asked { method, unit, mode, ..Asked::default() };
    if asked.method == "StopUnit" {
        assert_eq!(call.get_sig(), "ss");
        return asked;
    }
    assert_eq!(call.get_sig(), "ssa(sv)a(sa(sv))");
    let Param::Container(Container::Array(properties)) = body.get_param().unwrap() else {
        panic!("no array")
    };
    for property in properties.values {
        let Param::Container(Container::Struct(pair)) = property else { panic!("no pair") };
        let [Param::Base(Base::String(name)), Param::Container(Container::Variant(value))] = &pair[..] else {
            panic!("no name and value: {pair:?}")
        };
        if let Param::Container(Container::Array(numbers)) = &value.value {
            asked.processes.extend(numbers.values.iter().map(|number| match number {
                Param::Base(Base::Uint32(number)) => *number,
                other => panic!("no number of a process: {other:?}"),
            }));
        }
        let shown = match &value.value {
            Param::Base(Base::String(text)) => text.clone(),
            other => format!("{other:?}"),
        };
        asked.properties.insert(name.clone(), shown);
    }
    let exe = |process| fs::read_link(format!("/proc/{process}/exe")).unwrap();
    asked.programs = asked.processes.iter().map(exe).collect();
    asked
}
