//! /metrics: names and meaning in docs/operations.md, which a test compares with this file.
//!
//! State is read when scraped; only the latency histogram is fed as things happen.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use lb_common::abi::Counter;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{
        counter::ConstCounter,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use super::{MapUse, Observer, SelfTest, State, process::ProcessMetrics};
use crate::clock;

/// Reads the kernel programs' counters, summed over CPUs.
pub type ReadCounters = Box<dyn Fn() -> anyhow::Result<Vec<(Counter, u64)>> + Send + Sync>;

/// How long changes took to reach the maps.
#[derive(Clone, Debug)]
pub struct Latency(Histogram);

impl Latency {
    /// Records one change.
    pub fn observe(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }
}

/// 13 buckets from 0.1 ms to 0.4 s by doubling, then what is slower: the aim is a change within 10 ms.
impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new(exponential_buckets(0.0001, 2.0, 13)))
    }
}

/// All metrics.
#[derive(Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// `version` is what `lb_build_info` carries.
    pub fn new(observer: &Observer, version: &'static str, counters: ReadCounters) -> Self {
        let mut registry = Registry::default();
        registry.register("lb_build", "Version of the agent", Info::new([("version", version)]));
        registry.register_with_unit(
            "lb_programming_duration",
            "From the arrival of a change at the agent to the end of its last map write",
            Unit::Seconds,
            observer.latency().0.clone(),
        );
        registry.register_collector(Box::new(StateMetrics(observer.clone())));
        registry.register_collector(Box::new(KernelMetrics(counters)));
        registry.register_collector(Box::new(ProcessMetrics));
        Self(registry)
    }

    /// The OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.0)?;
        Ok(page)
    }
}

#[derive(Debug)]
struct StateMetrics(Observer);

impl Collector for StateMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let state = self.0.state();
        let flag = |value: bool| u64::from(value);
        let seconds = |time: Option<SystemTime>| time.map_or(0, |time| clock::ms(time) / 1000);
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        let gauges = [
            ("lb_source_in_sync", "1 while the source has delivered all there is", flag(state.source_synced.is_some())),
            ("lb_source_problems", "Objects and documents that cannot be used now", count(state.source_problems)),
            (
                "lb_initial_sync_done",
                "1 once the first full lists are in the maps",
                flag(state.report.synced.is_some()),
            ),
            ("lb_self_test_passed", "1 once the programs were seen to work", flag(state.self_test == SelfTest::Passed)),
            (
                "lb_last_change_timestamp_seconds",
                "When the maps were last changed; 0 for never",
                seconds(state.report.updated),
            ),
            ("lb_services", "Services that are served", count(state.report.usage.services)),
            (
                "lb_services_failing",
                "Services whose last map write failed and is tried again",
                count(state.report.failing),
            ),
            (
                "lb_services_not_fitting",
                "Services not up to date because a map is full",
                count(state.report.not_fitting),
            ),
            ("lb_service_conflicts", "Addresses that Services name and do not get", count(state.report.conflicts)),
            ("lb_devices", "Network devices that have the packet layer's programs", state.devices.into()),
            ("lb_node_problems", "What is wrong with the node for the packet layer", count(state.findings().len())),
        ];
        for (name, help, value) in gauges {
            gauge(&mut encoder, name, help, value)?;
        }
        let pending = state.report.pending_since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        gauge(&mut encoder, "lb_pending_seconds", "How long the oldest unwritten change has been waiting", pending)?;
        counter(
            &mut encoder,
            "lb_map_write_errors",
            "Map writes that failed, each tried again",
            state.report.write_errors,
        )?;
        let help = "Sockets and namespaces where ending sockets of backends that are gone failed";
        counter(&mut encoder, "lb_socket_termination_failures", help, state.end_failures)?;
        sockets_ended(&mut encoder, &state)?;
        connections_ended(&mut encoder, &state)?;
        let maps = state.maps();
        per_map(&mut encoder, "lb_map_entries", "Entries in use", &maps, |map| map.entries)?;
        per_map(&mut encoder, "lb_map_capacity", "Entries the map can hold", &maps, |map| map.capacity)
    }
}

