//! The pages for people. They need nothing from elsewhere; without JavaScript a browser loads them anew every ten seconds.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::timeline::Start;
use crate::discovery::Sandbox;
use crate::exposition::Text;
use crate::scrape::Scraped;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// What a page may do: use what stands in it, and ask this server.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'";

const ENDPOINTS: [(&str, &str); 5] = [
    ("/metrics", "figures of all sandboxes, for Prometheus"),
    ("/metrics?sandbox=ID", "those of one"),
    ("/sandboxes", "the ids of all sandboxes"),
    ("/agent-url?sandbox=ID", "where a sandbox's agent is reached"),
    ("/events", "what happens, as it happens"),
];

/// The endpoints, for who is no browser.
pub(super) fn plain() -> String {
    let line = |(path, what): &(&str, &str)| format!("{path:<24}{what}\n");
    format!(
        "kata-monitor {}\n\n{}",
        env!("CARGO_PKG_VERSION"),
        ENDPOINTS.iter().map(line).collect::<String>()
    )
}

/// The ids as links to the figures.
pub(super) fn list<'s>(ids: impl Iterator<Item = &'s Arc<str>>) -> String {
    let item = |id: &Arc<str>| {
        let id = escaped(id);
        format!(
            "<li><code>{id}</code> <a href=\"/metrics?sandbox={id}\">metrics</a> <a href=\"/agent-url?sandbox={id}\">agent</a></li>\n"
        )
    };
    let items: String = ids.map(item).collect();
    format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>Sandboxes</title>\n<style>{STYLE}</style>\n<h1>Sandboxes</h1>\n<ul>\n{items}</ul>\n"
    )
}

/// Everything at a glance.
pub(super) fn html(scraped: &Scraped) -> String {
    let rows: String = scraped.shims.iter().map(|(sandbox, text)| row(sandbox, text.as_ref())).collect();
    let count = scraped.shims.len();
    let silent = scraped.shims.iter().filter(|(_, text)| text.is_none()).count();
    let pods = if count == 1 { "1 sandbox".to_owned() } else { format!("{count} sandboxes") };
    let silent = if silent > 0 {
        format!(", <span class=\"bad\">{silent} without figures</span>")
    } else {
        String::new()
    };
    let rows = if count == 0 {
        "<tr><td colspan=\"6\">No sandbox runs on this node.</td></tr>\n".to_owned()
    } else {
        rows
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Kata Containers</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>\n<style>\n{STYLE}</style>\n\
         <h1>Kata Containers</h1>\n<nav><a href=\"/metrics\">metrics</a><a href=\"/sandboxes\">sandboxes</a>\
         <a href=\"/events\">events</a></nav>\n<main>\n<table>\n<caption>{pods}{silent}</caption>\n\
         <thead><tr><th>Pod<th>Sandbox<th class=\"n\">Age<th>Start<th class=\"n\">Memory<th class=\"n\">Network</tr></thead>\n\
         <tbody>\n{rows}</tbody>\n</table>\n</main>\n<script>\n{SCRIPT}</script>\n</html>\n"
    )
}

fn row(sandbox: &Sandbox, text: Option<&Text>) -> String {
    let pod = match &sandbox.pod {
        Some(pod) => format!("{}<br><small>{}</small>", escaped(&pod.name), escaped(&pod.namespace)),
        None => "<small>no name</small>".to_owned(),
    };
    let id = escaped(&sandbox.id);
    let short: String = sandbox.id.chars().take(12).collect();
    let start = Start::read(sandbox.dir())
        .map_or_else(|| "<small>not known</small>".to_owned(), |start| bar(&id, &start));
    let (memory, network) = text.map_or_else(silent, |text| (memory(text), network(text)));
    let age = age(sandbox);
    format!(
        "<tr id=\"{id}\"><td>{pod}<td><a href=\"/metrics?sandbox={id}\" title=\"{id}\"><code>{}</code></a>\
         <td class=\"n\">{age}<td>{start}<td class=\"n\">{memory}<td class=\"n\">{network}</tr>\n",
        escaped(&short)
    )
}

fn silent() -> (String, String) {
    ("<span class=\"bad\">no figures</span>".to_owned(), "–".to_owned())
}

