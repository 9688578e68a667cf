//! Manifest texts in, events and complaints out.

use std::sync::Arc;

use super::set::{Changes, Content, Set};
use crate::event::{Event, FullList, ObjectName, ServiceKind};

/// A Service with one port at an address, as YAML.
fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n"
    )
}

/// A slice of a Service with some ready endpoints, as YAML.
fn slice(name: &str, service: &str, addresses: &[&str]) -> String {
    let endpoints: String = addresses.iter().map(|ip| format!("- addresses: [{ip}]\n")).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: \
         {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\nports: [{{port: 8080}}]\nendpoints:\n{endpoints}"
    )
}

fn write(set: &mut Set, file: &str, text: &str) -> Changes {
    set.update([(Arc::from(file), Content::Text(text.to_owned()))])
}

/// Events in short: `+service default/web 10.96.0.1`, `-slice default/s`.
fn short(events: &[Event]) -> Vec<String> {
    let one = |event: &Event| match event {
        Event::ServiceApplied(s) => {
            let ips: Vec<_> = s.cluster_ips.iter().map(ToString::to_string).collect();
            format!("+service {} {}", s.name, ips.join(","))
        }
        Event::ServiceDeleted(name) => format!("-service {name}"),
        Event::SliceApplied(s) => {
            let endpoints: Vec<_> = s
                .endpoints
                .iter()
                .map(|e| format!("{}{}", e.address, if e.ready { "" } else { " not-ready" }))
                .collect();
            format!("+slice {} of {}: {}", s.name, s.service, endpoints.join(","))
        }
        Event::SliceDeleted(name) => format!("-slice {name}"),
        Event::NodeApplied(node) => format!("+node {node:?}"),
        Event::NodeDeleted => "-node".to_owned(),
        Event::Pods(change) => format!("pods {change:?}"),
        Event::AddressesChanged(addresses) => format!("addresses {addresses:?}"),
        Event::ServicesReset(list) => short_list("services", list, |service| &service.name),
        Event::SlicesReset(list) => short_list("slices", list, |slice| &slice.name),
    };
    events.iter().map(one).collect()
}

/// `services: default/a, unread default/b, unread others`.
fn short_list<T>(kind: &str, list: &FullList<T>, name: fn(&T) -> &ObjectName) -> String {
    let read = list.objects.iter().map(|object| name(object).to_string());
    let unread = list.unreadable.iter().map(|name| format!("unread {name}"));
    let others = list.unnamed.then(|| "unread others".to_owned());
    format!("{kind}: {}", read.chain(unread).chain(others).collect::<Vec<_>>().join(", "))
}

fn problems(changes: &Changes) -> Vec<&str> {
    changes.problems.iter().map(|problem| &**problem).collect()
}

/// What one manifest leads to: events, or complaints if there are any.
fn outcome(text: &str) -> Vec<String> {
    let changes = write(&mut Set::default(), "f.yaml", text);
    if changes.problems.is_empty() {
        short(&changes.events)
    } else {
        changes.problems.iter().map(|p| p.to_string()).collect()
    }
}

