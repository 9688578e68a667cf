//! What `--devices` and `--pod-devices` may say.

use std::str::FromStr;

use glob::Pattern;
use lb_common::abi::{SNAT_FIRST, SNAT_LAST};

/// `--devices`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceNames {
    /// Those that are found: see [`choose`](super::choose).
    Auto,
    /// None.
    None,
    /// These.
    Names(Vec<String>),
}

impl DeviceNames {
    /// Whether this device is named.
    pub fn has(&self, name: &str) -> bool {
        matches!(self, Self::Names(names) if names.iter().any(|named| named == name))
    }
}

impl FromStr for DeviceNames {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            list => list.split(',').map(device_name).collect::<Result<_, _>>().map(Self::Names),
        }
    }
}

/// The kernel's rules (dev_valid_name): at most 15 bytes, no slash, colon or white space, not "." or "..".
fn device_name(name: &str) -> Result<String, String> {
    let odd = |c: char| c == '/' || c == ':' || c.is_whitespace();
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(odd) {
        return Err(format!("{name:?} is no name of a network device; give auto, none, or names separated by commas"));
    }
    if name == "auto" || name == "none" {
        return Err(format!("{name} stands alone; give auto, none, or names separated by commas"));
    }
    Ok(name.to_owned())
}

/// `--pod-devices`: patterns of names as a shell reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DevicePatterns(Vec<Pattern>);

impl DevicePatterns {
    /// The first pattern that matches.
    pub fn matching(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|pattern| pattern.matches(name)).map(Pattern::as_str)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The patterns.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(Pattern::as_str)
    }
}

impl FromStr for DevicePatterns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::default());
        }
        let pattern = |text: &str| {
            let wrong = |why: &str| {
                format!(
                    "{text:?} is no pattern of device names such as veth* or cni0 ({why}); give none, or patterns separated by commas"
                )
            };
            if text.is_empty() || text == "none" || text.contains('/') {
                return Err(wrong("no device has such a name"));
            }
            Pattern::new(text).map_err(|error| wrong(error.msg))
        };
        text.split(',').map(pattern).collect::<Result<_, _>>().map(Self)
    }
}

/// Port numbers from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// At least 1.
    pub first: u16,
    /// Not smaller.
    pub last: u16,
}

impl PortRange {
    /// Default of `--snat-ports`: below the NodePorts and the ports that the node's own connections get by default.
    pub const SNAT: Self = Self { first: SNAT_FIRST, last: SNAT_LAST };
    /// Default of the API server's `--service-node-port-range`.
    pub const NODEPORTS: Self = Self { first: 30_000, last: 32_767 };

    /// The ports that both have.
    pub fn overlap(self, other: Self) -> Option<Self> {
        let both = Self { first: self.first.max(other.first), last: self.last.min(other.last) };
        (both.first <= both.last).then_some(both)
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = text.split_once('-').and_then(|(first, last)| {
            Some(Self { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? })
        });
        range
            .filter(|range| range.first > 0 && range.first <= range.last)
            .ok_or_else(|| format!("{text:?} is no range of ports such as 61000-65535"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_auto_none_or_names() {
        assert_eq!("auto".parse(), Ok(DeviceNames::Auto));
        assert_eq!("none".parse(), Ok(DeviceNames::None));
        assert_eq!("eth0,bond0.7".parse(), Ok(DeviceNames::Names(vec!["eth0".to_owned(), "bond0.7".to_owned()])));
        for wrong in ["", "eth0,", "eth0,auto", "a/b", "sixteen-bytes-xx", "e th"] {
            assert!(wrong.parse::<DeviceNames>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn patterns_match_as_in_a_shell_and_the_first_one_counts() {
        let patterns: DevicePatterns = "cni0,veth*,tap?".parse().unwrap();
        assert_eq!(patterns.matching("cni0"), Some("cni0"));
        assert_eq!(patterns.matching("veth12ab"), Some("veth*"));
        assert_eq!(patterns.matching("tap1"), Some("tap?"));
        assert_eq!(["cni01", "eth0", "tap12", "my-veth1"].map(|name| patterns.matching(name)), [None; 4]);
        assert!("none".parse::<DevicePatterns>().unwrap().is_empty());
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        for text in ["", "veth*,", "none,veth*", "a/b", "[z-"] {
            let error = text.parse::<DevicePatterns>().unwrap_err();
            assert!(error.contains("pattern"), "{text}: {error}");
        }
    }

    #[test]
    fn port_ranges_are_two_numbers_in_order() {
        assert_eq!("61000-65535".parse(), Ok(PortRange { first: 61000, last: 65535 }));
        for text in ["", "61000", "0-5", "7-6", "1-65536", "a-b"] {
            assert!(text.parse::<PortRange>().unwrap_err().contains(&format!("{text:?}")), "{text}");
        }
    }

    #[test]
    fn ranges_overlap_in_the_ports_that_both_have() {
        let range = |text: &str| text.parse::<PortRange>().unwrap();
        assert_eq!(range("32768-60999").overlap(range("60000-65535")), Some(range("60000-60999")));
        assert_eq!(range("1-9").overlap(range("9-9")), Some(range("9-9")));
        assert_eq!(range("30000-32767").overlap(range("32768-60999")), None);
    }
}
