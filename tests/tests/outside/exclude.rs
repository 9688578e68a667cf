//! Workloads that are excluded from the socket layer are served by the packet layer, as those that it cannot see.

use anyhow::Result;
use lb_tests::{Guest, Pod, eventually, guest::Traffic, poll::PATIENCE};

use crate::world::{EVERY_TRAFFIC, Offload, VARIANTS, World};

/// Whether a connection of this pod's leaves it for the address `to` itself.
fn keeps_the_address(pod: &Pod, to: std::net::SocketAddr, client: &Guest) -> Result<bool> {
    let connection = client.tcp(to)?;
    let open = pod.netns().output("ss", &["-Htn", "state", "established", "dst", &to.to_string()])?;
    drop(connection);
    Ok(!open.trim().is_empty())
}

#[test]
fn an_excluded_pod_keeps_the_services_address_and_reaches_every_backend() -> Result<()> {
    for (layout, offload) in VARIANTS.into_iter().filter(|(_, offload)| *offload == Offload::On) {
        let flags = ["--pod-devices", "cni0,veth*", "--socket-lb-exclude", "mesh/**,mesh"];
        let world = World::with(layout, offload, &flags)?;
        let (mesh, plain) = (world.nodes[0].pod("mesh")?, world.nodes[0].pod("plain")?);
        let (excluded, other) = (mesh.guest()?, plain.guest()?);
        let to = world.frontends();
        // Its device may get its programs a moment later than its cgroup is excluded: until then the node refuses.
        eventually("the new pod to be excluded", PATIENCE, || {
            Ok(keeps_the_address(&mesh, to[0], &excluded).ok().filter(|kept| *kept))
        })?;
        for to in to {
            let what = format!("{layout:?} {to}");
            assert!(keeps_the_address(&mesh, to, &excluded)?, "{what}");
            assert!(!keeps_the_address(&plain, to, &other)?, "{what}");
            for traffic in EVERY_TRAFFIC {
                let met: Result<Vec<String>> = (0..40).map(|_| excluded.ask(traffic, to)).collect();
                let met = met?;
                for name in ["a1", "a2", "b1", "b2"] {
                    assert!(met.iter().any(|answer| answer.starts_with(name)), "{what} {traffic:?}: {met:?}");
                }
            }
        }
        assert_eq!(excluded.tcp(world.node_port()[0])?.names()?.peer, Some(world.node_port()[0]));
        assert!(excluded.ask(Traffic::Tcp, world.pods[2].at4(crate::world::POD_PORT))?.starts_with("b1"));
    }
    Ok(())
}