fn gauge<V>(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: V) -> fmt::Result
where
    ConstGauge<V>: EncodeMetric,
{
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

fn counter(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
}

fn sockets_ended(encoder: &mut DescriptorEncoder, state: &State) -> fmt::Result {
    let kind = ConstCounter::new(0_u64).metric_type();
    let help = "Sockets that were ended because their backend was gone";
    let mut family = encoder.encode_descriptor("lb_sockets_terminated", help, None, kind)?;
    for (protocol, value) in [("UDP", state.ended_udp), ("TCP", state.ended_tcp)] {
        ConstCounter::new(value).encode(family.encode_family(&[("protocol", protocol)])?)?;
    }
    Ok(())
}

fn connections_ended(encoder: &mut DescriptorEncoder, state: &State) -> fmt::Result {
    let kind = ConstCounter::new(0_u64).metric_type();
    let help = "Connections of the packet layer that were ended";
    let mut family = encoder.encode_descriptor("lb_connections_ended", help, None, kind)?;
    let ended = state.connections_ended;
    for (reason, value) in [("idle", ended.idle), ("backend_gone", ended.backend_gone), ("broken", ended.broken)] {
        ConstCounter::new(value).encode(family.encode_family(&[("reason", reason)])?)?;
    }
    Ok(())
}

fn per_map(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    maps: &[MapUse],
    value: impl Fn(&MapUse) -> u64,
) -> fmt::Result {
    let kind = ConstGauge::new(0_u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for map in maps {
        ConstGauge::new(value(map)).encode(family.encode_family(&[("map", map.map)])?)?;
    }
    Ok(())
}

struct KernelMetrics(ReadCounters);

impl fmt::Debug for KernelMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KernelMetrics")
    }
}

impl Collector for KernelMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let counters = match (self.0)() {
            Ok(counters) => counters,
            Err(error) => {
                tracing::warn!("the kernel's counters are left out of the metrics: {error:#}");
                return Ok(());
            }
        };
        let kind = ConstCounter::new(0_u64).metric_type();
        let help = "What the kernel programs counted, by event";
        let mut family = encoder.encode_descriptor("lb_kernel_events", help, None, kind)?;
        for (event, value) in counters {
            ConstCounter::new(value).encode(family.encode_family(&[("event", event.label())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(observer: &Observer, counters: ReadCounters) -> String {
        Metrics::new(observer, "1.2.3", counters).encode().unwrap()
    }

    #[test]
    fn state_counters_and_latency_are_on_the_page() {
        let observer = Observer::default();
        observer.update(|state| {
            state.report.updated = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_792_000_000));
            state.report.synced = state.report.updated;
            state.report.usage.v4.frontends = 3;
            state.report.usage.v6.sources = 6;
            state.report.usage.names = 7;
            state.affinities = Some(MapUse { map: "lb_affinity", entries: 5, capacity: 100 });
            state.connections_ended.backend_gone = 9;
            let clients = |map| MapUse { map, entries: 8, capacity: 4_096 };
            state.clients = Some([clients("lb_clients4"), clients("lb_clients6")]);
            state.report.write_errors = 4;
        });
        observer.latency().observe(Duration::from_millis(3));
        let page = page(&observer, Box::new(|| Ok(vec![(Counter::TcpConnect, 12), (Counter::NoBackend, 1)])));
        for line in [
            r#"lb_build_info{version="1.2.3"} 1"#,
            "lb_source_in_sync 0",
            "lb_initial_sync_done 1",
            "lb_last_change_timestamp_seconds 1792000000",
            "lb_map_write_errors_total 4",
            r#"lb_map_entries{map="lb_frontends4"} 3"#,
            r#"lb_map_capacity{map="lb_frontends4"} 65536"#,
            r#"lb_map_entries{map="lb_affinity"} 5"#,
            r#"lb_map_capacity{map="lb_affinity"} 100"#,
            r#"lb_map_entries{map="lb_sources6"} 6"#,
            r#"lb_map_capacity{map="lb_sources6"} 16384"#,
            r#"lb_map_entries{map="lb_names"} 7"#,
            r#"lb_connections_ended_total{reason="backend_gone"} 9"#,
            r#"lb_map_capacity{map="lb_clients6"} 4096"#,
            r#"lb_kernel_events_total{event="tcp_connect"} 12"#,
            "lb_programming_duration_seconds_count 1",
            r#"lb_programming_duration_seconds_bucket{le="0.0032"} 1"#,
            r#"lb_programming_duration_seconds_bucket{le="0.0016"} 0"#,
        ] {
            assert!(page.lines().any(|known| known == line), "{line} is not in\n{page}");
        }
        for name in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"] {
            assert!(page.lines().any(|line| line.starts_with(name)), "{name} is not in\n{page}");
        }
    }

    #[test]
    fn unreadable_kernel_counters_leave_the_rest_of_the_page() {
        let page = page(&Observer::default(), Box::new(|| anyhow::bail!("no map")));
        assert!(!page.contains("lb_kernel_events_total") && page.contains("lb_source_in_sync 0"), "{page}");
    }

    /// docs/operations.md promises the names.
    #[test]
    fn every_metric_is_documented() {
        let docs = include_str!("../../../docs/operations.md");
        let page = page(&Observer::default(), Box::new(|| Ok(vec![(Counter::TcpConnect, 1)])));
        let names = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        for name in names {
            assert!(docs.contains(&format!("`{name}")), "{name} is not in docs/operations.md");
        }
    }
}
