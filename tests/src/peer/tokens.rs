//! The addresses and ports of a case. Cases run at the same time in one cluster, so each has its own, which it calls
//! `$vip1`, `$np2` and so on; witnesses have the same ones in all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, bail, ensure};

use super::island::{WITNESSES, witness};

/// The numbers that a case may use, `$vip1` to `$vip9`.
const N_EACH: u16 = 9;

/// As many cases as there are NodePorts for, ten each.
pub(super) const N_CASES: u16 = 276;

/// What a destination is to the proxy. Differences may be limited to kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `$vip`: a ClusterIP.
    ClusterIp,
    /// An address of the node with `$np`: a NodePort.
    NodePort,
    /// `$ext`: an external IP.
    External,
    /// `$lb`: the ingress IP of a load balancer.
    LoadBalancer,
    /// Anything else.
    Plain,
}

/// Replaces the tokens of a text by what they are in case `number`.
pub(super) fn expand(text: &str, number: u16) -> Result<String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let end = after.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(after.len());
        let (token, tail) = after.split_at(end);
        expanded.push_str(&value(token, number).with_context(|| format!("${token} in `{text}`"))?);
        rest = tail;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// What the destination `text` (before its tokens are replaced) is.
pub(super) fn kind(text: &str) -> Kind {
    let kinds =
        [("$np", Kind::NodePort), ("$vip", Kind::ClusterIp), ("$ext", Kind::External), ("$lb", Kind::LoadBalancer)];
    kinds.into_iter().find(|(token, _)| text.contains(token)).map_or(Kind::Plain, |(_, kind)| kind)
}

/// The address of a witness, for the family of an EndpointSlice.
pub(super) fn witness_address(name: &str, is_v6: bool) -> Result<IpAddr> {
    let found = witness(name).with_context(|| {
        format!("no witness `{name}`: there are {}", WITNESSES.map(|witness| witness.name).join(" "))
    })?;
    Ok(if is_v6 { found.v6.into() } else { found.v4.into() })
}

fn value(token: &str, case: u16) -> Result<String> {
    ensure!(case < N_CASES, "no addresses for case {case}: there are {N_CASES}");
    match token {
        "localhost" => return Ok(Ipv4Addr::LOCALHOST.to_string()),
        "localhostv6" => return Ok(Ipv6Addr::LOCALHOST.to_string()),
        _ => {}
    }
    let (name, is_v6) = token.strip_suffix("v6").map_or((token, false), |name| (name, true));
    let name = if name == "node" { "h" } else { name };
    if witness(name).is_some() {
        return Ok(witness_address(name, is_v6)?.to_string());
    }
    let digits = name.find(|c: char| c.is_ascii_digit()).context("no such token")?;
    let (name, number) = name.split_at(digits);
    let number: u16 = number.parse().context("no such token")?;
    ensure!((1..=N_EACH).contains(&number), "numbers go from 1 to {N_EACH}");
    if name == "np" {
        return Ok((30000 + 10 * case + number).to_string());
    }
    Ok(address(name, case, number, is_v6)?.to_string())
}

/// ClusterIPs are in the API server's range, external addresses in the one for benchmarks (RFC 2544) and the one for
/// documentation (RFC 3849).
fn address(name: &str, case: u16, number: u16, is_v6: bool) -> Result<IpAddr> {
    // 16 addresses a case; the first 16 stay free for the Service `kubernetes` and for the marker.
    let [high, low] = (16 * (case + 1) + number).to_be_bytes();
    let last = 16 * (case + 1) + number;
    Ok(match (name, is_v6) {
        ("vip", false) => Ipv4Addr::new(10, 96, high, low).into(),
        ("vip", true) => Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, last).into(),
        ("ext", false) => Ipv4Addr::new(198, 18, high, low).into(),
        ("ext", true) => Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, last).into(),
        ("lb", false) => Ipv4Addr::new(198, 19, high, low).into(),
        ("lb", true) => Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, last).into(),
        _ => bail!("no such token"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_addresses_of_its_own() {
        assert_eq!(expand("tcp $vip1:80 = $a", 0).unwrap(), "tcp 10.96.0.17:80 = 10.244.1.2");
        assert_eq!(expand("$vip1v6 $np3 $nodev6", 1).unwrap(), "fd00:10:96::21 30013 fd00:172:18::1");
        assert_ne!(expand("$lb1", 3).unwrap(), expand("$lb1", 4).unwrap());
    }

    #[test]
    fn unknown_token_is_an_error_that_names_it() {
        assert!(format!("{:#}", expand("tcp $vap1:80", 0).unwrap_err()).contains("$vap1"));
    }
}
