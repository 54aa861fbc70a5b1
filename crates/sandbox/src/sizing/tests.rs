//! The rule: by the table of `docs/sizing.md`, step by step, and on anything at all.

use kata_config::{Config, SandboxSizing};
use oci_spec::runtime::LinuxResources;
use proptest::prelude::*;
use serde_json::json;

use super::limits::Change;
use super::{CpuLimit, Demand, Limits, Rule, Size, Sum, Term};

const DOCS: &str = include_str!("../../../../docs/sizing.md");

const MIB: i64 = 1 << 20;

fn config(sizing: SandboxSizing) -> Config {
    let mut config = Config::built_in(8);
    config.runtime.sandbox_sizing = sizing;
    config
}

fn rule() -> Rule {
    Rule::of(&config(SandboxSizing::Limits))
}

fn limits(millicpus: i64, mib: i64) -> Limits {
    Limits::new(CpuLimit { quota: Some(millicpus * 100), period: None }, Some(mib * MIB))
}

fn size(vcpus: u32, memory_mib: u32) -> Size {
    Size { vcpus, memory_mib }
}

/// The rows of the documented examples.
fn examples() -> Vec<Vec<&'static str>> {
    let table = DOCS.split_once("## Examples").expect("the heading").1;
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// `CPUs memory [+request]`
fn read(cell: &str) -> Limits {
    let words: Vec<&str> = cell.split(' ').collect();
    let quota = millionths(words[0]);
    let (number, unit) = match words[1] {
        text if text.ends_with("Gi") => (text.trim_end_matches("Gi"), 1024 * MIB),
        text => (text.trim_end_matches("Mi"), if text.ends_with("Mi") { MIB } else { 1 }),
    };
    let memory = number.parse::<i64>().ok().map(|number| number * unit);
    // As the kubelet makes them.
    let request = words.get(2).and_then(|request| millionths(&request[1..]));
    let shares = request.map_or(0, |millionths| millionths.unsigned_abs() * 1024 / 1_000_000);
    Limits::new(CpuLimit { quota, period: Some(1_000_000) }, memory).with_request(shares)
}

/// A decimal fraction.
fn millionths(number: &str) -> Option<i64> {
    let (whole, rest) = number.split_once('.').unwrap_or((number, ""));
    format!("{whole}{rest:0<6}").parse().ok()
}

fn demand(whole: &str, containers: &str) -> Demand {
    let mut demand = Demand::of(Some(whole).filter(|cell| !cell.is_empty()).map(read));
    for (number, cell) in containers.split("; ").filter(|cell| !cell.is_empty()).enumerate() {
        demand.add(&number.to_string(), read(cell));
    }
    demand
}

#[test]
fn memory_of_huge_pages_is_a_whole_number_of_them() {
    let mut config = config(SandboxSizing::Limits);
    config.hypervisor.memory.has_huge_pages = true;
    let of = |config: &Config, mib| Rule::of(config).plan(Some(limits(1000, mib))).boot;
    config.hypervisor.memory.page_mib = 2;
    // 257 MiB, the overhead and the kernel's part.
    let sum = of(&config, 257);
    assert_eq!(sum.size.memory_mib, 366);
    assert_eq!(sum.mib.iter().map(|term| term.amount).sum::<i64>(), 366);
    config.hypervisor.memory.page_mib = 1024;
    assert_eq!(of(&config, 257).size.memory_mib, 1024);
    assert_eq!(of(&config, 1 << 20).size.memory_mib, config.hypervisor.default_maxmemory_mib);
}

#[test]
fn the_documented_examples_are_what_comes_out() {
    let rows = examples();
    assert!(rows.len() > 15, "{} rows", rows.len());
    for row in rows {
        let demand = demand(row[1], row[2]);
        for (sizing, expected) in
            [(SandboxSizing::Limits, row[3]), (SandboxSizing::DefaultPlusLimits, row[4])]
        {
            let sum = Rule::of(&config(sizing)).sum(&demand);
            assert_eq!(sum.size.to_string(), expected, "{}: {sum:?}", row[0]);
        }
    }
}

#[test]
fn a_sum_names_its_terms() {
    let terms = |terms: &[Term]| terms.iter().map(|t| (t.what.clone(), t.amount)).collect::<Vec<_>>();
    let sum = rule().sum(&Demand::of(Some(limits(1500, 256))));
    assert_eq!(terms(&sum.millicpus), [("the pod's limit".into(), 1500), ("rounded up".into(), 500)]);
    let tables = "the kernel's tables, a 32nd of the whole";
    assert_eq!(
        terms(&sum.mib),
        [("the pod's limit".into(), 256), ("overhead_memory".into(), 96), (tables.into(), 12)]
    );
}

