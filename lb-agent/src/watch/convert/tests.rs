//! API objects in, events out; and what is said about fields that cannot be taken as they are.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{node, pod, service, slice};
use crate::{
    event::{Node, Service, TrafficPolicy},
    watch::intern::Interner,
};

/// A Service with these fields in its spec, besides a cluster address of each family and a port.
fn spec(fields: Value) -> Value {
    let mut spec = json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd96::1"], "ports": [{"port": 80}]});
    spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
}

/// The Service, and the warnings.
fn read(object: Value) -> (Service, Vec<String>) {
    let converted = service(&serde_json::from_value(object).unwrap(), &mut Interner::default()).unwrap();
    (converted.object, converted.warnings.iter().map(ToString::to_string).collect())
}

fn refused(object: Value) -> String {
    service(&serde_json::from_value(object).unwrap(), &mut Interner::default()).unwrap_err().to_string()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn external_ips_that_mean_something_on_the_node_itself_are_left_out_and_named_while_the_rest_is_served() {
    let special = [
        ("127.0.0.1", "127.0.0.1 is a loopback address"),
        ("::1", "::1 is a loopback address"),
        ("169.254.169.254", "169.254.169.254 is a link-local address"),
        ("fe80::1", "fe80::1 is a link-local address"),
        ("224.0.0.1", "224.0.0.1 is a multicast address"),
        ("ff02::1", "ff02::1 is a multicast address"),
        ("0.0.0.0", "0.0.0.0 is the unspecified address"),
        ("::", ":: is the unspecified address"),
        ("255.255.255.255", "255.255.255.255 is the broadcast address"),
        ("::ffff:127.0.0.1", "127.0.0.1 is a loopback address"),
        ("192.0.2", "\"192.0.2\" is not an IP address"),
    ];
    for (address, why) in special {
        let (web, warnings) = read(spec(json!({"externalIPs": ["192.0.2.1", address]})));
        assert_eq!((web.external_ips, web.ports.len()), (ips(&["192.0.2.1"]), 1), "{address}");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with(&format!("Service default/web: spec.externalIPs[1]: {why}")), "{warnings:?}");
        let mut object = spec(json!({}));
        object["status"] = json!({"loadBalancer": {"ingress": [{"ip": address}, {"ip": "192.0.2.1"}]}});
        let (web, warnings) = read(object);
        assert_eq!(web.ingress_ips, ips(&["192.0.2.1"]), "{address}");
        let start = format!("Service default/web: status.loadBalancer.ingress[0].ip: {why}");
        assert!(warnings.len() == 1 && warnings[0].starts_with(&start), "{warnings:?}");
    }
}

#[test]
fn an_external_ip_of_a_family_without_a_cluster_ip_is_left_out_and_an_ingress_ip_silently() {
    let mut object =
        spec(json!({"clusterIPs": ["10.96.0.1"], "externalIPs": ["2001:db8::1", "192.0.2.1", "192.0.2.1"]}));
    object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "2001:db8::2"}]}});
    let (web, warnings) = read(object);
    assert_eq!((web.external_ips, web.ingress_ips), (ips(&["192.0.2.1"]), vec![]));
    assert!(warnings.len() == 1 && warnings[0].contains("spec.externalIPs[0]: 2001:db8::1 is of a family"));
}