#[test]
fn documents_of_both_languages_and_lists_are_read() {
    let cases: &[(&str, &[&str])] = &[
        (&service("web", "10.96.0.1"), &["+service default/web 10.96.0.1"]),
        (
            &format!(
                "# a comment\n---\n{}---\n# nothing\n---\n{}...\n",
                service("a", "10.96.0.1"),
                service("b", "10.96.0.2")
            ),
            &["+service default/a 10.96.0.1", "+service default/b 10.96.0.2"],
        ),
        (
            "{\"apiVersion\": \"v1\", \"kind\": \"Service\",\n\t\"metadata\": {\"name\": \"a\", \"namespace\": \"x\"}, \
             \"spec\": {\"clusterIP\": \"10.96.0.1\", \"ports\": [{\"port\": 80}]}}\n{\"apiVersion\": \"v1\", \"kind\": \
             \"Service\", \"metadata\": {\"name\": \"b\"}, \"spec\": {\"type\": \"ExternalName\"}}",
            &["+service default/b ", "+service x/a 10.96.0.1"],
        ),
        (
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n  spec: \
             {clusterIP: None}\n",
            &["+service default/a "],
        ),
        (
            "apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: a}\n  spec: {clusterIPs: [10.96.0.1, \
             'fd00::1'], ports: [{port: 80}]}\n",
            &["+service default/a 10.96.0.1,fd00::1"],
        ),
        ("{kind: ServiceList, apiVersion: v1}", &[]),
        ("", &[]),
        // Old objects have leading zeros, as kube-proxy still reads them.
        (&service("a", "010.096.0.1"), &["+service default/a 10.96.0.1"]),
    ];
    for (text, expected) in cases {
        assert_eq!(outcome(text), *expected, "{text}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn a_bad_document_is_told_with_file_document_object_and_field() {
    let web = |spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {spec}\n");
    let eps = |rest: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s, labels: \
             {{kubernetes.io/service-name: web}}}}\n{rest}\n"
        )
    };
    let service = "f.yaml, document 1 (line 1): Service default/web: ";
    let slice = "f.yaml, document 1 (line 1): EndpointSlice default/s: ";
    let cases: &[(String, String)] = &[
        (
            web("{clusterIP: 10.96.0.1, ports: [{name: a, port: 80}, {name: b, port: 70000}]}"),
            format!("{service}spec.ports[1].port: 70000 is not a port number (1 to 65535)"),
        ),
        (
            web("{clusterIP: 10.96.0.1, ports: [{port: 0}]}"),
            format!("{service}spec.ports[0].port: 0 is not a port number (1 to 65535)"),
        ),
        (
            web("{clusterIP: 10.96.0.1, ports: [{name: a, port: http}]}"),
            format!("{service}spec.ports[0].port: invalid type: string \"http\", expected i32"),
        ),
        (
            web("{clusterIP: 10.96.0.1, ports: [{name: a, port: 80}, {name: b, port: 80}]}"),
            format!("{service}spec.ports[1].port: 80 appears twice with the same protocol"),
        ),
        (
            web("{clusterIP: 10.96.0.1, ports: [{name: a, port: 80}, {name: a, port: 81}]}"),
            format!("{service}spec.ports[1].name: \"a\" is also the name of another port"),
        ),
        (
            web("{clusterIP: 10.96.0.1, ports: [{name: a, port: 80}, {port: 81}]}"),
            format!("{service}spec.ports[1].name: missing: with several ports each needs a name"),
        ),
        (
            web("{clusterIP: 10.96.0.1, ports: [{port: 80, protocol: tcp}]}"),
            format!("{service}spec.ports[0].protocol: \"tcp\" is not a protocol (TCP or UDP)"),
        ),
        (
            web("{clusterIP: 10.96.0.1, ports: [{port: 80, protocol: SCTP}]}"),
            format!("{service}spec.ports[0].protocol: SCTP is not served by this agent; the port is left out"),
        ),
        (
            web("{clusterIP: 10.96.0.1}"),
            format!("{service}spec.ports: missing: a Service with an address needs at least one port"),
        ),
        (
            web("{ports: [{port: 80}]}"),
            format!(
                "{service}spec.clusterIP: missing: nobody allocates an address here; set one, or None for a headless Service"
            ),
        ),
        (
            web("{clusterIP: 10.96.0, ports: [{port: 80}]}"),
            format!("{service}spec.clusterIP: \"10.96.0\" is not an IP address"),
        ),
        (
            web("{clusterIP: 127.0.0.1, ports: [{port: 80}]}"),
            format!("{service}spec.clusterIP: 127.0.0.1 is a loopback address, which no Service or endpoint can have"),
        ),
        (
            web("{clusterIP: 10.96.0.1, clusterIPs: [10.96.0.2], ports: [{port: 80}]}"),
            format!("{service}spec.clusterIPs[0]: 10.96.0.2 differs from spec.clusterIP, which is 10.96.0.1"),
        ),
        (
            web("{clusterIPs: [10.96.0.1, 10.96.0.2], ports: [{port: 80}]}"),
            format!("{service}spec.clusterIPs[1]: 10.96.0.2 is the second address of its family; at most one of each"),
        ),
        (
            web("{type: Magic, clusterIP: 10.96.0.1, ports: [{port: 80}]}"),
            format!("{service}spec.type: \"Magic\" is not a type (ClusterIP, NodePort, LoadBalancer or ExternalName)"),
        ),
        (
            eps("addressType: IPv4\nendpoints: [{addresses: [10.0.0.1]}, {addresses: ['fd00::1']}]"),
            format!("{slice}endpoints[1].addresses[0]: fd00::1, but addressType is IPv4"),
        ),
        (
            eps("addressType: IPv6\nendpoints: [{addresses: [10.0.0.1]}]"),
            format!("{slice}endpoints[0].addresses[0]: 10.0.0.1, but addressType is IPv6"),
        ),
        (eps("addressType: IPv4\nendpoints: [{addresses: []}]"), format!("{slice}endpoints[0].addresses: missing")),
        (eps("endpoints: []"), format!("{slice}addressType: missing (IPv4 or IPv6)")),
        (
            eps("addressType: IPv4\nports: [{name: a, port: 65536}]"),
            format!("{slice}ports[0].port: 65536 is not a port number (1 to 65535)"),
        ),
        (
            eps("addressType: IPv4\nendpoints: [{addresses: [169.254.169.254]}]"),
            format!(
                "{slice}endpoints[0].addresses[0]: 169.254.169.254 is a link-local address, which no Service or \
                 endpoint can have"
            ),
        ),
        (
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\naddressType: IPv4\n".to_owned(),
            format!("{slice}metadata.labels[kubernetes.io/service-name]: missing: the slice belongs to no Service"),
        ),
        (
            "apiVersion: v1\nkind: Endpoints\nmetadata: {name: e}\nsubsets: [{addresses: [{ip: 10.0.0.1}, {ip: x}]}]\n"
                .to_owned(),
            "f.yaml, document 1 (line 1): Endpoints default/e: subsets[0].addresses[1].ip: \"x\" is not an IP address"
                .to_owned(),
        ),
        (
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: web}, spec: \
             {clusterIP: 10.96.0.1, ports: [{port: -1}]}}\n"
                .to_owned(),
            "f.yaml, document 1 (line 1), items[0]: Service default/web: spec.ports[0].port: -1 is not a port number (1 \
             to 65535)"
                .to_owned(),
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {}\n".to_owned(),
            "f.yaml, document 1 (line 1): Service: metadata.name: missing, or not a text".to_owned(),
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: Web_1}\n".to_owned(),
            "f.yaml, document 1 (line 1): Service default/Web_1: metadata.name: not a name (at most 63 of a-z, 0-9 and -)"
                .to_owned(),
        ),
        ("kind: Service\n".to_owned(), "f.yaml, document 1 (line 1): Service: apiVersion: missing, or not a text".to_owned()),
        ("apiVersion: v1\n".to_owned(), "f.yaml, document 1 (line 1): kind: missing, or not a text".to_owned()),
        (
            "- 1\n".to_owned(),
            "f.yaml, document 1 (line 1): not an object: a document needs apiVersion, kind and metadata".to_owned(),
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment\n".to_owned(),
            "f.yaml, document 1 (line 1): apps/v1 Deployment is not read by this agent (Service, EndpointSlice, Endpoints, Node \
             and List are)"
                .to_owned(),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(outcome(text), [expected.as_str()], "{text}");
    }
}

