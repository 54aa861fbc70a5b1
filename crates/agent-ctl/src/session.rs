//! One connection to an agent, and commands that are run over it.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::Context;
use protobuf::MessageDyn;
use protobuf::reflect::MessageDescriptor;
use protobuf_json_mapping::PrintOptions;
use tokio::time::timeout;
use ttrpc::asynchronous::Client;

use crate::address::ServerAddress;
use crate::apis::Api;
use crate::command::{Command, Line, Step, Times};

/// A request was not answered as it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The agent says no.
    #[error("{api}: the agent refuses ({code}): {words}")]
    Refused {
        /// The request.
        api: String,
        /// ttRPC's name of the kind of refusal.
        code: String,
        /// Its own words.
        words: String,
    },
    /// It says nothing.
    #[error("{api}: no answer within {} ms; --timeout sets how long one may take", limit.as_millis())]
    TooLate {
        /// The request.
        api: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The conversation broke.
    #[error("{api}: the connection to the agent broke; has it ended?")]
    Broken {
        /// The request.
        api: String,
        /// How.
        source: ttrpc::Error,
    },
    /// What it says has another form.
    #[error("{api}: the answer is no {expected}; is the agent of another version?")]
    Form {
        /// The request.
        api: String,
        /// The message that it should be.
        expected: String,
        /// Why not.
        source: protobuf::Error,
    },
}

/// A connection, made when it is first needed.
pub(crate) struct Session {
    address: ServerAddress,
    limit: Option<Duration>,
    ignore_errors: bool,
    client: Option<Client>,
}

impl Session {
    /// Not connected yet. A limit of 0 is none.
    pub(crate) fn new(address: ServerAddress, limit: Duration, ignore_errors: bool) -> Self {
        Self { address, limit: Some(limit).filter(|limit| !limit.is_zero()), ignore_errors, client: None }
    }

    /// Runs commands; whether to end.
    pub(crate) async fn run(&mut self, steps: &[Step]) -> anyhow::Result<ControlFlow<()>> {
        for step in steps {
            let mut left = step.times;
            while left != Times::Count(0) {
                if let Times::Count(count) = &mut left {
                    *count -= 1;
                }
                match self.command(&step.command).await {
                    Ok(ControlFlow::Break(())) => return Ok(ControlFlow::Break(())),
                    Err(error) if self.ignore_errors && !is_output(&error) => {
                        eprintln!("kata-agent-ctl: {error:#}");
                    }
                    done => drop(done?),
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Runs a line that somebody types.
    pub(crate) async fn line(&mut self, line: Line) -> anyhow::Result<ControlFlow<()>> {
        match line {
            Line::Step(step) => self.run(&[step]).await,
            Line::Nothing | Line::Repeat(_) => Ok(ControlFlow::Continue(())),
        }
    }

    async fn command(&mut self, command: &Command) -> anyhow::Result<ControlFlow<()>> {
        match command {
            Command::Quit => return Ok(ControlFlow::Break(())),
            Command::Sleep(time) => sleep(*time).await,
            Command::Print(text) => print(text)?,
            Command::Call(api, request) => print(&self.call(api, request.as_ref()).await?)?,
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn client(&mut self) -> anyhow::Result<&Client> {
        let client = match self.client.take() {
            Some(client) => client,
            None => match self.limit {
                None => self.address.connect().await?,
                Some(limit) => {
                    let connected = timeout(limit, self.address.connect()).await;
                    connected.with_context(|| {
                        format!("No agent is reached at {} within {} ms", self.address, limit.as_millis())
                    })??
                }
            },
        };
        Ok(self.client.insert(client))
    }

    /// Sends a request; its answer as JSON.
    async fn call(&mut self, api: &Api, request: &dyn MessageDyn) -> anyhow::Result<String> {
        let payload = request.write_to_bytes_dyn().context("The request cannot be encoded")?;
        let nanoseconds = self.limit.map_or(0, |limit| i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX));
        let message = ttrpc::Request {
            service: api.service.clone(),
            method: api.method.clone(),
            payload,
            timeout_nano: nanoseconds,
            ..Default::default()
        };
        tracing::debug!(service = api.service, method = api.method, "request");
        let client = self.client().await?;
        let started = Instant::now();
        match client.request(message).await {
            Ok(response) => json(api, &response.payload),
            Err(error) => Err(self.failed(api, error, started.elapsed()).into()),
        }
    }

    /// Both sides know the limit: whichever says that it is over, it is over.
    fn failed(&mut self, api: &Api, error: ttrpc::Error, elapsed: Duration) -> CallError {
        let api = api.name();
        match (error, self.limit.filter(|limit| elapsed >= *limit)) {
            (_, Some(limit)) => CallError::TooLate { api, limit },
            (ttrpc::Error::RpcStatus(status), None) => {
                let code = match status.code.enum_value() {
                    Ok(code) => format!("{code:?}"),
                    Err(number) => format!("code {number}"),
                };
                CallError::Refused { api, code, words: status.message }
            }
            (source, None) => {
                // The next request makes another.
                self.client = None;
                CallError::Broken { api, source }
            }
        }
    }
}

/// Every field of an answer, by the protocol's names.
fn json(api: &Api, payload: &[u8]) -> anyhow::Result<String> {
    let descriptor: &MessageDescriptor = &api.output;
    let answer = descriptor.parse_from_bytes(payload).map_err(|source| CallError::Form {
        api: api.name(),
        expected: descriptor.full_name().to_owned(),
        source,
    })?;
    let options =
        PrintOptions { proto_field_name: true, always_output_default_values: true, ..Default::default() };
    protobuf_json_mapping::print_to_string_with_options(answer.as_ref(), &options)
        .with_context(|| format!("{}: the answer cannot be written as JSON", api.name()))
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

#[expect(clippy::disallowed_methods, reason = "it is what the user asks for")]
async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Nobody reads what is printed; that ends all.
fn is_output(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some()
}
