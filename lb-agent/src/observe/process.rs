//! The standard process metrics, under the names that every Prometheus client library gives them, read from /proc/self
//! at each scrape.

use procfs::process::{LimitValue, Process};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// The collector.
#[derive(Debug)]
pub(super) struct ProcessMetrics;

/// One reading of /proc/self.
struct Reading {
    cpu_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    start_seconds: f64,
    threads: i64,
    open_fds: u64,
    max_fds: u64,
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let reading = match read() {
            Ok(reading) => reading,
            Err(error) => {
                // The other metrics are still worth having.
                tracing::warn!("process metrics are left out: {error}");
                return Ok(());
            }
        };
        let cpu = ConstCounter::new(reading.cpu_seconds);
        let descriptor = encoder.encode_descriptor(
            "process_cpu_seconds",
            "User and system CPU time spent",
            None,
            cpu.metric_type(),
        )?;
        cpu.encode(descriptor)?;
        let gauges: [(&str, &str, f64); 6] = [
            ("process_resident_memory_bytes", "Resident memory", as_f64(reading.resident_bytes)),
            ("process_virtual_memory_bytes", "Virtual memory", as_f64(reading.virtual_bytes)),
            ("process_start_time_seconds", "Start of the process, in seconds since the epoch", reading.start_seconds),
            ("process_threads", "Threads", reading.threads as f64),
            ("process_open_fds", "Open file descriptors", as_f64(reading.open_fds)),
            ("process_max_fds", "File descriptors that may be open", as_f64(reading.max_fds)),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

fn read() -> procfs::ProcResult<Reading> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    let ticks = as_f64(procfs::ticks_per_second());
    let boot = as_f64(procfs::boot_time_secs()?);
    let max_fds = match process.limits()?.max_open_files.soft_limit {
        LimitValue::Value(limit) => limit,
        LimitValue::Unlimited => u64::MAX,
    };
    Ok(Reading {
        cpu_seconds: as_f64(stat.utime + stat.stime) / ticks,
        resident_bytes: stat.rss * procfs::page_size(),
        virtual_bytes: stat.vsize,
        start_seconds: boot + as_f64(stat.starttime) / ticks,
        threads: stat.num_threads,
        open_fds: u64::try_from(process.fd_count()?).unwrap_or(u64::MAX),
        max_fds,
    })
}

/// Prometheus values are f64; precision is lost above 2^53, where nobody counts single bytes.
fn as_f64(value: u64) -> f64 {
    value as f64
}