#[test]
fn a_syntax_error_costs_only_its_document_and_names_its_line() {
    let text = format!("{}---\nkind: [\n---\n{}", service("a", "10.96.0.1"), service("b", "10.96.0.2"));
    let changes = write(&mut Set::default(), "f.yaml", &text);
    let expected = ["-node", "slices: unread others", "services: default/a, default/b, unread others"];
    assert_eq!(short(&changes.events), expected);
    let [problem] = problems(&changes)[..] else { panic!("{:?}", changes.problems) };
    assert!(problem.starts_with("f.yaml, document 2 (line 5): not YAML: "), "{problem}");
    assert!(problem.contains("line 6, column 7"), "{problem}");

    let changes = write(&mut Set::default(), "f.json", "{}\n{\"kind\": \"Service\",}\n");
    let [_, problem] = problems(&changes)[..] else { panic!("{:?}", changes.problems) };
    assert!(problem.starts_with("f.json, document 2 (line 2): not JSON: trailing comma (line 2, column "), "{problem}");
}

#[test]
fn an_object_that_goes_bad_keeps_its_last_good_state_while_the_rest_is_applied() {
    let mut set = Set::default();
    write(&mut set, "f.yaml", &format!("{}---\n{}", service("a", "10.96.0.1"), service("b", "10.96.0.2")));
    let changes = write(&mut set, "f.yaml", &format!("{}---\n{}", service("a", "nonsense"), service("b", "10.96.0.3")));
    assert_eq!(short(&changes.events), ["+service default/b 10.96.0.3"]);
    assert_eq!(
        problems(&changes),
        [
            "f.yaml, document 1 (line 1): Service default/a: spec.clusterIP: \"nonsense\" is not an IP address; the last \
          good state stays in force"
        ]
    );
    // Mended to what it was: nothing changes, and the complaint is gone.
    let changes =
        write(&mut set, "f.yaml", &format!("{}---\n{}", service("a", "10.96.0.1"), service("b", "10.96.0.3")));
    assert!(changes.events.is_empty() && changes.problems.is_empty(), "{changes:?}");
    // Removed while bad is removed.
    write(&mut set, "f.yaml", &format!("{}---\n{}", service("a", "nonsense"), service("b", "10.96.0.3")));
    let changes = write(&mut set, "f.yaml", &service("b", "10.96.0.3"));
    assert_eq!(short(&changes.events), ["-service default/a"]);
}

