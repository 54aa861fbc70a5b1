//! The systemd that runs this host: cgroups that it is to know are its units.
//!
//! Where it runs, it owns the tree. It may take controllers from a cgroup that it has not made, and shows it nowhere.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustbus::message_builder::{MarshalledMessage, MessageBuilder};
use rustbus::wire::ObjectPath;
use rustbus::wire::errors::MarshalError;
use rustbus::{Marshal, Signature, standard_messages};

use crate::bus::{Bus, BusError};

/// Below `/run`: what sd_booted(3) looks for.
const BOOTED: &str = "systemd/system";
/// Below `/run`: the documented way to it.
const SYSTEM_BUS: &str = "dbus/system_bus_socket";
/// Below `/run`: its own, for hosts without a D-Bus. There is no broker between, and every signal comes.
const PRIVATE: &str = "systemd/private";

/// As long as D-Bus's own libraries wait: a large host's systemd is busy for seconds while it reads its units again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(25);

const NAME: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const NO_REPLY: &str = "org.freedesktop.DBus.Error.NoReply";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// A scope was not made, or not ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ScopeError {
    /// systemd gave no answer, or a refusal.
    #[error("Cannot {verb} the scope {unit} by systemd at {}: {reason}; `systemctl status {unit}` and the journal of PID 1 may tell more", socket.display())]
    Asked {
        /// What was asked for.
        verb: &'static str,
        /// The unit.
        unit: String,
        /// Where systemd was asked.
        socket: PathBuf,
        /// What it said.
        reason: String,
        /// Whether it has certainly not been done, and will not be.
        is_certain: bool,
    },
    /// systemd tried.
    #[error(
        "systemd could not {verb} the scope {unit}, its job ended as {result:?}; `journalctl --unit {unit}` says why"
    )]
    Job {
        /// What was asked for.
        verb: &'static str,
        /// The unit.
        unit: String,
        /// systemd's word for the job's end.
        result: String,
    },
}

impl ScopeError {
    /// Whether it is certain that no unit has been made.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Job { .. } | Self::Asked { is_certain: true, .. })
    }
}

/// A way to systemd.
#[derive(Debug, Clone)]
pub struct Systemd {
    socket: PathBuf,
    patience: Duration,
}

/// A unit of processes that somebody else has started.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) unit: String,
    pub(crate) slice: String,
    pub(crate) description: String,
}

/// What a unit's property is set to.
#[derive(Marshal, Signature)]
enum Value<'a> {
    Text(&'a str),
    Switch(bool),
    Number(u64),
    Numbers(Vec<u32>),
}

impl Systemd {
    /// This host's, if systemd runs it and can be reached.
    #[must_use]
    pub fn of_host() -> Option<Self> {
        Self::below(Path::new("/run"))
    }

    fn below(run: &Path) -> Option<Self> {
        let sockets = [SYSTEM_BUS, PRIVATE].map(|socket| run.join(socket));
        let socket = sockets.into_iter().find(|socket| socket.exists())?;
        run.join(BOOTED).is_dir().then(|| Self::at(socket))
    }

    /// The one that is reached by this socket, of a bus or its own.
    #[must_use]
    pub fn at(socket: PathBuf) -> Self {
        Self { socket, patience: PATIENCE }
    }

    /// Where it is reached.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Makes a scope of these processes, and waits until they are in it.
    pub(crate) fn start(&self, scope: &Scope, processes: &[u32]) -> Result<(), ScopeError> {
        self.job("start", &scope.unit, scope.request(processes))
    }

    /// Ends a scope with all that is in it, if it is there.
    ///
    /// # Errors
    /// It may still be there.
    pub fn stop(&self, unit: &str) -> Result<(), ScopeError> {
        let request = |message: &mut MarshalledMessage| message.body.push_param2(unit, "replace");
        self.job("stop", unit, method("StopUnit", request))
    }

