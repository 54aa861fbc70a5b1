//! The agent's spans on their way to whoever traces the sandbox.

use kata_protocol::{kata, ports};
use kata_trace::{Context, Open, Tracer, next_frame, spans};
use kata_transport::Dialer;

use crate::error::chain;
use crate::jobs::{Reach, Site};
use crate::timeline::{Moment, phase, zero};

/// Who traces a sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Traced {
    pub(crate) tracer: Tracer,
    /// The agent has spans of its own.
    pub(crate) agent_too: bool,
}

/// The agent's spans do not arrive.
#[derive(Debug, thiserror::Error)]
enum SpansError {
    /// No stream.
    #[error(transparent)]
    Transport(#[from] kata_transport::Error),
    /// The stream broke.
    #[error("The agent's spans cannot be read")]
    Read(#[from] std::io::Error),
    /// There is something else on it.
    #[error(transparent)]
    Bad(#[from] kata_trace::BadSpans),
}

impl Traced {
    /// The span of the request that configures the guest: a phase of the sandbox's start.
    pub(crate) fn open_start(&self) -> Open {
        self.tracer.open(phase::START_SANDBOX, Some(self.tracer.join(None)))
    }
}

impl Site {
    /// The agent's spans from here on; of an agent that has none, its phases, which came with the answer to the request
    /// that this context is of.
    pub(crate) fn follow_spans(
        &self,
        reach: &Reach,
        phases: &[kata::Phase],
        (start, answered): (Context, Moment),
    ) {
        let Some(Traced { tracer, agent_too }) = self.recorder.traced() else { return };
        let Some(zero) = zero(phases, answered) else { return };
        if !*agent_too {
            for phase in phases {
                let (began, ended) = (zero + phase.start_us, zero + phase.end_us);
                tracer.phase_of(start, &phase.name, began, ended);
            }
            return;
        }
        let (dialer, tracer) = (reach.dialer.clone(), tracer.clone());
        let (id, gone) = (self.id.clone(), self.gone.clone());
        tokio::spawn(async move {
            // An error of the outer kind is the sandbox's end.
            if let Ok(Err(error)) = gone.unless(take(&dialer, &tracer, zero)).await {
                tracing::warn!(sandbox = %id, error = chain(&error), "The agent's spans are lost from here on");
            }
        });
    }
}

async fn take(dialer: &Dialer, tracer: &Tracer, zero: u64) -> Result<(), SpansError> {
    let mut stream = dialer.connect(ports::TRACE).await?.stream;
    while let Some(message) = next_frame(&mut stream).await? {
        tracer.guest(spans(&message)?, zero);
    }
    Ok(())
}
