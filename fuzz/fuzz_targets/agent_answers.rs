//! What an agent answers, which the host trusts in nothing: decoding, and what is told to the user. The first byte says
//! which answer.
#![no_main]

use kata_fuzz::is_printable;
use kata_protocol::{agent, kata};
use kata_sandbox::{Timeline, fuzzing};
use libfuzzer_sys::fuzz_target;
use protobuf::Message;
use ttrpc::proto::Response;

fuzz_target!(|input: &[u8]| {
    if let Some((kind, body)) = input.split_first() {
        // What is not understood is an error of ttRPC.
        let _ = handle(*kind, body);
    }
});

fn handle(kind: u8, body: &[u8]) -> protobuf::Result<()> {
    match kind % 5 {
        0 => {
            let (phases, version) = fuzzing::started(kata::StartSandboxResponse::parse_from_bytes(body)?);
            assert!(
                version.is_none_or(|version| is_printable(&version)),
                "the version controls the terminal"
            );
            shown(&fuzzing::timeline(&phases));
        }
        1 => {
            let answer = kata::PidsResponse::parse_from_bytes(body)?;
            let told = answer.pids.len();
            assert_eq!(fuzzing::pids(answer).len(), told);
        }
        2 => {
            let answer = kata::StatsResponse::parse_from_bytes(body)?;
            let told = answer.io.len();
            assert_eq!(fuzzing::stats(answer).io.len(), told);
        }
        3 => drop(fuzzing::upstream_stats(agent::StatsContainerResponse::parse_from_bytes(body)?)),
        _ => {
            let answer = Response::parse_from_bytes(body)
                .map_err(|_| protobuf::Error::from(std::io::Error::other("")))?;
            let text = fuzzing::refusal(answer.status.get_or_default());
            assert!(is_printable(&text), "a refusal controls the terminal: {text:?}");
        }
    }
    Ok(())
}

/// `kata-runtime timeline` shows it.
fn shown(timeline: &Timeline) {
    for span in &timeline.spans {
        assert!(is_printable(&span.name), "a phase controls the terminal: {:?}", span.name);
    }
    let text = serde_json::to_vec(timeline).expect("is data");
    assert_eq!(&serde_json::from_slice::<Timeline>(&text).expect("was written by us"), timeline);
}
