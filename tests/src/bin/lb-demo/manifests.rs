//! The demo's manifest directory: a Service and its EndpointSlice as a person would write them, to be edited while the
//! demo runs.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The file that the demo writes.
const FILE: &str = "web.yaml";

/// The port of the pods' servers.
pub(crate) const POD_PORT: u16 = 8080;

/// Who may have written the manifests.
pub(crate) enum Directory<'a> {
    /// The demo's own: begins anew each time.
    Own(PathBuf),
    /// A user's: filled only if there is nothing in it.
    Users(&'a Path),
}

/// Puts the Service and its endpoints there; returns the directory and the file to edit.
pub(crate) fn prepare(
    directory: &Directory<'_>,
    service: SocketAddr,
    pods: &[(&str, IpAddr)],
) -> Result<(PathBuf, PathBuf)> {
    let path = match directory {
        Directory::Own(path) => path.as_path(),
        Directory::Users(path) => path,
    };
    fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
    let path = path.canonicalize().with_context(|| format!("find {}", path.display()))?;
    let is_users = matches!(directory, Directory::Users(_));
    let has_files = path.read_dir().with_context(|| format!("list {}", path.display()))?.next().is_some();
    let file = path.join(FILE);
    if is_users && has_files {
        return Ok((path.clone(), path));
    }
    fs::write(&file, text(service, pods)).with_context(|| format!("write {}", file.display()))?;
    Ok((path, file))
}

fn text(service: SocketAddr, pods: &[(&str, IpAddr)]) -> String {
    let endpoints: String = pods
        .iter()
        .map(|(name, ip)| {
            format!(
                "  - addresses: [{ip}]\n    conditions: {{ready: true}}\n    targetRef: {{kind: Pod, name: {name}}}\n"
            )
        })
        .collect();
    format!(
        "apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: default
spec:
  clusterIP: {ip}
  ports:
    - name: http
      port: {port}
      targetPort: {POD_PORT}
---
# One slice with the addresses of the pods, as Kubernetes writes it for a Service with a selector.
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  namespace: default
  labels:
    kubernetes.io/service-name: web
addressType: IPv4
ports:
  - name: http
    port: {POD_PORT}
endpoints:
{endpoints}",
        ip = service.ip(),
        port = service.port()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: [(&str, IpAddr); 1] = [("web-1", IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 1, 2)))];

    fn service() -> SocketAddr {
        SocketAddr::from(([10, 96, 0, 80], 80))
    }

    #[test]
    fn a_users_directory_with_anything_in_it_is_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("mine.yaml"), "# mine").unwrap();
        prepare(&Directory::Users(directory.path()), service(), &PODS).unwrap();
        assert!(!directory.path().join(FILE).exists());
    }

    #[test]
    fn an_empty_directory_of_a_user_is_filled() {
        let directory = tempfile::tempdir().unwrap();
        prepare(&Directory::Users(directory.path()), service(), &PODS).unwrap();
        assert!(fs::read_to_string(directory.path().join(FILE)).unwrap().contains("addresses: [10.244.1.2]"));
    }

    #[test]
    fn the_demos_own_directory_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), "# edited in an earlier run").unwrap();
        prepare(&Directory::Own(directory.path().to_owned()), service(), &PODS).unwrap();
        assert!(fs::read_to_string(directory.path().join(FILE)).unwrap().contains("clusterIP: 10.96.0.80"));
    }
}
