//! Keeps the maps like the node: what to put and what to delete, in terms of [`Node`].

use std::{
    collections::BTreeMap,
    io, mem,
    net::{Ipv4Addr, Ipv6Addr},
};

/// A network namespace as a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// The source of its IPv4 connections to the outside, if it has one.
    pub v4: Option<Ipv4Addr>,
    /// As [`Self::v4`], IPv6.
    pub v6: Option<Ipv6Addr>,
}

/// What [`Node::clients`] saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// By the cookies of their network namespaces.
    pub clients: BTreeMap<u64, Client>,
    /// Why others could not be looked at.
    pub trouble: Option<io::Error>,
}

/// How many entries the maps have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// `lb_clients4`.
    pub v4: usize,
    /// `lb_clients6`.
    pub v6: usize,
}

/// What is needed of the system.
pub trait Node {
    /// Whether some Service has ranges now.
    fn has_ranges(&mut self) -> io::Result<bool>;
    /// The clients there are.
    fn clients(&mut self) -> io::Result<Seen>;
    /// What the maps hold.
    fn known(&mut self) -> io::Result<BTreeMap<u64, Client>>;
    /// Makes the maps' entries of this cookie this client's; those of a family without an address go.
    fn put(&mut self, cookie: u64, client: &Client) -> io::Result<()>;
}

/// What the maps hold, and whether they are to hold anything.
#[derive(Debug)]
pub struct Keeper<N> {
    node: N,
    known: BTreeMap<u64, Client>,
    active: bool,
}

