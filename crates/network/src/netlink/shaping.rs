//! Traffic control (tc(8)): the queueing discipline of what an interface sends, as far as a limit of its rate needs it
//! (tc-tbf(8)).

use std::io;

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use super::Socket;
use super::traffic::to;

const KIND: &str = "tbf";
/// By which our disciplines are known: "ka" in ASCII, `6b61:` in tc's words.
const OURS: TcHandle = TcHandle { major: 0x6b61, minor: 0 };
/// Attributes and a value of `linux/pkt_sched.h`.
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TC_LINKLAYER_ETHERNET: u8 = 1;
/// The largest packet that the kernel passes on in one piece, with room for headers.
const LEAST_BURST: u64 = 72 * 1024;
/// What may wait for its turn, as a time: longer queues only add delay.
const QUEUE_MS: u64 = 50;

/// To whom the sending side of an interface belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sending {
    /// It is as the kernel made it.
    Free,
    /// It has a limit of ours.
    Limited,
    /// Another program has a discipline there.
    Other,
}

impl Socket {
    /// What stands at the sending side of the interface with this index.
    pub(crate) fn sending(&mut self, index: u32) -> io::Result<Sending> {
        Ok(match self.discipline(index, TcHandle::ROOT)? {
            Some(message) if message.header.handle == OURS => Sending::Limited,
            // The kernel's own have no number.
            Some(message) if message.header.handle.major != 0 => Sending::Other,
            _ => Sending::Free,
        })
    }

    /// Lets the interface send at most `rate` bits per second; packets beyond that wait, then are lost.
    pub(crate) fn limit(&mut self, index: u32, rate: u64) -> io::Result<()> {
        let bytes = (rate / 8).max(1);
        // What arrives in 10 ms, the resolution of slow kernels' clocks.
        let burst = (bytes / 100).max(LEAST_BURST);
        let queue = burst.saturating_add(bytes.saturating_mul(QUEUE_MS) / 1000);
        let [burst, queue] = [burst, queue].map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
        let mut message = root(index)?;
        message.attributes = vec![
            TcAttribute::Kind(KIND.to_owned()),
            TcAttribute::Options(vec![
                option(TCA_TBF_PARMS, parameters(bytes, queue)),
                option(TCA_TBF_RATE64, bytes.to_ne_bytes().to_vec()),
                option(TCA_TBF_BURST, burst.to_ne_bytes().to_vec()),
            ]),
        ];
        self.request(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Deletes a limit of ours.
    pub(crate) fn delete_limit(&mut self, index: u32) -> io::Result<()> {
        self.request(RouteNetlinkMessage::DelQueueDiscipline(root(index)?), 0)
    }
}

fn root(index: u32) -> io::Result<TcMessage> {
    let mut message = to(index)?;
    message.header.parent = TcHandle::ROOT;
    message.header.handle = OURS;
    Ok(message)
}

fn option(kind: u16, value: Vec<u8>) -> TcOption {
    TcOption::Other(DefaultNla::new(kind, value))
}

/// `struct tc_tbf_qopt`: two `tc_ratespec` (the second for a peak that there is none of), then limit, buffer, MTU.
fn parameters(bytes_per_second: u64, queue: u32) -> Vec<u8> {
    let low = u32::try_from(bytes_per_second).unwrap_or(u32::MAX);
    let rate = [&[0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0], low.to_ne_bytes().as_slice()].concat();
    [rate.as_slice(), &[0; 12], &queue.to_ne_bytes(), &[0; 8]].concat()
}
