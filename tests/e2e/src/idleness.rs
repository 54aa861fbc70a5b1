//! What a pod costs its host while nothing happens in it: CPU time, and threads that wake.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cri::Pod;
use crate::failure::fail;
use crate::processes;

/// What all host processes of a pod did in a time.
#[derive(Clone, Debug)]
pub struct Idleness {
    /// How long they were watched.
    pub over: Duration,
    /// CPU time of all their threads.
    pub cpu: Duration,
    /// Each thread that woke, most often first.
    pub threads: Vec<Wakes>,
}

/// A thread that was asleep and woke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wakes {
    /// Its program.
    pub process: String,
    /// Its name.
    pub name: String,
    /// How often.
    pub count: u64,
    /// What it computed meanwhile.
    pub cpu: Duration,
}

impl Idleness {
    /// Watches running pods at once, one answer for each.
    #[track_caller]
    pub fn of(pods: &[&Pod<'_>], over: Duration) -> Vec<Self> {
        let begun = Instant::now();
        let before: Vec<_> = pods.iter().map(|pod| Threads::of(pod)).collect();
        let_pass(over);
        let after: Vec<_> = pods.iter().map(|pod| Threads::of(pod)).collect();
        let over = begun.elapsed();
        before.iter().zip(&after).map(|(before, after)| after.since(before, over)).collect()
    }

    /// Milliseconds of CPU time in each second.
    #[must_use]
    pub fn cpu_ms(&self) -> f64 {
        1000.0 * self.cpu.as_secs_f64() / self.over.as_secs_f64()
    }

    /// How often each second the thread wakes that wakes most.
    #[must_use]
    pub fn most_wakes(&self) -> f64 {
        self.threads.first().map_or(0.0, |thread| thread.count as f64 / self.over.as_secs_f64())
    }
}

impl fmt::Display for Idleness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ms of CPU time each second", self.cpu_ms())?;
        for Wakes { process, name, count, cpu } in &self.threads {
            let each_second = *count as f64 / self.over.as_secs_f64();
            write!(
                f,
                "\n  {process}, {name}: wakes {each_second:.2} times a second, {cpu:.1?} in {:.0?}",
                self.over
            )?;
        }
        Ok(())
    }
}

/// By process and thread id.
#[derive(Debug, Default)]
struct Threads(BTreeMap<(i32, i32), Thread>);

#[derive(Debug, Clone)]
struct Thread {
    process: String,
    name: String,
    /// As the scheduler counts it.
    cpu: Duration,
    /// How often it went to sleep, which is how often it wakes. Being put off by others is no waking.
    sleeps: u64,
}

impl Threads {
    #[track_caller]
    fn of(pod: &Pod<'_>) -> Self {
        let all = processes::with_command(pod.id());
        if all.is_empty() {
            fail(format_args!("Pod {} has no processes", pod.id()));
        }
        let mut threads = Self::default();
        for process in all {
            let tasks = fs::read_dir(format!("/proc/{}/task", process.pid)).into_iter().flatten().flatten();
            let tasks =
                tasks.filter_map(|task| Some((task.file_name().to_str()?.parse().ok()?, task.path())));
            let read = tasks.filter_map(|(id, path): (i32, _)| {
                // It may have ended meanwhile.
                let status = fs::read_to_string(path.join("status")).ok()?;
                let schedstat = fs::read_to_string(path.join("schedstat")).ok()?;
                Some(((process.pid, id), Thread::read(process.program(), &status, &schedstat)?))
            });
            threads.0.extend(read);
        }
        threads
    }

    /// A thread that has come meanwhile was not there before.
    fn since(&self, before: &Self, over: Duration) -> Idleness {
        let mut cpu = Duration::ZERO;
        let mut threads = Vec::new();
        for (id, now) in &self.0 {
            let then = before.0.get(id);
            let more = now.cpu.saturating_sub(then.map_or(Duration::ZERO, |then| then.cpu));
            let count = now.sleeps.saturating_sub(then.map_or(0, |then| then.sleeps));
            cpu += more;
            if count > 0 {
                let (process, name) = (now.process.clone(), now.name.clone());
                threads.push(Wakes { process, name, count, cpu: more });
            }
        }
        threads.sort_by_key(|thread| std::cmp::Reverse(thread.count));
        Idleness { over, cpu, threads }
    }
}

impl Thread {
    fn read(program: &str, status: &str, schedstat: &str) -> Option<Self> {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let cpu = schedstat.split_ascii_whitespace().next()?.parse().ok()?;
        Some(Self {
            process: program.to_owned(),
            name: field("Name:")?.to_owned(),
            cpu: Duration::from_nanos(cpu),
            sleeps: field("voluntary_ctxt_switches:")?.parse().ok()?,
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "time that passes is what is measured")]
fn let_pass(time: Duration) {
    sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tCPU 0/TCG\nUmask:\t0022\nThreads:\t4\n\
                          voluntary_ctxt_switches:\t90\nnonvoluntary_ctxt_switches:\t7000\n";

    fn threads(sleeps: &str, nanoseconds: &str) -> Threads {
        let status = STATUS.replace("\t90", &format!("\t{sleeps}"));
        let thread = Thread::read("qemu", &status, &format!("{nanoseconds} 40 9\n")).unwrap();
        Threads([((7, 8), thread)].into())
    }

    #[test]
    fn going_to_sleep_is_counted_and_being_put_off_is_not() {
        let idle = threads("90", "3000000").since(&threads("30", "1000000"), Duration::from_secs(20));
        let (process, name) = ("qemu".to_owned(), "CPU 0/TCG".to_owned());
        let wakes = Wakes { process, name, count: 60, cpu: Duration::from_millis(2) };
        assert_eq!((&idle.threads, idle.cpu), (&vec![wakes], Duration::from_millis(2)));
        assert!((idle.most_wakes() - 3.0).abs() < 1e-9 && (idle.cpu_ms() - 0.1).abs() < 1e-9, "{idle}");
    }

    #[test]
    fn a_thread_that_has_come_counts_from_its_beginning_and_one_that_slept_not_at_all() {
        let (came, slept) = (threads("90", "5"), threads("90", "5"));
        assert_eq!(came.since(&Threads::default(), Duration::from_secs(1)).threads[0].count, 90);
        assert_eq!(came.since(&slept, Duration::from_secs(1)).threads, []);
    }
}