    /// Lets systemd do something with a unit, and waits until it has.
    fn job(
        &self,
        verb: &'static str,
        unit: &str,
        request: Result<MarshalledMessage, MarshalError>,
    ) -> Result<(), ScopeError> {
        let failed = |error: BusError, is_certain| {
            let (unit, socket, reason) = (unit.to_owned(), self.socket.clone(), error.to_string());
            ScopeError::Asked { verb, unit, socket, reason, is_certain }
        };
        let prepared = request.map_err(BusError::from).and_then(|request| Ok((self.connect()?, request)));
        let (mut bus, request) = prepared.map_err(|error| failed(error, true))?;
        match result_of(&mut bus, &request) {
            Ok(result) if result == "done" => Ok(()),
            Ok(result) => Err(ScopeError::Job { verb, unit: unit.to_owned(), result }),
            Err(BusError::Refused { name, .. }) if verb == "stop" && name == NO_SUCH_UNIT => Ok(()),
            Err(error) => {
                // The broker says so where systemd leaves the bus.
                let is_certain = matches!(&error, BusError::Refused { name, .. } if name != NO_REPLY);
                Err(failed(error, is_certain))
            }
        }
    }

    /// A connection that hears of jobs' ends.
    fn connect(&self) -> Result<Bus, BusError> {
        let mut bus = Bus::connect(&self.socket, self.patience)?;
        if !self.socket.ends_with(PRIVATE) {
            bus.call(&standard_messages::hello())?;
            let rule = format!("type='signal',sender='{NAME}',interface='{INTERFACE}',member='JobRemoved'");
            bus.call(&standard_messages::add_match(&rule))?;
            bus.call(&method("Subscribe", |_| Ok(()))?)?;
        }
        Ok(bus)
    }
}

/// How the job that a request makes has ended.
fn result_of(bus: &mut Bus, request: &MarshalledMessage) -> Result<String, BusError> {
    let answer = bus.call(request)?;
    let job = answer.body.parser().get::<ObjectPath<String>>()?;
    loop {
        let signal = bus.signal()?;
        let header = &signal.dynheader;
        // Others on the bus may send what they like.
        let is_its_own = header.sender == answer.dynheader.sender
            && header.interface.as_deref() == Some(INTERFACE)
            && header.member.as_deref() == Some("JobRemoved");
        if is_its_own {
            let mut body = signal.body.parser();
            let (_, ended, _) = body.get3::<u32, ObjectPath<String>, String>()?;
            if ended.as_ref() == job.as_ref() {
                return Ok(body.get::<String>()?);
            }
        }
    }
}

impl Scope {
    /// What asks for it, with these processes from its beginning. It goes by itself, failed or not, once the last of them
    /// has ended; and has no limit of its own, which systemd would else give it for tasks.
    fn request(&self, processes: &[u32]) -> Result<MarshalledMessage, MarshalError> {
        let properties = vec![
            ("Description", Value::Text(&self.description)),
            ("Slice", Value::Text(&self.slice)),
            ("Delegate", Value::Switch(true)),
            ("PIDs", Value::Numbers(processes.to_owned())),
            ("DefaultDependencies", Value::Switch(false)),
            ("CollectMode", Value::Text("inactive-or-failed")),
            ("TasksMax", Value::Number(u64::MAX)),
        ];
        let others: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
        method("StartTransientUnit", |message| {
            message.body.push_param4(self.unit.as_str(), "fail", properties, others)
        })
    }
}

/// A call of the manager's.
fn method(
    member: &str,
    body: impl FnOnce(&mut MarshalledMessage) -> Result<(), MarshalError>,
) -> Result<MarshalledMessage, MarshalError> {
    let call = MessageBuilder::new().call(member).on(OBJECT).with_interface(INTERFACE).at(NAME);
    let mut message = call.build();
    body(&mut message)?;
    Ok(message)
}

#[cfg(test)]
pub(crate) mod stand_in;
#[cfg(test)]
mod tests;
