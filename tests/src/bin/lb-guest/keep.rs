//! Kept sockets: opened and asked once, and again when the test says so. Judges nothing.

use std::{
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use lb_tests::guest::{Failure, KeepSpec, Said};

use crate::socket::Conversation;

/// How many are asked at a time: fewer than datagrams fit into the queue of a server.
const SIDE_BY_SIDE: usize = 32;

/// Sockets, by the spec that they were opened by.
pub(crate) struct Keeping(Vec<Vec<Kept>>);

struct Kept {
    /// None after it failed.
    socket: Option<Conversation>,
    said: Said,
}

impl Keeping {
    /// Opens them all and asks each once.
    pub(crate) fn open(specs: &[KeepSpec]) -> Result<Self, Failure> {
        let of_spec = |spec: &KeepSpec| (0..spec.sockets).map(|_| Kept::new(*spec)).collect();
        let mut keeping = Self(specs.iter().map(of_spec).collect::<Result<_, _>>()?);
        keeping.each(|kept| kept.use_it(|socket| socket.begin().and_then(|()| socket.ask())))?;
        Ok(keeping)
    }

    /// Asks each once more.
    pub(crate) fn ask(&mut self) -> Result<(), Failure> {
        self.each(|kept| kept.use_it(|socket| socket.ask()))
    }

    /// What each was told last.
    pub(crate) fn said(&self) -> Vec<Vec<Said>> {
        self.0.iter().map(|of_spec| of_spec.iter().map(|kept| kept.said.clone()).collect()).collect()
    }

    fn each(&mut self, act: impl Fn(&mut Kept) + Sync) -> Result<(), Failure> {
        let rest = Mutex::new(self.0.iter_mut().flatten());
        let next = || rest.lock().unwrap_or_else(PoisonError::into_inner).next();
        thread::scope(|scope| {
            let work = || std::iter::from_fn(next).for_each(&act);
            let threads: Vec<_> = (0..SIDE_BY_SIDE).map(|_| scope.spawn(work)).collect();
            let panicked = |_| Failure { call: "thread".to_owned(), errno: "panic".to_owned() };
            threads.into_iter().try_for_each(|thread| thread.join().map_err(panicked))
        })
    }
}

impl Kept {
    fn new(spec: KeepSpec) -> Result<Self, Failure> {
        let socket = Conversation::new(Duration::from_millis(spec.patience_ms), spec.traffic, spec.target)?;
        Ok(Self { socket: Some(socket), said: Ok(String::new()) })
    }

    fn use_it(&mut self, act: impl FnOnce(&mut Conversation) -> Said) {
        if let Some(socket) = &mut self.socket {
            self.said = act(socket);
        }
        if self.said.is_err() {
            self.socket = None;
        }
    }
}