#[test]
fn nothing_is_deleted_while_a_document_of_the_file_cannot_be_named() {
    let mut set = Set::default();
    let (a, b) = (service("a", "10.96.0.1"), service("b", "10.96.0.2"));
    write(&mut set, "f.yaml", &format!("{a}---\n{b}"));
    let changes = write(&mut set, "f.yaml", &format!("{a}---\nkind: Serv: ice\n"));
    assert!(changes.events.is_empty(), "{changes:?}");
    let changes = write(&mut set, "f.yaml", &a);
    assert_eq!(short(&changes.events), ["-service default/b"]);
}

#[test]
fn what_was_never_read_is_listed_as_such_until_it_is_read_or_gone() {
    let mut set = Set::default();
    let bad_slice = slice("b", "web", &["10.0.0.256"]);
    let text = format!("{}---\n{}---\n{bad_slice}", service("a", "nonsense"), service("c", "10.96.0.3"));
    write(&mut set, "f.yaml", &text);
    let lists = |set: &Set| short(&set.full_lists()[1..]);
    assert_eq!(lists(&set), ["slices: unread default/b", "services: default/c, unread default/a"]);
    // Another file has the object.
    let changes = write(&mut set, "g.yaml", &service("a", "10.96.0.1"));
    assert_eq!(short(&changes.events)[2], "services: default/a, default/c");
    let changes = write(&mut set, "f.yaml", &service("c", "10.96.0.3"));
    assert_eq!(short(&changes.events)[1..], lists(&set));
    assert_eq!(lists(&set), ["slices: ", "services: default/a, default/c"]);
    // One that was read before is not unread when it goes bad, nor are the others of a file that was.
    let changes = write(&mut set, "g.yaml", &format!("{}---\nkind: [\n", service("a", "nonsense")));
    assert!(changes.events.is_empty(), "{changes:?}");
    let changes = set.update([("h.yaml".into(), Content::Unreadable("no permission".to_owned()))]);
    assert_eq!(short(&changes.events)[1], "slices: unread others");
    let changes = set.update([("h.yaml".into(), Content::Gone)]);
    assert_eq!(short(&changes.events)[1], "slices: ");
}

