//! Connections that an earlier agent's programs began while their table was copied into one of another size. When the new
//! agent's programs are in their place, these few are brought over. What is to be done about each is decided here; when that is,
//! is the caller's.

use lb_common::abi::{Family, Flow, FlowKey, flow_flags};

use super::{
    flows::{FlowStore, partner},
    store::StoreError,
};

/// A table that can be added to while programs write it.
pub trait Successor<F: Family>: FlowStore<F> {
    /// Adds a half unless there is one with this key; says whether it did.
    ///
    /// # Errors
    /// What the kernel says; also where the table is full.
    fn add_flow(&mut self, key: &FlowKey<F>, half: &Flow<F>) -> Result<bool, StoreError>;
}

/// Brings over the flows that began at `since_s` (of the monotonic clock) or later and are in `former` alone, and adds to
/// `brought` how many these were. Older ones are not looked at: they were copied, and may have ended since. What `present` has by
/// now is newer and stays; a flow one of whose halves it would have to replace is left behind whole.
///
/// What was brought is taken out of `former`. So whoever repeats this after an error does not bring a flow again that has ended
/// meanwhile.
///
/// # Errors
/// Those of the tables. Of the flow that it was about, `former` still has both halves.
pub fn bring_over<F: Family>(
    former: &mut impl FlowStore<F>,
    present: &mut impl Successor<F>,
    since_s: u32,
    brought: &mut u32,
) -> Result<(), StoreError> {
    let (mut cursor, mut halves) = (None, Vec::new());
    loop {
        cursor = former.read_flows(cursor, &mut halves)?;
        let begun =
            |(_, half): &&(FlowKey<F>, Flow<F>)| half.flags & flow_flags::REPLY == 0 && half.created_s >= since_s;
        for (key, half) in halves.iter().filter(begun) {
            if let Some(reply) = partner(former, key, half)? {
                let reply_key = half.partner(key);
                *brought += u32::from(bring(present, (key, half), (&reply_key, &reply))?);
                former.delete_flow(key)?;
                former.delete_flow(&reply_key)?;
            }
        }
        if cursor.is_none() {
            return Ok(());
        }
    }
}

/// What came of adding a half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    Added,
    /// The copy had brought it already.
    There,
    /// Another flow has its tuple.
    Taken,
}

/// In the order in which the programs claim tuples: without the reply's, a flow has none.
fn bring<F: Family>(
    present: &mut impl Successor<F>,
    (key, half): (&FlowKey<F>, &Flow<F>),
    (reply_key, reply): (&FlowKey<F>, &Flow<F>),
) -> Result<bool, StoreError> {
    let claimed = claim(present, reply_key, reply)?;
    if claimed == Claim::Taken {
        return Ok(false);
    }
    let forward = claim(present, key, half)?;
    if forward == Claim::Taken && claimed == Claim::Added {
        present.delete_flow(reply_key)?;
    }
    Ok(forward != Claim::Taken && (forward == Claim::Added || claimed == Claim::Added))
}