impl<N: Node> Keeper<N> {
    /// Goes on with what an earlier agent left.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn new(mut node: N) -> io::Result<Self> {
        let known = node.known()?;
        Ok(Self { node, active: !known.is_empty(), known })
    }

    /// Whether clients are to be looked for.
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// What the maps hold.
    pub fn kept(&self) -> Kept {
        let count = |has: fn(&Client) -> bool| self.known.values().filter(|client| has(client)).count();
        Kept { v4: count(|client| client.v4.is_some()), v6: count(|client| client.v6.is_some()) }
    }

    /// The Services may have got or lost ranges. Returns whether that has changed whether clients are to be looked for.
    ///
    /// # Errors
    /// The maps cannot be read or written: then nothing has changed but that some entries may be gone, and it is to be called
    /// again.
    pub fn services_changed(&mut self) -> io::Result<bool> {
        let active = self.node.has_ranges()?;
        if !active {
            self.become_like(&BTreeMap::new())?;
        }
        Ok(active != mem::replace(&mut self.active, active))
    }

    /// Looks at the node and makes the maps like it.
    ///
    /// # Errors
    /// The node cannot be looked at: then the maps stay as they are. Or some of it cannot, or a map cannot be written:
    /// then all else is done.
    pub fn look(&mut self) -> io::Result<()> {
        if !self.active {
            return Ok(());
        }
        let Seen { mut clients, trouble } = self.node.clients()?;
        if trouble.is_some() {
            // What was not seen may be there all the same; a cookie is never another namespace's.
            for (cookie, client) in &self.known {
                clients.entry(*cookie).or_insert(*client);
            }
        }
        self.become_like(&clients)?;
        trouble.map_or(Ok(()), Err)
    }

    /// One client's failure does not keep the others; the last is told.
    fn become_like(&mut self, found: &BTreeMap<u64, Client>) -> io::Result<()> {
        let gone: Vec<u64> = self.known.keys().filter(|cookie| !found.contains_key(cookie)).copied().collect();
        let mut result = Ok(());
        // First, so that there is room.
        for cookie in gone {
            match self.node.put(cookie, &Client::default()) {
                Ok(()) => drop(self.known.remove(&cookie)),
                Err(error) => result = Err(error),
            }
        }
        for (cookie, client) in found {
            if self.known.get(cookie) != Some(client) {
                match self.node.put(*cookie, client) {
                    Ok(()) => drop(self.known.insert(*cookie, *client)),
                    Err(error) => result = Err(error),
                }
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes are counted; the write of one cookie may fail.
    #[derive(Default)]
    struct Fake {
        ranges: bool,
        clients: BTreeMap<u64, Client>,
        map: BTreeMap<u64, Client>,
        writes: usize,
        looks: usize,
        looks_away: bool,
        broken: Option<u64>,
    }

    impl Node for Fake {
        fn has_ranges(&mut self) -> io::Result<bool> {
            Ok(self.ranges)
        }

        fn clients(&mut self) -> io::Result<Seen> {
            self.looks += 1;
            let trouble = self.looks_away.then(|| io::ErrorKind::PermissionDenied.into());
            Ok(Seen { clients: self.clients.clone(), trouble })
        }

        fn known(&mut self) -> io::Result<BTreeMap<u64, Client>> {
            Ok(self.map.clone())
        }

        fn put(&mut self, cookie: u64, client: &Client) -> io::Result<()> {
            if self.broken == Some(cookie) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.writes += 1;
            if *client == Client::default() {
                self.map.remove(&cookie);
            } else {
                self.map.insert(cookie, *client);
            }
            Ok(())
        }
    }

    fn client(last: u8) -> Client {
        Client { v4: Some(Ipv4Addr::new(10, 0, 0, last)), v6: None }
    }

    #[test]
    fn clients_are_kept_only_while_some_service_has_ranges() {
        let node = Fake { clients: [(1, client(1)), (2, client(2))].into(), ..Fake::default() };
        let mut keeper = Keeper::new(node).unwrap();
        assert!(!keeper.services_changed().unwrap());
        keeper.look().unwrap();
        assert_eq!((keeper.node.looks, keeper.node.writes), (0, 0));
        keeper.node.ranges = true;
        assert!(keeper.services_changed().unwrap() && keeper.is_active());
        keeper.look().unwrap();
        assert_eq!(keeper.node.map, keeper.node.clients);
        assert_eq!(keeper.kept(), Kept { v4: 2, v6: 0 });
        keeper.node.ranges = false;
        assert!(keeper.services_changed().unwrap() && !keeper.is_active());
        assert!(keeper.node.map.is_empty());
        assert_eq!(keeper.kept(), Kept::default());
    }

    #[test]
    fn clients_are_forgotten_by_the_next_try_where_the_first_has_failed() {
        let node = Fake { ranges: true, clients: [(1, client(1))].into(), ..Fake::default() };
        let mut keeper = Keeper::new(node).unwrap();
        keeper.services_changed().unwrap();
        keeper.look().unwrap();
        (keeper.node.ranges, keeper.node.broken) = (false, Some(1));
        keeper.services_changed().unwrap_err();
        keeper.node.broken = None;
        assert!(keeper.services_changed().unwrap() && !keeper.is_active());
        assert!(keeper.node.map.is_empty());
    }

    #[test]
    fn only_what_differs_is_written_also_after_a_restart() {
        let map: BTreeMap<_, _> = [(1, client(1)), (2, client(2)), (3, client(3))].into();
        let clients = [(1, client(1)), (2, client(20)), (4, client(4))].into();
        let node = Fake { ranges: true, map, clients, ..Fake::default() };
        let mut keeper = Keeper::new(node).unwrap();
        assert!(keeper.is_active());
        keeper.look().unwrap();
        assert_eq!(keeper.node.map, keeper.node.clients);
        assert_eq!(keeper.node.writes, 3, "one changed, one came, one went");
        keeper.look().unwrap();
        assert_eq!(keeper.node.writes, 3);
    }

    #[test]
    fn what_cannot_be_looked_at_is_an_error_and_the_others_are_known() {
        let clients: BTreeMap<_, _> = [(1, client(1))].into();
        let node = Fake { ranges: true, clients, looks_away: true, ..Fake::default() };
        let mut keeper = Keeper::new(node).unwrap();
        keeper.services_changed().unwrap();
        assert_eq!(keeper.look().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(keeper.node.map, keeper.node.clients);
        keeper.node.clients = [(2, client(2))].into();
        keeper.look().unwrap_err();
        assert_eq!(keeper.node.map, [(1, client(1)), (2, client(2))].into(), "1 may be there still");
    }

    #[test]
    fn what_could_not_be_written_is_written_by_the_next_look() {
        let clients: BTreeMap<_, _> = [(1, client(1)), (2, client(2))].into();
        let node = Fake { ranges: true, clients, broken: Some(1), ..Fake::default() };
        let mut keeper = Keeper::new(node).unwrap();
        keeper.services_changed().unwrap();
        assert!(keeper.look().is_err());
        assert_eq!(keeper.node.map, [(2, client(2))].into(), "the others are not kept by it");
        keeper.node.broken = None;
        keeper.look().unwrap();
        assert_eq!(keeper.node.map, keeper.node.clients);
    }
}