#[test]
fn ingress_addresses_are_taken_unless_the_load_balancer_keeps_them() {
    let mut object = spec(json!({"type": "LoadBalancer"}));
    object["status"] = json!({"loadBalancer": {"ingress": [
        {"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "VIP"}, {"ip": "192.0.2.3", "ipMode": "Proxy"},
        {"hostname": "lb.example"}]}});
    let (web, warnings) = read(object.clone());
    assert_eq!((web.ingress_ips, warnings), (ips(&["192.0.2.1", "192.0.2.2"]), vec![]));
    // Whatever the type is by now.
    object["spec"]["type"] = "ClusterIP".into();
    assert_eq!(read(object).0.ingress_ips.len(), 2);
}

#[test]
fn source_ranges_are_read_as_kube_proxy_does() {
    let ranges = |list: Value| {
        let (web, warnings) = read(spec(json!({"loadBalancerSourceRanges": list})));
        (web.source_ranges.iter().map(ToString::to_string).collect::<Vec<_>>(), warnings)
    };
    assert_eq!(
        ranges(json!([" 10.0.0.0/8 ", "fd00::1/8", "010.1.2.3/24", "10.0.0.0/8", ""])),
        (vec!["10.0.0.0/8".to_owned(), "fd00::/8".to_owned(), "10.1.2.0/24".to_owned()], vec![])
    );
    let (good, warnings) = ranges(json!(["10.0.0.1", "10.0.0.0/33", "10.0.0.0/+8", "192.0.2.0/24"]));
    assert_eq!((good, warnings.len()), (vec!["192.0.2.0/24".to_owned()], 3));
    assert!(
        warnings[0].starts_with("Service default/web: spec.loadBalancerSourceRanges[0]: \"10.0.0.1\" is not a prefix")
    );
    let (good, warnings) = ranges(json!(["nonsense"]));
    assert!(good.is_empty() && warnings[0].ends_with("everybody may connect"), "{warnings:?}");
}

#[test]
fn policies_and_affinity_are_read_with_the_defaults_of_the_api() {
    let (web, warnings) = read(spec(json!({})));
    assert_eq!((web.internal_policy, web.external_policy), (TrafficPolicy::Cluster, TrafficPolicy::Cluster));
    assert_eq!((web.affinity_s, web.health_check_port, warnings), (0, None, vec![]));
    let (web, _) = read(spec(json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local",
        "sessionAffinity": "ClientIP", "type": "LoadBalancer", "healthCheckNodePort": 32000})));
    assert_eq!((web.internal_policy, web.external_policy), (TrafficPolicy::Local, TrafficPolicy::Local));
    assert_eq!((web.affinity_s, web.health_check_port), (10_800, Some(32_000)));
    let timeout = |seconds: i32| {
        spec(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}}))
    };
    assert_eq!(read(timeout(30)).0.affinity_s, 30);
    assert_eq!(read(timeout(86_400)).0.affinity_s, 86_400);
    for wrong in [0, -1, 86_401] {
        let text = refused(timeout(wrong));
        assert!(
            text.starts_with("Service default/web: spec.sessionAffinityConfig.clientIP.timeoutSeconds: "),
            "{text}"
        );
    }
    for (field, wrong) in
        [("internalTrafficPolicy", "local"), ("externalTrafficPolicy", "Node"), ("sessionAffinity", "Cookie")]
    {
        let text = refused(spec(json!({field: wrong})));
        assert!(text.starts_with(&format!("Service default/web: spec.{field}: \"{wrong}\" is not ")), "{text}");
    }
}

#[test]
fn a_health_check_port_counts_only_where_it_is_needed() {
    let port = |fields: Value| read(spec(fields)).0.health_check_port;
    let local = "Local";
    assert_eq!(port(json!({"healthCheckNodePort": 32000, "type": "LoadBalancer"})), None);
    assert_eq!(port(json!({"healthCheckNodePort": 32000, "type": "NodePort", "externalTrafficPolicy": local})), None);
    let (web, warnings) = read(spec(json!({"type": "LoadBalancer", "externalTrafficPolicy": local})));
    assert_eq!(web.health_check_port, None);
    assert!(warnings[0].starts_with("Service default/web: spec.healthCheckNodePort: 0 is not a port"), "{warnings:?}");
}

#[test]
fn node_ports_are_taken_whatever_the_type_and_missed_where_nobody_allocates_them() {
    let ports = |fields: Value| {
        let (web, warnings) = read(spec(fields));
        (web.ports.iter().map(|port| port.node_port).collect::<Vec<_>>(), warnings)
    };
    assert_eq!(ports(json!({"ports": [{"port": 80, "nodePort": 30080}]})), (vec![Some(30080)], vec![]));
    let both = json!([{"name": "a", "port": 53, "nodePort": 30053, "protocol": "UDP"},
        {"name": "b", "port": 53, "nodePort": 30053}]);
    assert_eq!(ports(json!({"type": "NodePort", "ports": both})).0, [Some(30053), Some(30053)]);
    let (none, warnings) = ports(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 0}]}));
    assert_eq!(none, [None]);
    assert!(warnings[0].starts_with("Service default/web: spec.ports[0].nodePort: missing"), "{warnings:?}");
    assert_eq!(ports(json!({"type": "LoadBalancer", "ports": [{"port": 80}]})), (vec![None], vec![]));
    let twice = json!([{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 30080}]);
    let text = refused(spec(json!({"ports": twice})));
    assert_eq!(text, "Service default/web: spec.ports[1].nodePort: is also another port's, with the same protocol");
    let text = refused(spec(json!({"ports": [{"port": 80, "nodePort": 70000}]})));
    assert_eq!(text, "Service default/web: spec.ports[0].nodePort: 70000 is not a port number (1 to 65535)");
}

