//! This node's Pods, as far as they are excluded from the socket layer.

use k8s_openapi::api::core::v1 as api;

use super::{key, name};
use crate::{
    event::Pod,
    watch::{
        intern::Interner,
        problem::{Converted, Kind, Problem},
    },
};

/// `"true"`: connections of this Pod keep the Service's address until they leave it.
const EXCLUDE: &str = "lb-agent/socket-lb-exclude";
/// What the kubelet writes on the API's copy of a static Pod: the uid that it gave the Pod itself
/// (pkg/kubelet/types/pod_update.go).
const STATIC_UID: &str = "kubernetes.io/config.mirror";

/// Reads a Pod; `None` if it is not excluded.
pub(in crate::watch) fn pod(object: &api::Pod, names: &mut Interner) -> Result<Option<Converted<Pod>>, Problem> {
    let annotation = |name: &str| object.metadata.annotations.as_ref()?.get(name).map(String::as_str);
    let key = key(Kind::Pod, &object.metadata, names);
    match annotation(EXCLUDE) {
        None | Some("false") => return Ok(None),
        Some("true") => {}
        Some(other) => {
            let what = format!("{other:?} is neither \"true\" nor \"false\"");
            return Err(key.problem(format!("metadata.annotations[{EXCLUDE}]"), what));
        }
    }
    let uid = annotation(STATIC_UID).or(object.metadata.uid.as_deref()).filter(|uid| !uid.is_empty());
    let (Some(name), Some(uid)) = (name(&object.metadata, names), uid) else {
        return Err(key.problem("metadata.uid", "there is none, so that the Pod's cgroup is not known"));
    };
    let is_on_host = object.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    let warning = is_on_host.then(|| {
        key.problem(
            "spec.hostNetwork",
            "the Pod is excluded from the socket layer and has no network device of its own at which the packet layer could \
             serve it: no Service answers it",
        )
    });
    Ok(Some(Converted { object: Pod { name, uid: uid.into() }, warnings: warning.into_iter().collect() }))
}
