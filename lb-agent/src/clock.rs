//! Wall-clock times as people read them, and as the map `lb_agent` holds them: milliseconds since the Unix epoch, with
//! 0 for "never". And the clock that the programs read.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now.
pub fn now_ms() -> u64 {
    ms(SystemTime::now())
}

/// Seconds of the monotonic clock (`bpf_ktime_get_ns`), their lower 32 bits, as the programs keep them.
pub fn monotonic_s() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u32::try_from(now.tv_sec & i64::from(u32::MAX)).unwrap_or(u32::MAX)
}

/// A time as milliseconds since the epoch; before the epoch counts as "never".
pub fn ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// UTC to the second, RFC 3339; `never` for 0.
pub fn utc(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_second(seconds) {
        Ok(_) if ms == 0 => "never".to_owned(),
        Ok(time) => time.to_string(),
        Err(_) => format!("{ms} ms after the epoch"),
    }
}

/// How long ago, in its two largest units: `3d4h`, `12m5s`, `7s`.
pub fn ago(now_ms: u64, then_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days}d{}h", hours % 24)
    } else if hours > 0 {
        format!("{hours}h{}m", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes}m{}s", seconds % 60)
    } else {
        format!("{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_and_zero_is_never() {
        assert_eq!(utc(1_792_000_000_999), "2026-10-14T17:46:40Z");
        assert_eq!(utc(0), "never");
        assert!(utc(u64::MAX).contains("after the epoch"));
    }

    #[test]
    fn durations_show_their_two_largest_units() {
        assert_eq!(ago(7_000, 0), "7s");
        assert_eq!(ago(725_000, 0), "12m5s");
        assert_eq!(ago(3_660_000, 0), "1h1m");
        assert_eq!(ago(100 * 3_600_000, 0), "4d4h");
        assert_eq!(ago(0, 5_000), "0s", "a clock that was set back");
    }
}
