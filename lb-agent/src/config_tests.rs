//! What is accepted on the command line, what is refused and in which words.

use clap::Parser;

use super::*;
use crate::cli::{Cli, Command, Exit};

fn run_args(flags: &[&str]) -> Result<RunArgs, clap::Error> {
    let cli = Cli::try_parse_from(["lb-agent", "run"].iter().chain(flags))?;
    match cli.command {
        Command::Run(args) => Ok(*args),
        other => panic!("parsed as {other:?}"),
    }
}

#[test]
fn without_a_source_the_three_ways_are_named() {
    let failure = source(&run_args(&[]).unwrap(), &Surroundings::default()).unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
    let text = failure.to_string();
    for way in ["--kubeconfig", "--manifests", "in-cluster"] {
        assert!(text.contains(way), "{text}");
    }
}

#[test]
fn in_a_pod_the_in_cluster_configuration_is_used_unless_a_source_is_named() {
    let around = Surroundings { in_cluster: true, host_name: Some("n1".to_owned()) };
    let chosen = |flags: &[&str]| source(&run_args(flags).unwrap(), &around).unwrap();
    let SourceConfig::Kubernetes(in_cluster) = chosen(&[]) else { panic!("not the cluster") };
    assert_eq!((in_cluster.kubeconfig, in_cluster.api_servers), (None, vec![]));
    let SourceConfig::Manifests { directory, node_name } = chosen(&["--manifests", "m"]) else {
        panic!("not the directory")
    };
    assert_eq!((directory, &*node_name), (PathBuf::from("m"), "n1"));
    let flags = ["--kubeconfig", "k", "--api-servers", "192.0.2.1:6443,https://[2001:db8::1]:6443"];
    let SourceConfig::Kubernetes(named) = chosen(&flags) else { panic!("not the cluster") };
    assert_eq!(named.kubeconfig, Some("k".into()));
    assert_eq!(named.api_servers, ["https://192.0.2.1:6443", "https://[2001:db8::1]:6443"]);
}

#[test]
fn two_sources_at_once_are_refused() {
    let error = run_args(&["--manifests", "m", "--kubeconfig", "k"]).unwrap_err();
    assert_eq!(error.kind(), clap::error::ErrorKind::ArgumentConflict);
}

#[test]
fn the_node_name_defaults_to_the_host_name_in_lower_case() {
    let around = Surroundings { in_cluster: false, host_name: Some("Node-A.example\n".to_owned()) };
    assert_eq!(&*node_name(&run_args(&[]).unwrap(), &around).unwrap(), "node-a.example");
    assert_eq!(&*node_name(&run_args(&["--node-name", "n1"]).unwrap(), &around).unwrap(), "n1");
    let failure = node_name(&run_args(&[]).unwrap(), &Surroundings::default()).unwrap_err();
    assert!(failure.to_string().contains("--node-name"), "{failure}");
}

#[test]
fn nodeport_addresses_are_primary_or_prefixes() {
    assert_eq!("primary".parse(), Ok(NodePortAddresses::Primary));
    assert_eq!(
        "10.0.0.0/8,2001:db8::/64".parse(),
        Ok(NodePortAddresses::Prefixes(vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/64".parse().unwrap()]))
    );
    assert_eq!("10.1.2.3/8".parse(), Ok(NodePortAddresses::Prefixes(vec!["10.0.0.0/8".parse().unwrap()])));
    for wrong in ["", "primary,10.0.0.0/8", "10.0.0.0", "10.0.0.0/33", "2001:db8::/129", "10.0.0/8", "x/8"] {
        assert!(wrong.parse::<NodePortAddresses>().is_err(), "{wrong:?}");
    }
}

#[test]
fn external_ips_are_all_none_or_prefixes() {
    assert_eq!(run_args(&[]).unwrap().external_ips, ExternalIps::All);
    assert_eq!("none".parse(), Ok(ExternalIps::None));
    assert_eq!("192.0.2.0/24".parse(), Ok(ExternalIps::Within(vec!["192.0.2.0/24".parse().unwrap()])));
    for wrong in ["", "all,192.0.2.0/24", "192.0.2.1", "some"] {
        let error = wrong.parse::<ExternalIps>().unwrap_err();
        assert!(error.contains("all or none"), "{wrong:?}: {error}");
    }
}

#[test]
fn a_listening_port_of_0_or_70000_is_refused_by_flag() {
    for wrong in ["127.0.0.1:0", "127.0.0.1:70000", "10249", "localhost:1"] {
        let error = run_args(&["--metrics-address", wrong]).unwrap_err().to_string();
        assert!(error.contains("--metrics-address") && error.contains("1 to 65535"), "{wrong}: {error}");
    }
    assert_eq!("none".parse(), Ok(ListenAddress(None)));
}

#[test]
fn an_api_server_is_a_url_with_a_usable_port() {
    assert_eq!(api_server_url("https://a.example"), Ok("https://a.example".to_owned()));
    assert_eq!(api_server_url("http://127.0.0.1:8080/prefix"), Ok("http://127.0.0.1:8080/prefix".to_owned()));
    for wrong in ["", "https://", "ftp://a:1", "https://a:0", "https://a:70000", "a b"] {
        assert!(api_server_url(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn capacities_of_0_are_refused() {
    assert!(run_args(&["--max-frontends", "0"]).is_err());
    assert!(run_args(&["--max-backends", "4294967296"]).is_err());
    assert_eq!(run_args(&["--max-backends", "1000"]).unwrap().max_backends, 1000);
}
