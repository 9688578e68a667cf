use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use lb_common::abi::{Backend, Flow, FlowKey, Proto};

use super::*;
use crate::datapath::flows::{Cursor, Half};

/// Flows to backends 1 and 2 of Service port 1, in IPv4 only.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<Half<V4>>>>);

impl Shared {
    fn add(&self, client: u16, backend: u32) {
        let key = FlowKey { src_port: client, dst_port: 80, proto: Proto::Udp.number(), ..FlowKey::default() };
        let half = Flow {
            src_port: client,
            dst_port: 8080,
            service: 1,
            backend,
            last_seen_s: clock::monotonic_s(),
            ..Flow::default()
        };
        self.0.lock().unwrap().push((key, half.sealed(&key)));
    }

    fn backends(&self) -> Vec<u32> {
        self.0.lock().unwrap().iter().map(|(_, half)| half.backend).collect()
    }

    fn until(&self, backends: &[u32]) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.backends() != backends {
            assert!(Instant::now() < deadline, "{:?} are left", self.backends());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl FlowStore<V4> for Shared {
    fn read_flows(&mut self, _: Cursor, into: &mut Vec<Half<V4>>) -> Result<Cursor, StoreError> {
        into.clone_from(&self.0.lock().unwrap());
        Ok(None)
    }

    fn flow(&self, key: &FlowKey<V4>) -> Result<Option<Flow<V4>>, StoreError> {
        Ok(self.0.lock().unwrap().iter().find(|(known, _)| known == key).map(|(_, half)| *half))
    }

    fn delete_flow(&mut self, key: &FlowKey<V4>) -> Result<bool, StoreError> {
        let mut all = self.0.lock().unwrap();
        let before = all.len();
        all.retain(|(known, _)| known != key);
        Ok(all.len() < before)
    }

    fn backend(&self, _: u32) -> Result<Option<Backend<V4>>, StoreError> {
        Ok(None)
    }

    fn flow_capacity(&self) -> u32 {
        100
    }
}

impl FlowStore<V6> for Shared {
    fn read_flows(&mut self, _: Cursor, into: &mut Vec<Half<V6>>) -> Result<Cursor, StoreError> {
        into.clear();
        Ok(None)
    }

    fn flow(&self, _: &FlowKey<V6>) -> Result<Option<Flow<V6>>, StoreError> {
        Ok(None)
    }

    fn delete_flow(&mut self, _: &FlowKey<V6>) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn backend(&self, _: u32) -> Result<Option<Backend<V6>>, StoreError> {
        Ok(None)
    }

    fn flow_capacity(&self) -> u32 {
        100
    }
}

fn gone(backend: u32) -> Vec<GoneBackend> {
    vec![GoneBackend { addr: ([0, 0, 0, 0], 8080).into(), proto: Proto::Udp, service: 1, backend }]
}

#[test]
fn flows_of_a_gone_backend_end_at_once_and_those_that_were_being_made_a_little_later() {
    let shared = Shared::default();
    shared.add(1, 1);
    shared.add(2, 2);
    let (told, progress) = channel();
    let aging =
        FlowAging::start(shared.clone(), TcpPolicy::Never, move |progress| told.send(progress).unwrap()).unwrap();
    aging.gone(gone(1));
    shared.until(&[2]);
    assert!(matches!(progress.recv().unwrap(), Progress::Ended([Ended { gone: 1, .. }, _])));
    shared.add(3, 1);
    shared.until(&[2]);
}

#[test]
fn a_sweep_ends_the_flows_of_backends_that_are_not_in_the_maps() {
    let shared = Shared::default();
    shared.add(1, 1);
    shared.add(2, 2);
    let aging = FlowAging::start(shared.clone(), TcpPolicy::Never, drop).unwrap();
    aging.sweep();
    shared.until(&[]);
}