#[test]
fn a_file_that_cannot_be_read_keeps_its_last_good_state_and_one_that_is_gone_does_not() {
    let mut set = Set::default();
    write(&mut set, "f.yaml", &service("a", "10.96.0.1"));
    let changes = set.update([("f.yaml".into(), Content::Unreadable("not UTF-8 text".to_owned()))]);
    assert!(changes.events.is_empty(), "{changes:?}");
    assert_eq!(problems(&changes), ["f.yaml: not UTF-8 text; its last good state stays in force"]);
    let changes = set.update([("f.yaml".into(), Content::Gone)]);
    assert_eq!(short(&changes.events), ["-service default/a"]);
    assert!(changes.problems.is_empty());
}

#[test]
fn editing_one_object_leads_to_an_event_for_it_alone_with_endpoints_before_services_before_deletions() {
    let mut set = Set::default();
    let many: String =
        (1..100).map(|i| format!("{}---\n", service(&format!("s{i}"), &format!("10.96.0.{i}")))).collect();
    assert_eq!(write(&mut set, "f.yaml", &many).events.len(), 99);
    let edited = many.replace("10.96.0.42}", "10.96.1.42}").replace("10.96.0.42,", "10.96.1.42,");
    let changes = write(&mut set, "f.yaml", &edited);
    assert_eq!(short(&changes.events), ["+service default/s42 10.96.1.42"]);

    let mut set = Set::default();
    write(&mut set, "f.yaml", &format!("{}---\n{}", service("old", "10.96.0.1"), slice("old-1", "old", &["10.0.0.1"])));
    let text = format!("{}---\n{}", service("new", "10.96.0.2"), slice("new-1", "new", &["10.0.0.2"]));
    assert_eq!(
        short(&write(&mut set, "f.yaml", &text).events),
        [
            "+slice default/new-1 of new: 10.0.0.2",
            "+service default/new 10.96.0.2",
            "-service default/old",
            "-slice default/old-1"
        ]
    );
}

#[test]
fn of_two_documents_for_one_object_the_one_in_force_stays() {
    let mut set = Set::default();
    write(&mut set, "m.yaml", &service("web", "10.96.0.1"));
    let changes = write(&mut set, "a.yaml", &service("web", "10.96.0.2"));
    assert!(changes.events.is_empty(), "{changes:?}");
    assert_eq!(
        problems(&changes),
        [
            "a.yaml, document 1 (line 1): Service default/web: also in m.yaml, document 1 (line 1), which stays in force; \
          remove one of the two"
        ]
    );
    let changes = set.update([("m.yaml".into(), Content::Gone)]);
    assert_eq!(short(&changes.events), ["+service default/web 10.96.0.2"]);
    assert!(changes.problems.is_empty());

    let twice = format!("{}---\n{}", service("web", "10.96.0.2"), service("web", "10.96.0.3"));
    let changes = write(&mut set, "a.yaml", &twice);
    assert!(changes.events.is_empty(), "{changes:?}");
    assert_eq!(
        problems(&changes),
        [
            "a.yaml, document 2 (line 5): Service default/web: also in a.yaml, document 1 (line 1), which stays in force; \
          remove one of the two"
        ]
    );
}

#[test]
fn an_object_that_moves_to_another_file_does_not_change() {
    let mut set = Set::default();
    write(&mut set, "a.yaml", &service("web", "10.96.0.1"));
    let moved = [("a.yaml".into(), Content::Gone), ("b.yaml".into(), Content::Text(service("web", "10.96.0.1")))];
    let changes = set.update(moved);
    assert!(changes.events.is_empty() && changes.problems.is_empty(), "{changes:?}");
}