#[test]
fn hints_for_zones_and_nodes_are_read() {
    let object = json!({"metadata": {"name": "s", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080}], "endpoints": [
            {"addresses": ["10.0.0.1"], "hints": {"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "n1"}]}},
            {"addresses": ["10.0.0.2"], "hints": {}},
            {"addresses": ["10.0.0.3"]}]});
    let read = slice(&serde_json::from_value(object).unwrap(), &mut Interner::default()).unwrap().unwrap().object;
    let hints = read.endpoints[0].hints.as_ref().unwrap();
    assert_eq!((hints.zones.len(), &*hints.zones[1], &*hints.nodes[0]), (2, "b", "n1"));
    assert!(read.endpoints[1].hints.is_none() && read.endpoints[2].hints.is_none());
}

#[test]
fn of_a_node_zone_first_addresses_and_fate_are_read() {
    let read = |object: Value| {
        let converted = node(&serde_json::from_value(object).unwrap(), &mut Interner::default());
        (converted.object, converted.warnings.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let address = |kind: &str, address: &str| json!({"type": kind, "address": address});
    let (n1, warnings) = read(json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "a"}},
        "spec": {"taints": [{"key": "other", "effect": "NoSchedule"}]},
        "status": {"addresses": [address("ExternalIP", "198.51.100.1"), address("Hostname", "n1"),
            address("InternalIP", "n1.example"), address("InternalIP", "fd01::1"), address("InternalIP", "fd01::2"),
            address("ExternalIP", "2001:db8::1")]}}));
    let expected = Node { zone: Some("a".into()), addresses: ips(&["fd01::1", "198.51.100.1"]), going_away: false };
    assert_eq!(n1, expected);
    assert_eq!(warnings, ["Node n1: status.addresses[2].address: \"n1.example\" is not an IP address; left out"]);
    let (empty, _) = read(json!({"metadata": {"name": "n1"}}));
    assert_eq!(empty, Node::default());
    let taint = json!({"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"});
    let (tainted, _) = read(json!({"metadata": {"name": "n1"}, "spec": {"taints": [taint]}}));
    assert!(tainted.going_away);
    let (deleted, _) = read(json!({"metadata": {"name": "n1", "deletionTimestamp": "2026-11-22T07:00:00Z"}}));
    assert!(deleted.going_away);
}

#[test]
fn of_pods_those_with_the_annotation_are_read_and_another_value_is_named() {
    let read = |metadata: Value, spec: Value| {
        let object = json!({"metadata": metadata, "spec": spec});
        let read = pod(&serde_json::from_value(object).unwrap(), &mut Interner::default());
        read.map(|pod| {
            pod.map(|pod| (pod.object.uid.to_string(), pod.warnings.iter().map(ToString::to_string).collect()))
        })
        .map_err(|problem| problem.to_string())
    };
    let metadata =
        |annotations: Value| json!({"name": "p", "namespace": "default", "uid": "u-1", "annotations": annotations});
    let spec = || json!({"containers": []});
    let excluded = json!({"lb-agent/socket-lb-exclude": "true"});
    assert_eq!(read(metadata(excluded.clone()), spec()), Ok(Some(("u-1".to_owned(), Vec::<String>::new()))));
    for others in [json!({}), json!({"lb-agent/socket-lb-exclude": "false"}), json!({"x": "true"})] {
        assert_eq!(read(metadata(others), spec()), Ok(None));
    }
    let mirror = json!({"lb-agent/socket-lb-exclude": "true", "kubernetes.io/config.mirror": "hash"});
    assert_eq!(read(metadata(mirror), spec()).unwrap().unwrap().0, "hash", "the kubelet's own uid of a static Pod");
    let wrong = read(metadata(json!({"lb-agent/socket-lb-exclude": "yes"})), spec()).unwrap_err();
    assert_eq!(
        wrong,
        "Pod default/p: metadata.annotations[lb-agent/socket-lb-exclude]: \"yes\" is neither \"true\" nor \"false\""
    );
    let (_, warnings) = read(metadata(excluded), json!({"containers": [], "hostNetwork": true})).unwrap().unwrap();
    assert!(warnings[0].starts_with("Pod default/p: spec.hostNetwork: "), "{warnings:?}");
}