#[test]
fn what_is_beyond_the_maxima_is_taken_away_again() {
    let sum = rule().sum(&Demand::of(Some(limits(9000, 20_000))));
    assert_eq!(sum.size, size(8, 16_384));
    let last = sum.millicpus.last().map(|term| (term.what.as_str(), term.amount));
    assert_eq!(last, Some(("above `default_maxvcpus`", -1000)));
    assert_eq!(sum.mib.last().map(|term| term.what.as_str()), Some("above `default_maxmemory`"));
}

#[test]
fn keys_of_the_configuration_count() {
    let mut config = config(SandboxSizing::Limits);
    config.hypervisor.overhead_millicpus = 200;
    config.hypervisor.overhead_memory_mib = 32;
    let with = |config: &Config| Rule::of(config).plan(Some(limits(2000, 256))).boot.size;
    assert_eq!(with(&config), size(3, 298));
    config.runtime.force_guest_pull = true;
    assert_eq!(with(&config), size(3, 2412), "images are in the guest's memory");
    config.hypervisor.default_maxmemory_mib = 2400;
    config.hypervisor.default_maxvcpus = 2;
    assert_eq!(with(&config), size(2, 2400));
    assert_eq!(Rule::of(&config).plan(None).boot.size, size(1, 2048), "the overhead is within the default");
}

#[test]
fn upstreams_arithmetic_adds_before_it_rounds() {
    let mut config = config(SandboxSizing::DefaultPlusLimits);
    config.hypervisor.default_millicpus = 500;
    assert_eq!(Rule::of(&config).plan(Some(limits(1500, 0))).boot.size.vcpus, 2);
}

#[test]
fn little_memory_is_made_enough_to_boot() {
    let mut config = config(SandboxSizing::Limits);
    config.hypervisor.overhead_memory_mib = 0;
    assert_eq!(Rule::of(&config).plan(Some(limits(0, 6))).boot.size.memory_mib, 64);
}

#[test]
fn huge_pages_are_no_part_of_the_limit() {
    let pages = |mib: u64| rule().plan(Some(limits(0, 256).with_huge_pages(mib << 20))).boot.size.memory_mib;
    assert_eq!((pages(0), pages(512)), (364, 892));
    let alone = Limits::default().with_huge_pages(1 << 30);
    assert_eq!(rule().plan(Some(alone)).boot.size.memory_mib, 2048 + 1024 + 34);
}

#[test]
fn a_static_vm_stays_what_it_is() {
    let mut config = config(SandboxSizing::Limits);
    let grown = |config: &Config| {
        let rule = Rule::of(config);
        let plan = rule.plan(Some(limits(1000, 256)));
        let mut demand = Demand::of(Some(limits(1000, 256)));
        demand.add("a", limits(4000, 1024));
        (plan.most, rule.target(&plan, &demand))
    };
    assert_eq!(grown(&config), (size(8, 16_384), size(4, 1157)));
    config.runtime.static_sandbox_resource_mgmt = true;
    assert_eq!(grown(&config), (size(1, 364), size(1, 364)));
}

/// An update that is done.
fn update(demand: &mut Demand, id: &str, after: Limits) {
    let update = demand.begin(id, change(after));
    demand.settle(id, update, true);
}

fn change(after: Limits) -> Change {
    Change { cpu: Some(after.cpu), memory: Some(after.memory) }
}

#[test]
fn until_an_update_is_done_the_limits_before_and_after_it_count() {
    let size = |demand: &Demand| rule().sum(demand).size;
    let fixed = |first, second| {
        let mut demand = Demand::of(None);
        demand.add("a", first);
        demand.add("b", second);
        size(&demand)
    };
    let (small, other) = (limits(1000, 512), limits(1000, 128));
    let mut demand = Demand::of(None);
    demand.add("a", small);
    demand.add("b", other);
    let more_cpu = demand.begin("a", change(limits(3000, 64)));
    assert_eq!(size(&demand), fixed(limits(3000, 512), other), "less memory is not yet taken away");
    let more_memory = demand.begin("a", change(limits(500, 1024)));
    assert_eq!(size(&demand), fixed(limits(3000, 1024), other));
    demand.settle("a", more_cpu, false);
    assert_eq!(size(&demand), fixed(limits(1000, 1024), other), "one was refused");
    demand.settle("a", more_memory, true);
    assert_eq!(size(&demand), fixed(limits(500, 1024), other));
    demand.settle("a", more_memory, true);
    assert_eq!(size(&demand), fixed(limits(500, 1024), other), "it is over");
}

