//! Which Pod a cgroup is: how the kubelet names the cgroups of Pods, by either of its drivers
//! (k8s.io/kubernetes pkg/kubelet/cm/pod_container_manager_linux.go and cgroup_manager_linux.go).

/// The uid in the name of a Pod's cgroup: `pod<uid>` by the driver cgroupfs, `kubepods-burstable-pod<uid>.slice` by systemd,
/// where a dash of the uid is an underscore, because it would stand for another level there.
pub(super) fn uid(name: &str) -> Option<String> {
    let uid = match name.strip_suffix(".slice") {
        Some(unit) => unit.rsplit_once("-pod").map(|(_, uid)| uid.replace('_', "-"))?,
        None => name.strip_prefix("pod")?.to_owned(),
    };
    (!uid.is_empty()).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "8f7c3f4e-3b1e-4c57-9d0a-2f1b6a0c9e11";

    #[test]
    fn both_drivers_names_give_the_uid() {
        assert_eq!(uid(&format!("pod{UID}")).as_deref(), Some(UID));
        let under = UID.replace('-', "_");
        for class in ["kubepods", "kubepods-burstable", "kubelet-kubepods-besteffort"] {
            assert_eq!(uid(&format!("{class}-pod{under}.slice")).as_deref(), Some(UID), "{class}");
        }
        // A static Pod's uid is a hash.
        assert_eq!(
            uid("kubepods-podd41d8cd98f00b204e9800998ecf8427e.slice").as_deref(),
            Some("d41d8cd98f00b204e9800998ecf8427e")
        );
    }

    #[test]
    fn others_are_no_pods() {
        for name in ["kubepods.slice", "pod", "x-pod.slice", "cri-containerd-abc.scope", "burstable", "podX.slice"] {
            assert_eq!(uid(name), None, "{name}");
        }
    }
}
