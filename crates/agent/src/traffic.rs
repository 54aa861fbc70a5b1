//! What went through the network interfaces, from `/proc/net/dev`.

use std::fs;

use kata_protocol::agent::NetworkStats;

/// All interfaces of the guest, which its containers share.
pub(crate) fn read() -> Vec<NetworkStats> {
    parse(&fs::read_to_string("/proc/net/dev").unwrap_or_default())
}

/// Two lines of headings, then per interface its name, eight numbers of what came in and eight of what went out.
fn parse(table: &str) -> Vec<NetworkStats> {
    table.lines().skip(2).filter_map(interface).collect()
}

fn interface(line: &str) -> Option<NetworkStats> {
    // A name may hold a colon (an alias); the numbers hold none.
    let (name, numbers) = line.rsplit_once(':')?;
    let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let (received, sent) = numbers.split_at_checked(8)?;
    let &[rx_bytes, rx_packets, rx_errors, rx_dropped, ..] = received else { return None };
    let &[tx_bytes, tx_packets, tx_errors, tx_dropped, ..] = sent else { return None };
    Some(NetworkStats {
        name: name.trim().to_owned(),
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     168       2    0    0    0     0          0         0      168       2    0    0    0     0       0          0
  eth0:12345678    9012    3    4    5     6          7         8  8765432    2109    1    2    3     4       5          6
";

    #[test]
    fn every_interface_is_read() {
        let interfaces = parse(TABLE);
        assert_eq!((interfaces[0].name.as_str(), interfaces[0].rx_bytes), ("lo", 168));
        let eth0 = &interfaces[1];
        assert_eq!(
            (eth0.rx_bytes, eth0.rx_packets, eth0.rx_errors, eth0.rx_dropped),
            (12_345_678, 9012, 3, 4)
        );
        assert_eq!(
            (eth0.tx_bytes, eth0.tx_packets, eth0.tx_errors, eth0.tx_dropped),
            (8_765_432, 2109, 1, 2)
        );
    }

    #[test]
    fn a_line_that_is_cut_short_is_left_out() {
        assert_eq!(parse("\n\n  eth0: 1 2 3\n"), []);
    }

    #[test]
    fn there_is_a_loopback_here() {
        assert!(read().iter().any(|interface| interface.name == "lo"));
    }
}
