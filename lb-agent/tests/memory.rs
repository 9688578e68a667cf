//! How much memory the agent's own state takes in large clusters: all Services, endpoints and the mirror of the maps, as
//! allocated. Counted, not estimated from the process, so that it does not depend on the machine.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering},
};

use arcstr::ArcStr;
use lb_agent::{
    datapath::store::{Capacity, FamilyStore, MapStore, StoreError},
    event::{Endpoint, EndpointSlice, Event, ObjectName, Service, ServicePort, SlicePort},
    model::ModelConfig,
    reconcile::{Reconciler, Step},
};
use lb_common::abi::{
    Affinity, AffinityKey, Backend, ClusterIps, Family, Frontend, FrontendKey, NameKey, Proto, Slot, SourceKey,
};

/// Bytes that are allocated now.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Maps that take everything, and hold it in the kernel's memory, so to say.
struct Elsewhere;

impl<F: Family> FamilyStore<F> for Elsewhere {
    fn put_frontend(&mut self, _: &FrontendKey<F>, _: &Frontend) -> Result<(), StoreError> {
        Ok(())
    }

    fn delete_frontend(&mut self, _: &FrontendKey<F>) -> Result<(), StoreError> {
        Ok(())
    }

    fn put_backend(&mut self, _: u32, _: &Backend<F>) -> Result<(), StoreError> {
        Ok(())
    }

    fn delete_backend(&mut self, _: u32) -> Result<(), StoreError> {
        Ok(())
    }

    fn write_slots(&mut self, _: u32, _: &[Slot<F>]) -> Result<(), StoreError> {
        Ok(())
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey<F>, Frontend)>, StoreError> {
        Ok(Vec::new())
    }

    fn backends(&self) -> Result<Vec<(u32, Backend<F>)>, StoreError> {
        Ok(Vec::new())
    }

    fn slots(&self, _: u32, _: u32) -> Result<Vec<Slot<F>>, StoreError> {
        Ok(Vec::new())
    }

    fn put_cluster_ips(&mut self, _: &ClusterIps<F>) -> Result<(), StoreError> {
        Ok(())
    }

    fn cluster_ips(&self) -> Result<ClusterIps<F>, StoreError> {
        Ok(ClusterIps::default())
    }

    fn put_source(&mut self, _: &SourceKey<F>, _: u32) -> Result<(), StoreError> {
        Ok(())
    }

    fn delete_source(&mut self, _: &SourceKey<F>, _: u32) -> Result<(), StoreError> {
        Ok(())
    }

    fn sources(&self) -> Result<Vec<(SourceKey<F>, u32)>, StoreError> {
        Ok(Vec::new())
    }

    fn capacity(&self) -> Capacity {
        Capacity::default()
    }
}

impl MapStore for Elsewhere {
    fn put_name(&mut self, _: NameKey, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    fn delete_name(&mut self, _: NameKey) -> Result<(), StoreError> {
        Ok(())
    }

    fn names(&self) -> Result<Vec<(NameKey, String)>, StoreError> {
        Ok(Vec::new())
    }

    fn affinities(&self) -> Result<Vec<(AffinityKey, Affinity)>, StoreError> {
        Ok(Vec::new())
    }

    fn delete_affinity(&mut self, _: &AffinityKey) -> Result<(), StoreError> {
        Ok(())
    }

    fn wait_for_readers(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Names that many objects share, as the watch shares them.
struct Shared {
    namespace: ArcStr,
    nodes: Vec<ArcStr>,
    zones: Vec<ArcStr>,
    port: ArcStr,
}

fn ip(kind: u8, index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(kind, 0, 0, 1)) + index)
}

fn service(index: u32, shared: &Shared) -> Service {
    Service {
        cluster_ips: vec![ip(10, index).into()],
        ports: vec![ServicePort { name: shared.port.clone(), proto: Proto::Tcp, port: 80, node_port: None }],
        ..Service::named(ObjectName::new(shared.namespace.clone(), format!("service-{index}")))
    }
}

fn slice(index: u32, endpoints: u32, shared: &Shared) -> EndpointSlice {
    let pick = |names: &[ArcStr], n: u32| Some(names[n as usize % names.len()].clone());
    let endpoint = |n: u32| Endpoint {
        address: ip(100, n).into(),
        ready: true,
        serving: true,
        terminating: false,
        node: pick(&shared.nodes, n),
        zone: pick(&shared.zones, n),
        hints: None,
    };
    EndpointSlice {
        name: ObjectName::new(shared.namespace.clone(), format!("service-{index}-slice")),
        service: format!("service-{index}").into(),
        ports: vec![SlicePort { name: shared.port.clone(), proto: Proto::Tcp, port: Some(8080) }],
        endpoints: (index * endpoints..(index + 1) * endpoints).map(endpoint).collect(),
    }
}

/// Megabytes that the state of so many Services takes, once all is in the maps.
fn megabytes(services: u32, endpoints: u32) -> f64 {
    let before = ALLOCATED.load(Ordering::Relaxed);
    let mut reconciler = Reconciler::new(Elsewhere, ModelConfig::default()).unwrap();
    let names = |kind: &str, n: u32| (0..n).map(|index| format!("{kind}-{index}").into()).collect();
    let shared = Shared {
        namespace: "default".into(),
        nodes: names("node", 1_000),
        zones: names("zone", 3),
        port: "http".into(),
    };
    let slices: Vec<_> = (0..services).map(|index| slice(index, endpoints, &shared)).collect();
    let all: Vec<_> = (0..services).map(|index| service(index, &shared)).collect();
    reconciler.handle([Event::NodeDeleted, Event::AddressesChanged([].into())]);
    reconciler.handle([Event::SlicesReset(slices.into())]);
    reconciler.handle([Event::ServicesReset(all.into())]);
    while reconciler.step() == Step::More {}
    // What is told of is not kept.
    let report = reconciler.report();
    assert_eq!(report.usage.v4.backends, services * endpoints, "{report:?}");
    drop(report);
    (ALLOCATED.load(Ordering::Relaxed) - before) as f64 / 1e6
}

/// One test, for the allocator counts those of all threads. With the binary itself, the decoding of the lists and what
/// the allocator wastes, the process is to stay below 60 MB.
#[test]
fn the_state_of_large_clusters_stays_small() {
    for (services, endpoints, limit) in [(10_000, 10, 28.0), (2_000, 100, 24.0)] {
        let found = megabytes(services, endpoints);
        eprintln!("{services} Services with {endpoints} endpoints each: {found:.1} MB");
        assert!(found < limit, "{services} Services with {endpoints} endpoints each take {found:.1} MB");
    }
}