fn claim<F: Family>(present: &mut impl Successor<F>, key: &FlowKey<F>, half: &Flow<F>) -> Result<Claim, StoreError> {
    if present.add_flow(key, half)? {
        return Ok(Claim::Added);
    }
    let is_same = |there: Flow<F>| there.created_s == half.created_s && there.check == half.check;
    Ok(if present.flow(key)?.is_some_and(is_same) { Claim::There } else { Claim::Taken })
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{Proto, V4};

    use super::*;
    use crate::datapath::{flow_table::FlowTable, flows::Half};

    type Table = FlowTable<V4>;

    /// A client's flow to a backend under a port of the node's: its forward half, then its reply half.
    fn flow(client: u16, port: u16, created_s: u32) -> [Half<V4>; 2] {
        let node = [192, 0, 2, 1];
        let key = FlowKey {
            src_addr: [198, 51, 100, 7],
            dst_addr: node,
            src_port: client,
            dst_port: 30080,
            proto: Proto::Tcp.number(),
            reserved: [0; 3],
        };
        let forward = Flow {
            src_addr: node,
            dst_addr: [10, 244, 2, 2],
            src_port: port,
            dst_port: 8080,
            created_s,
            ..Flow::default()
        };
        let at = forward.partner(&key);
        let back = key.reversed();
        let reply = Flow {
            src_addr: back.src_addr,
            dst_addr: back.dst_addr,
            src_port: back.src_port,
            dst_port: back.dst_port,
            flags: flow_flags::REPLY,
            ..forward
        };
        [(key, forward.sealed(&key)), (at, reply.sealed(&at))]
    }

    fn table(flows: &[[Half<V4>; 2]]) -> Table {
        Table { halves: flows.iter().flatten().copied().collect(), ..Table::default() }
    }

    fn half(half: Half<V4>) -> Table {
        Table { halves: [half].into(), ..Table::default() }
    }

    fn brought(former: &Table, present: &Table) -> (u32, Table) {
        let (mut present, mut brought) = (present.clone(), 0);
        bring_over(&mut former.clone(), &mut present, 100, &mut brought).unwrap();
        (brought, present)
    }

    #[test]
    fn what_began_during_the_copy_is_brought_over_and_older_flows_are_not() {
        let (old, new, other) = (flow(1, 10_001, 99), flow(2, 10_002, 100), flow(3, 10_003, 101));
        assert_eq!(brought(&table(&[old, new]), &table(&[other])), (1, table(&[new, other])), "the old one has ended");
        assert_eq!(brought(&table(&[new]), &table(&[new])), (0, table(&[new])), "the copy met it");
        assert_eq!(brought(&Table::default(), &table(&[other])), (0, table(&[other])));
    }

    #[test]
    fn a_flow_that_the_copy_met_by_half_is_made_whole() {
        let new = flow(2, 10_002, 100);
        for one in new {
            assert_eq!(brought(&table(&[new]), &half(one)), (1, table(&[new])));
        }
    }

    #[test]
    fn a_half_without_its_other_half_is_left_behind() {
        let [forward, reply] = flow(2, 10_002, 100);
        for one in [forward, reply] {
            assert_eq!(brought(&half(one), &Table::default()), (0, Table::default()));
        }
    }

    #[test]
    fn after_a_failed_write_the_rest_is_brought_and_nothing_twice() {
        let [one, two, three] = [flow(1, 10_001, 100), flow(2, 10_002, 100), flow(3, 10_003, 100)];
        // Of the three flows the writes fail at each half in turn.
        for capacity in 0..6 {
            let (mut former, mut brought) = (table(&[one, two, three]), 0);
            let mut present = Table { capacity, ..Table::default() };
            assert!(bring_over(&mut former, &mut present, 100, &mut brought).is_err());
            assert_eq!(brought, capacity / 2, "whole flows");
            // What has ended meanwhile does not come back.
            for (key, _) in &one[..if capacity >= 2 { 2 } else { 0 }] {
                present.halves.remove(key);
            }
            present.capacity = former.capacity;
            bring_over(&mut former, &mut present, 100, &mut brought).unwrap();
            let rest = if capacity >= 2 { table(&[two, three]) } else { table(&[one, two, three]) };
            assert_eq!((brought, present, former), (3, rest, Table::default()), "{capacity} halves fitted at first");
        }
    }

    #[test]
    fn what_is_there_by_now_stays_and_no_half_is_left_of_who_comes_too_late() {
        let new = flow(2, 10_002, 100);
        let same_port = flow(9, 10_002, 101);
        assert_eq!(brought(&table(&[new]), &table(&[same_port])), (0, table(&[same_port])));
        let same_client = flow(2, 10_009, 101);
        assert_eq!(brought(&table(&[new]), &table(&[same_client])), (0, table(&[same_client])));
    }
}