#[test]
fn an_endpoints_object_becomes_slices_as_the_control_plane_would_make_them() {
    let text = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\nsubsets:\n- addresses: [{ip: 10.124.142.43}]\n  \
                notReadyAddresses: [{ip: 10.0.0.2}]\n  ports: [{name: http, port: 80}]\n- addresses: [{ip: 10.0.0.3}]\n";
    assert_eq!(
        outcome(text),
        ["+slice default/web/0 of web: 10.124.142.43,10.0.0.2 not-ready", "+slice default/web/1 of web: 10.0.0.3"]
    );
}

#[test]
fn where_slices_and_endpoints_speak_for_one_service_the_rules_of_the_mirroring_controller_decide() {
    let endpoints =
        "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\nsubsets: [{addresses: [{ip: 10.0.0.9}]}]\n";
    let skipped =
        endpoints.replace("{name: web}", "{name: web, labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}}");
    let selecting = service("web", "10.96.0.1").replace("spec: {", "spec: {selector: {app: web}, ");
    let own = slice("web-own", "web", &["10.0.0.1"]);
    let copy = slice("web-copy", "web", &["10.0.0.8"]).replace(
        "labels: {",
        "labels: {endpointslice.kubernetes.io/managed-by: endpointslicemirroring-controller.k8s.io, ",
    );
    let slices = |documents: &[&str]| {
        let changes = write(&mut Set::default(), "f.yaml", &documents.join("---\n"));
        let mut slices = short(&changes.events);
        slices.retain(|event| event.starts_with("+slice"));
        (slices, changes.problems.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let web = "+slice default/web/0 of web: 10.0.0.9".to_owned();
    let web_own = "+slice default/web-own of web: 10.0.0.1".to_owned();
    let web_copy = "+slice default/web-copy of web: 10.0.0.8".to_owned();

    // Hand-made Endpoints beside a slice of another origin: both count.
    assert_eq!(slices(&[endpoints, &own]), (vec![web_own.clone(), web.clone()], vec![]));
    // A copy of the Endpoints is out of date by definition.
    let told = "EndpointSlice default/web-copy: left out, because it is a copy of Endpoints default/web".to_owned();
    assert_eq!(slices(&[endpoints, &copy]), (vec![web.clone()], vec![told]));
    // A copy alone is as good as any slice.
    assert_eq!(slices(&[&copy]), (vec![web_copy], vec![]));
    // A Service with a selector has its slices from elsewhere; without any, the Endpoints are all there is.
    let told = "Endpoints default/web: left out, because its Service has a selector and EndpointSlices".to_owned();
    assert_eq!(slices(&[&selecting, endpoints, &own]), (vec![web_own.clone()], vec![told]));
    assert_eq!(slices(&[&selecting, endpoints]), (vec![web], vec![]));
    let told = "Endpoints default/web: left out, as its label endpointslice.kubernetes.io/skip-mirror asks".to_owned();
    assert_eq!(slices(&[&skipped, &own]), (vec![web_own], vec![told]));
}

#[test]
fn what_makes_a_service_none_of_ours_is_seen() {
    let kind = |text: &str| {
        let changes = write(&mut Set::default(), "f.yaml", text);
        match &changes.events[..] {
            [Event::ServiceApplied(service)] => service.kind,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(kind(&service("a", "10.96.0.1")), ServiceKind::ClusterIp);
    assert_eq!(kind(&service("a", "None")), ServiceKind::Headless);
    let labelled =
        |label: &str| service("a", "10.96.0.1").replace("{name: a}", &format!("{{name: a, labels: {{{label}: x}}}}"));
    assert_eq!(kind(&labelled("service.kubernetes.io/service-proxy-name")), ServiceKind::OtherProxy);
    assert_eq!(kind(&labelled("service.kubernetes.io/headless")), ServiceKind::OtherProxy);
}
