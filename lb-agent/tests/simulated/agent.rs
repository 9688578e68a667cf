//! An agent without a kernel: the real model, plan and reconciler over simulated maps, with a clock that is moved by
//! hand, and writes that fail.

use std::{
    cell::Cell,
    collections::BTreeSet,
    net::IpAddr,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use lb_agent::{
    datapath::{dump::dump, faulty::FaultyStore, sim::SimStore, snapshot::Snapshot, store::Capacity},
    event::Event,
    model::ModelConfig,
    reconcile::{Clock, Reconciler, Report, Step},
};

/// Room for everything that a test does not want to be short of.
pub(crate) const ROOMY: Capacity =
    Capacity { frontends: 1_000, backends: 4_000, slots: 8_000, affinities: 100, conns: 2_000 };

/// The node that the agent is on.
pub(crate) const NODE: &str = "n1";

/// A clock that stands still until it is moved.
#[derive(Clone, Debug)]
pub(crate) struct HandClock(Rc<Cell<Instant>>);

impl Clock for HandClock {
    fn now(&self) -> Instant {
        self.0.get()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
}

/// Which writes fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    /// How many of 100.
    pub(crate) percent: u32,
    /// Decides which, and which backends sockets are given.
    pub(crate) seed: u64,
}

impl Faults {
    /// All writes succeed.
    pub(crate) const NONE: Self = Self { percent: 0, seed: 1 };
}

/// The agent and its node. The node outlives the agent.
pub(crate) struct Agent {
    reconciler: Option<Reconciler<FaultyStore<SimStore>, HandClock>>,
    clock: HandClock,
    config: ModelConfig,
    /// On the node's interfaces.
    addresses: BTreeSet<IpAddr>,
}

impl Agent {
    /// On a node with empty maps.
    pub(crate) fn start(capacity: Capacity, faults: Faults) -> Self {
        let store = FaultyStore::new(SimStore::new(faults.seed, capacity), faults.percent, faults.seed);
        let config = ModelConfig { node_name: NODE.into(), ..ModelConfig::default() };
        Self::adopt(store, HandClock(Rc::new(Cell::new(Instant::now()))), config, BTreeSet::new())
    }

    /// Another one, on the same node, that finds empty maps with room for everything.
    pub(crate) fn on_empty_maps(&self) -> Self {
        let store = FaultyStore::new(SimStore::new(Faults::NONE.seed, ROOMY), 0, Faults::NONE.seed);
        Self::adopt(store, self.clock.clone(), self.config.clone(), self.addresses.clone())
    }

    /// Of the Node object nothing is known; who knows better says so afterwards.
    fn adopt(store: FaultyStore<SimStore>, clock: HandClock, config: ModelConfig, addresses: BTreeSet<IpAddr>) -> Self {
        let reconciler = Reconciler::with_clock(store, clock.clone(), config.clone());
        let reconciler = Some(reconciler.expect("simulated maps can be read"));
        let mut agent = Self { reconciler, clock, config, addresses: addresses.clone() };
        agent.receive([Event::NodeDeleted, Event::AddressesChanged(addresses)]);
        agent
    }

    /// The node has these addresses from now on.
    pub(crate) fn set_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        self.addresses.clone_from(&addresses);
        self.receive([Event::AddressesChanged(addresses)]);
    }

    /// How the agent is configured from the next restart on.
    pub(crate) fn config(&mut self) -> &mut ModelConfig {
        &mut self.config
    }

    /// The agent is gone, and another comes. In between, something may happen to the maps.
    pub(crate) fn restart(&mut self, meanwhile: impl FnOnce(&mut FaultyStore<SimStore>)) {
        let mut store = self.reconciler.take().expect("there is always an agent").into_store();
        meanwhile(&mut store);
        *self = Self::adopt(store, self.clock.clone(), self.config.clone(), std::mem::take(&mut self.addresses));
    }

    /// Takes events in and writes nothing yet.
    pub(crate) fn receive(&mut self, events: impl IntoIterator<Item = Event>) {
        self.reconciler().handle(events);
    }

    /// Some work, without waiting for the time of a retry.
    pub(crate) fn step(&mut self) -> Step {
        self.reconciler().step()
    }

    /// Works until nothing is left to do, waiting for retries by moving the clock.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.step() == Step::More {
                continue;
            }
            let Some(wake) = self.reconciler().next_wake() else { return };
            self.clock.0.set(wake.max(self.clock.0.get() + Duration::from_millis(1)));
        }
        panic!("still something to do: {:?}", self.report());
    }

    /// Time passes.
    pub(crate) fn wait(&mut self, time: Duration) {
        self.clock.0.set(self.clock.0.get() + time);
    }

    /// In how long something is tried again by itself.
    pub(crate) fn next_try(&mut self) -> Option<Duration> {
        let now = self.clock.0.get();
        self.reconciler().next_wake().map(|wake| wake.saturating_duration_since(now))
    }

    pub(crate) fn report(&mut self) -> Report {
        self.reconciler().report()
    }

    pub(crate) fn reconciler(&mut self) -> &mut Reconciler<FaultyStore<SimStore>, HandClock> {
        self.reconciler.as_mut().expect("there is always an agent")
    }

    /// The maps below the faults.
    pub(crate) fn maps(&self) -> &SimStore {
        self.reconciler.as_ref().expect("there is always an agent").store().inner()
    }

    /// What the maps hold, as text.
    pub(crate) fn dump(&self) -> Vec<String> {
        dump(&Snapshot::read(self.maps()).expect("simulated maps can be read"))
    }
}
