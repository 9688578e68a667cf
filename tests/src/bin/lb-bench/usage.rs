//! What a proxy has used: processor time and memory, from /proc.

use anyhow::{Context as _, Result};
use procfs::process::Process;
use serde::Serialize;

/// What a process has used.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Usage {
    /// User and system time of the process and of the children that it waited for (`nft`, `iptables-restore`), seconds.
    pub(crate) cpu_s: f64,
    /// Resident memory now, without children, MiB.
    pub(crate) rss_mib: f64,
    /// The most that it was.
    pub(crate) peak_rss_mib: f64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let process = Process::new(pid.cast_signed()).context("the proxy is gone")?;
        let (stat, status) = (process.stat()?, process.status()?);
        let ticks = stat.utime + stat.stime + stat.cutime.cast_unsigned() + stat.cstime.cast_unsigned();
        let mib = |kib: Option<u64>| kib.map(|kib| as_f64(kib) / 1024.0).context("a process without memory");
        Ok(Self {
            cpu_s: as_f64(ticks) / as_f64(procfs::ticks_per_second()),
            rss_mib: mib(status.vmrss)?,
            peak_rss_mib: mib(status.vmhwm)?,
        })
    }
}

/// For numbers far below 2^52.
pub(crate) fn as_f64(value: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let value = value as f64;
    value
}