#[test]
fn who_is_about_to_get_a_first_limit_counts_as_the_greater_of_both() {
    let plan = rule().plan(None);
    let target = |demand: &Demand| rule().target(&plan, demand);
    let mut demand = Demand::of(None);
    demand.add("a", Limits::default());
    let (free, of_large) = (target(&demand), rule().plan(Some(limits(4000, 4096))).boot.size);
    let small = demand.begin("a", change(limits(100, 16)));
    assert_eq!(target(&demand), free);
    let large = demand.begin("a", change(limits(4000, 4096)));
    assert_eq!(target(&demand), of_large, "and not that and the default");
    demand.settle("a", small, false);
    demand.settle("a", large, true);
    assert_eq!(target(&demand), of_large);
}

#[test]
fn an_update_outlives_no_container() {
    let mut demand = Demand::of(None);
    demand.add("a", limits(1000, 512));
    let late = demand.begin("a", change(limits(4000, 4096)));
    demand.remove("a");
    demand.add("a", limits(1000, 512));
    let before = rule().sum(&demand);
    demand.settle("a", late, true);
    assert_eq!(rule().sum(&demand), before);
}

#[test]
fn updates_change_the_whole_by_as_much() {
    let rule = rule();
    let plan = rule.plan(Some(limits(1000, 512)));
    let mut demand = Demand::of(Some(limits(1000, 512)));
    // Half of what was announced is there, and grows: the other half is still to come.
    demand.add("a", limits(500, 256));
    assert_eq!(rule.target(&plan, &demand), plan.boot.size);
    update(&mut demand, "a", limits(2500, 1280));
    assert_eq!(rule.sum(&demand).size, rule.plan(Some(limits(3000, 1536))).boot.size);
    demand.add("b", limits(500, 256));
    assert_eq!(rule.sum(&demand).size, rule.plan(Some(limits(3000, 1536))).boot.size);
    // Back again, and below.
    update(&mut demand, "a", limits(500, 256));
    assert_eq!(rule.target(&plan, &demand), plan.boot.size);
    update(&mut demand, "a", limits(100, 64));
    assert_eq!(rule.sum(&demand).size.memory_mib, 430);
    assert_eq!(rule.target(&plan, &demand), plan.boot.size, "what it was started with stays");
}

#[test]
fn a_container_that_goes_and_comes_again_finds_its_place() {
    let mut demand = Demand::of(Some(limits(1000, 512)));
    demand.add("a", limits(1000, 512));
    update(&mut demand, "a", limits(2000, 1024));
    let before = rule().sum(&demand).size;
    demand.remove("a");
    assert_eq!(rule().sum(&demand).size, before);
    demand.add("a", limits(2000, 1024));
    assert_eq!(rule().sum(&demand).size, before);
}

#[test]
fn an_update_of_nobody_changes_nothing() {
    let mut demand = Demand::of(None);
    update(&mut demand, "ghost", limits(4000, 4096));
    assert_eq!(rule().sum(&demand), rule().sum(&Demand::of(None)));
}