/// Since the sandbox's directory was made, or was seen first.
fn age(sandbox: &Sandbox) -> String {
    let made = std::fs::metadata(sandbox.socket()).and_then(|metadata| metadata.modified());
    let age = SystemTime::now().duration_since(made.unwrap_or(sandbox.since)).unwrap_or_default();
    let seconds = age.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// The whole start, with its phases as bars to be opened.
fn bar(id: &str, start: &Start) -> String {
    let total = start.total.as_micros().max(1);
    let mut bars = String::new();
    let mut rows = String::new();
    for (line, phase) in start.phases.iter().enumerate() {
        let class = if phase.in_guest { "guest" } else { "host" };
        let width = (phase.length_us).max(u64::try_from(total / 400).unwrap_or(1));
        let name = escaped(&phase.name);
        let ms = millis(Duration::from_micros(phase.length_us));
        let end = "takes a string";
        write!(bars, "<rect class=\"{class}\" x=\"{}\" y=\"{}\" width=\"{width}\" height=\"3\"><title>{name}, {ms}</title></rect>", phase.start_us, line * 4).expect(end);
        write!(rows, "<tr><td>{name}<td>{class}<td class=\"n\">{ms}</tr>").expect(end);
    }
    let height = start.phases.len() * 4;
    format!(
        "<details id=\"start-{id}\"><summary>{} <small>{}</small></summary><table>{rows}</table></details>\
         <svg viewBox=\"0 0 {total} {height}\" height=\"{height}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"phases of the start\">{bars}</svg>",
        millis(start.total),
        escaped(&start.machine)
    )
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// What the guest uses of its memory, and what the pod costs the host beyond its containers.
fn memory(text: &Text) -> String {
    let item = |name: &str| {
        let mut samples = text.samples("kata_guest_meminfo");
        samples.find(|sample| sample.label("item") == Some(name)).map(|sample| sample.value())
    };
    // In KiB, as the guest's kernel tells it.
    let guest = match (item("mem_total"), item("mem_available")) {
        (Some(total), Some(free)) => {
            format!("{} of {}", bytes((total - free) * 1024.0), bytes(total * 1024.0))
        }
        _ => "–".to_owned(),
    };
    let overhead = text.samples("kata_shim_pod_overhead_memory_in_bytes").next();
    let overhead = overhead
        .map_or_else(String::new, |sample| format!("<br><small>overhead {}</small>", bytes(sample.value())));
    format!("{guest}{overhead}")
}

/// What the guest has received and sent, its loopback left out.
fn network(text: &Text) -> String {
    let sum = |item: &str| {
        let samples = text.samples("kata_guest_netdev_stat");
        let ours =
            samples.filter(|one| one.label("item") == Some(item) && one.label("interface") != Some("lo"));
        ours.map(|sample| sample.value()).reduce(|all, one| all + one)
    };
    match (sum("recv_bytes"), sum("sent_bytes")) {
        (Some(received), Some(sent)) => format!("↓ {}<br>↑ {}", bytes(received), bytes(sent)),
        _ => "–".to_owned(),
    }
}

fn bytes(mut count: f64) -> String {
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if count.abs() < 1024.0 {
            break;
        }
        count /= 1024.0;
        unit = larger;
    }
    let digits = usize::from(unit != "B" && count.abs() < 100.0);
    format!("{count:.digits$} {unit}")
}

/// Text in HTML, in attributes too.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Text, bytes, escaped, memory, network};

    #[test]
    fn amounts_are_short() {
        for (count, text) in
            [(0.0, "0 B"), (1023.0, "1023 B"), (1536.0, "1.5 KiB"), (200.0 * 1048576.0, "200 MiB")]
        {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn a_name_cannot_be_markup() {
        assert_eq!(escaped("<a href='x'>\"&"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;");
    }

    #[test]
    fn memory_and_network_are_the_guests() {
        let text = Text::new(
            b"kata_guest_meminfo{item=\"mem_total\"} 2097152\nkata_guest_meminfo{item=\"mem_available\"} 1048576\n\
              kata_shim_pod_overhead_memory_in_bytes 1048576\n\
              kata_guest_netdev_stat{interface=\"lo\",item=\"recv_bytes\"} 5\n\
              kata_guest_netdev_stat{interface=\"eth0\",item=\"recv_bytes\"} 2048\n\
              kata_guest_netdev_stat{interface=\"eth1\",item=\"recv_bytes\"} 1024\n\
              kata_guest_netdev_stat{interface=\"eth0\",item=\"sent_bytes\"} 7\n"
                .to_vec(),
        );
        assert_eq!(memory(&text), "1.0 GiB of 2.0 GiB<br><small>overhead 1.0 MiB</small>");
        assert_eq!(network(&text), "↓ 3.0 KiB<br>↑ 7 B");
        assert_eq!(
            (memory(&Text::new(Vec::new())), network(&Text::new(Vec::new()))),
            ("–".into(), "–".into())
        );
    }
}
