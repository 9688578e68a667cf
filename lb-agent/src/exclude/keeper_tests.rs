//! The keeper on a node that is data.

use super::*;
use crate::event::{FullList, Pod};

#[derive(Debug, Default)]
struct Fake {
    /// Paths with ids, in the order of a walk from the root down.
    tree: Vec<(&'static str, u64)>,
    is_level_known: bool,
    map: BTreeMap<u64, u32>,
    levels: Exclusion,
    writes: usize,
    looks: usize,
    broken: Option<u64>,
}

impl Node for Fake {
    fn cgroups(&mut self, visit: &mut dyn FnMut(&Cgroup<'_>) -> bool) -> io::Result<()> {
        self.looks += 1;
        let mut left_out: Vec<String> = Vec::new();
        for (path, id) in &self.tree {
            if left_out.iter().any(|above| path.starts_with(above)) {
                continue;
            }
            let level = u32::try_from(path.split('/').count()).unwrap();
            if !visit(&Cgroup { path, id: *id, level: self.is_level_known.then_some(level) }) {
                left_out.push(format!("{path}/"));
            }
        }
        Ok(())
    }

    fn known(&mut self) -> io::Result<(BTreeMap<u64, u32>, Exclusion)> {
        Ok((self.map.clone(), self.levels))
    }

    fn put(&mut self, id: u64, why: u32) -> io::Result<()> {
        if self.broken == Some(id) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.writes += 1;
        self.map.insert(id, why);
        Ok(())
    }

    fn delete(&mut self, id: u64) -> io::Result<()> {
        self.writes += 1;
        self.map.remove(&id);
        Ok(())
    }

    fn put_levels(&mut self, levels: Exclusion) -> io::Result<()> {
        self.levels = levels;
        Ok(())
    }
}

const MESH: &str = "aaaa-1";
const TREE: [(&str, u64); 7] = [
    ("kubepods", 2),
    ("kubepods/podaaaa-1", 3),
    ("kubepods/podaaaa-1/c1", 4),
    ("kubepods/burstable", 5),
    ("kubepods/burstable/podbbbb-2", 6),
    ("machine", 7),
    ("machine/vm1", 8),
];

fn node() -> Fake {
    Fake { tree: TREE.to_vec(), is_level_known: true, ..Fake::default() }
}

fn pod(name: &str, uid: &str) -> Pod {
    Pod { name: ObjectName::new("default", name), uid: uid.into() }
}

fn reset(pods: &[Pod]) -> PodChange {
    PodChange::Reset(FullList::from(pods.to_vec()))
}

fn keeper(node: Fake, patterns: &str, has_pods: bool) -> Keeper<Fake> {
    Keeper::new(node, patterns.parse().unwrap(), has_pods).unwrap()
}

fn map(keeper: &Keeper<Fake>) -> Vec<(u64, u32)> {
    keeper.node.map.iter().map(|(id, why)| (*id, *why)).collect()
}

const P: u32 = excluded_by::PATTERN;
const A: u32 = excluded_by::ANNOTATION;

#[test]
fn nothing_is_looked_at_where_nothing_is_excluded() {
    let mut keeper = keeper(node(), "none", true);
    keeper.look().unwrap();
    keeper.pods_changed(reset(&[]));
    keeper.look().unwrap();
    assert_eq!((keeper.is_active(), keeper.node.looks, keeper.node.writes), (false, 0, 0));
}

#[test]
fn cgroups_are_excluded_by_pattern_and_by_pod_and_those_below_need_no_entry() {
    let mut keeper = keeper(node(), "machine/*,kubepods/*/c1", true);
    keeper.pods_changed(reset(&[pod("mesh", MESH), pod("elsewhere", "cccc-3")]));
    keeper.look().unwrap();
    assert_eq!(map(&keeper), [(3, A), (8, P)]);
    assert_eq!(keeper.node.levels, Exclusion { levels: 1 << 2 });
    assert_eq!(keeper.kept(), Kept { cgroups: 2 });
}

#[test]
fn an_annotation_that_is_taken_away_or_a_pod_that_is_gone_ends_it() {
    for change in [PodChange::Deleted(ObjectName::new("default", "mesh")), reset(&[])] {
        let mut keeper = keeper(node(), "none", true);
        keeper.pods_changed(reset(&[]));
        keeper.pods_changed(PodChange::Applied(pod("mesh", MESH)));
        keeper.look().unwrap();
        assert_eq!(map(&keeper), [(3, A)]);
        keeper.pods_changed(change);
        assert!(keeper.is_active(), "there is an entry to remove");
        keeper.look().unwrap();
        assert_eq!((map(&keeper), keeper.node.levels), (Vec::new(), Exclusion::default()));
        assert!(!keeper.is_active());
    }
}

#[test]
fn one_pod_before_the_first_list_does_not_end_what_an_earlier_agent_excluded_for_others() {
    let node = Fake { map: [(6, A)].into(), levels: Exclusion { levels: 1 << 3 }, ..node() };
    let mut keeper = keeper(node, "none", true);
    keeper.pods_changed(PodChange::Applied(pod("mesh", MESH)));
    keeper.look().unwrap();
    assert_eq!(map(&keeper), [(6, A)]);
    keeper.pods_changed(reset(&[pod("mesh", MESH)]));
    keeper.look().unwrap();
    assert_eq!(map(&keeper), [(3, A)], "the list has it");
}

#[test]
fn what_an_earlier_agent_excluded_stays_until_the_pods_are_known() {
    let left: BTreeMap<u64, u32> = [(3, A), (6, P), (99, A)].into();
    let node = Fake { map: left, levels: Exclusion { levels: 0xff }, ..node() };
    let mut keeper = keeper(node, "machine/vm1", true);
    keeper.look().unwrap();
    assert_eq!(map(&keeper), [(3, A), (8, P)], "no pattern matches 6 any more, and 99 is gone");
    keeper.pods_changed(reset(&[]));
    keeper.look().unwrap();
    assert_eq!(map(&keeper), [(8, P)]);
}

#[test]
fn without_pods_what_an_annotation_excluded_ends_at_once() {
    let node = Fake { map: [(3, A)].into(), ..node() };
    let mut keeper = keeper(node, "none", false);
    keeper.look().unwrap();
    assert_eq!(map(&keeper), []);
}

#[test]
fn cgroups_come_and_go_and_only_what_differs_is_written() {
    let mut keeper = keeper(node(), "machine/*", false);
    keeper.look().unwrap();
    keeper.node.tree.push(("machine/vm2", 9));
    keeper.look().unwrap();
    assert_eq!((map(&keeper), keeper.node.writes), (vec![(8, P), (9, P)], 2));
    keeper.node.tree.retain(|(_, id)| *id != 8);
    keeper.look().unwrap();
    keeper.look().unwrap();
    assert_eq!((map(&keeper), keeper.node.writes), (vec![(9, P)], 3));
}

#[test]
fn a_pod_that_cannot_be_read_keeps_what_it_had() {
    let mut keeper = keeper(node(), "none", true);
    keeper.pods_changed(reset(&[pod("mesh", MESH)]));
    let unreadable = vec![ObjectName::new("default", "mesh")];
    keeper.pods_changed(PodChange::Reset(FullList { unreadable, ..FullList::from(Vec::new()) }));
    keeper.look().unwrap();
    assert_eq!(map(&keeper), [(3, A)]);
}

#[test]
fn where_levels_cannot_be_told_all_are_looked_at() {
    let mut keeper = keeper(Fake { is_level_known: false, ..node() }, "machine/*", false);
    keeper.look().unwrap();
    assert_eq!(keeper.node.levels, Exclusion { levels: u32::MAX });
}

#[test]
fn a_cgroup_too_deep_is_an_error_and_the_others_are_excluded() {
    let mut node = node();
    let deep: &'static str = Box::leak(["d"; 32].join("/").into_boxed_str());
    node.tree.push((deep, 50));
    let mut keeper = keeper(node, "machine/*,d/**", false);
    let error = keeper.look().unwrap_err().to_string();
    assert!(error.contains("level 32"), "{error}");
    assert_eq!(keeper.node.levels, Exclusion { levels: 1 << 2 });
}

#[test]
fn what_could_not_be_written_is_written_by_the_next_look() {
    let mut keeper = keeper(Fake { broken: Some(7), ..node() }, "machine,kubepods/burstable", false);
    assert!(keeper.look().is_err());
    assert_eq!(map(&keeper), [(5, P)]);
    keeper.node.broken = None;
    keeper.look().unwrap();
    assert_eq!(map(&keeper), [(5, P), (7, P)]);
}
