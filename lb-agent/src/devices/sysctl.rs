//! Reads the node's settings below /proc/sys/net, which shows those of the network namespace of the thread that opens
//! it. Decides nothing.

use std::{collections::BTreeMap, fs, path::Path};

use super::{
    findings::{DeviceSysctls, Sysctls},
    wanted::PortRange,
};

/// The settings, with those of these devices.
pub fn read<'a>(devices: impl IntoIterator<Item = &'a str>) -> Sysctls {
    read_below(Path::new("/proc/sys/net"), devices)
}

fn read_below<'a>(root: &Path, devices: impl IntoIterator<Item = &'a str>) -> Sysctls {
    // A device that is gone by now has none, and IPv6 may be turned off.
    let text = |name: &str| fs::read_to_string(root.join(name)).ok();
    let number = |name: &str| text(name)?.trim().parse::<u8>().ok();
    let on = |name: &str| number(name).map(|value| value != 0);
    let of_device = |name: &str| DeviceSysctls {
        forwarding4: on(&format!("ipv4/conf/{name}/forwarding")),
        forwarding6: on(&format!("ipv6/conf/{name}/forwarding")),
        rp_filter: number("ipv4/conf/all/rp_filter").max(number(&format!("ipv4/conf/{name}/rp_filter"))),
    };
    let devices: BTreeMap<_, _> = devices.into_iter().map(|name| (name.to_owned(), of_device(name))).collect();
    Sysctls {
        forwarding4: on("ipv4/ip_forward"),
        forwarding6: on("ipv6/conf/all/forwarding"),
        bridge_filter4: on("bridge/bridge-nf-call-iptables"),
        bridge_filter6: on("bridge/bridge-nf-call-ip6tables"),
        devices,
        local_ports: text("ipv4/ip_local_port_range").as_deref().and_then(two_numbers),
        reserved_ports: text("ipv4/ip_local_reserved_ports").as_deref().map(ranges).unwrap_or_default(),
    }
}

/// `32768 60999`.
fn two_numbers(text: &str) -> Option<PortRange> {
    let mut numbers = text.split_whitespace().map(str::parse);
    let (first, last) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(PortRange { first, last })
}

/// `8080,30000-32767`, as the kernel writes it; the empty list is an empty line.
fn ranges(text: &str) -> Vec<PortRange> {
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some(PortRange { first: first.parse().ok()?, last: last.parse().ok()? })
    };
    text.trim().split(',').filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_rp_filter_counts_and_what_is_missing_is_absent() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("ipv4/ip_forward", "1\n");
        write("ipv4/conf/all/rp_filter", "1\n");
        write("bridge/bridge-nf-call-iptables", "1\n");
        write("ipv4/conf/eth0.7/rp_filter", "0\n");
        write("ipv4/conf/eth0.7/forwarding", "0\n");
        write("ipv4/ip_local_port_range", "32768\t60999\n");
        write("ipv4/ip_local_reserved_ports", "8080,30000-32767\n");
        let range = |first, last| PortRange { first, last };
        assert_eq!(
            read_below(root.path(), ["eth0.7"]),
            Sysctls {
                forwarding4: Some(true),
                forwarding6: None,
                bridge_filter4: Some(true),
                bridge_filter6: None,
                devices: [(
                    "eth0.7".to_owned(),
                    DeviceSysctls { forwarding4: Some(false), forwarding6: None, rp_filter: Some(1) }
                )]
                .into(),
                local_ports: Some(range(32768, 60999)),
                reserved_ports: vec![range(8080, 8080), range(30000, 32767)],
            }
        );
        assert_eq!(ranges("\n"), []);
    }
}