#[test]
fn absurd_limits_are_none_or_the_most() {
    let of = |cpu: serde_json::Value, memory: i64| {
        let resources = json!({ "cpu": cpu, "memory": { "limit": memory } });
        let resources: LinuxResources = serde_json::from_value(resources).unwrap();
        rule().plan(Some(Limits::of(&resources))).boot.size
    };
    for (quota, memory) in
        [(0, 0), (-1, -1), (i64::MIN, i64::MIN), (0, i64::MAX), (-7, 9_223_372_036_854_771_712)]
    {
        assert_eq!(of(json!({ "quota": quota, "period": 0 }), memory), size(1, 2048), "{quota} {memory}");
    }
    assert_eq!(of(json!({ "quota": i64::MAX, "period": 1 }), 1 << 62), size(8, 16_384));
    assert_eq!(of(json!({ "quota": 1, "period": u64::MAX }), 1), size(1, 101));
    assert_eq!(of(json!({ "quota": 250_000 }), 0).vcpus, 3, "a period of 100 ms");
    assert_eq!(of(json!({ "shares": 8192 }), 0).vcpus, 1, "a weight");
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let edge = prop_oneof![any::<i64>(), -2_i64..3, 0_i64..1 << 36, Just(i64::MAX), Just(i64::MIN)];
    let cpu = (proptest::option::of(edge.clone()), proptest::option::of(any::<u64>()));
    (cpu, proptest::option::of(edge), any::<u64>(), any::<u64>()).prop_map(
        |((quota, period), memory, shares, huge)| {
            Limits::new(CpuLimit { quota, period }, memory).with_request(shares).with_huge_pages(huge)
        },
    )
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8, Limits),
    Ask(u8, Limits),
    Settle(u8, bool),
    Remove(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0_u8..4;
    prop_oneof![
        (id.clone(), any_limits()).prop_map(|(id, limits)| Step::Add(id, limits)),
        (id.clone(), any_limits()).prop_map(|(id, limits)| Step::Ask(id, limits)),
        (id.clone(), any::<bool>()).prop_map(|(id, is_done)| Step::Settle(id, is_done)),
        id.prop_map(Step::Remove),
    ]
}

fn check(sum: &Sum, most: Size) -> Result<(), TestCaseError> {
    let total = |terms: &[Term]| terms.iter().map(|term| i128::from(term.amount)).sum::<i128>();
    prop_assert!((1..=most.vcpus).contains(&sum.size.vcpus), "{:?}", sum);
    prop_assert!((64..=most.memory_mib).contains(&sum.size.memory_mib), "{:?}", sum);
    prop_assert_eq!(total(&sum.millicpus), i128::from(sum.size.vcpus) * 1000, "{:?}", sum);
    prop_assert_eq!(total(&sum.mib), i128::from(sum.size.memory_mib), "{:?}", sum);
    Ok(())
}

proptest! {
    #[test]
    fn whatever_happens_the_size_is_within_bounds_and_its_terms_add_up(
        whole in proptest::option::of(any_limits()),
        steps in proptest::collection::vec(step(), 0..12),
        upstream: bool,
        fixed: bool,
        overhead in (0_u32..1_024_001, 0_u32..1_048_577),
        most in (1_u32..1025, 2048_u32..16_777_217),
    ) {
        let mut config = config(if upstream { SandboxSizing::DefaultPlusLimits } else { SandboxSizing::Limits });
        config.runtime.static_sandbox_resource_mgmt = fixed;
        (config.hypervisor.overhead_millicpus, config.hypervisor.overhead_memory_mib) = overhead;
        (config.hypervisor.default_maxvcpus, config.hypervisor.default_maxmemory_mib) = most;
        let rule = Rule::of(&config);
        let most = size(most.0, most.1);
        let plan = rule.plan(whole);
        check(&plan.boot, most)?;
        let (mut demand, mut asked) = (Demand::of(whole), Vec::new());
        for step in steps {
            match step {
                Step::Add(id, limits) => demand.add(&id.to_string(), limits),
                Step::Ask(id, limits) => asked.push((id, demand.begin(&id.to_string(), change(limits)))),
                Step::Settle(id, is_done) => {
                    let mine = asked.iter().position(|(asked, _)| *asked == id);
                    if let Some((_, update)) = mine.map(|first| asked.remove(first)) {
                        demand.settle(&id.to_string(), update, is_done);
                    }
                }
                Step::Remove(id) => demand.remove(&id.to_string()),
            }
            check(&rule.sum(&demand), most)?;
            let target = rule.target(&plan, &demand);
            prop_assert!(target.vcpus >= plan.boot.size.vcpus && target.vcpus <= plan.most.vcpus);
            prop_assert!(target.memory_mib >= plan.boot.size.memory_mib && target.memory_mib <= plan.most.memory_mib);
            prop_assert!(!fixed || target == plan.boot.size);
        }
    }

    #[test]
    fn more_is_never_less(mib in 1_i64..1 << 20, more in 0_i64..1 << 20, millis in 1_i64..100_000) {
        let sum = |millis: i64, mib: i64| rule().plan(Some(limits(millis, mib))).boot.size;
        let (small, large) = (sum(millis, mib), sum(millis + more, mib + more));
        prop_assert!(small.vcpus <= large.vcpus && small.memory_mib <= large.memory_mib);
        prop_assert!(small.memory_mib == 16_384 || i64::from(small.memory_mib) > mib);
    }
}
