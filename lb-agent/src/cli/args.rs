//! The command line as clap sees it: names, defaults, environment variables, and what can be checked without looking
//! at the machine. [`crate::config`] makes the agent's configuration of it.

use std::{ffi::OsStr, net::SocketAddr, path::PathBuf};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use lb_common::abi::maps;

use crate::{
    config::ListenAddress,
    devices::{DeviceNames, DevicePatterns, PodDelivery, PortRange, findings::Settings},
    exclude::CgroupPatterns,
    model::{ExternalIps, NodePortAddresses},
    terminate::TcpPolicy,
};

/// eBPF service load balancer for Kubernetes: the node agent and its tools.
#[derive(Debug, Parser)]
#[command(name = "lb-agent", version = crate::VERSION)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// This process's command line and environment. A variable that is empty counts as absent: that is what a key of a
    /// ConfigMap without a value comes to.
    ///
    /// # Errors
    /// What clap says; also when help or the version is asked for.
    pub fn of_process() -> Result<Self, clap::Error> {
        let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
        let command = Self::command().mut_subcommands(|command| {
            command
                .mut_args(|arg| if arg.get_env().is_some_and(is_empty) { arg.env(None::<&'static str>) } else { arg })
        });
        Self::from_arg_matches(&command.try_get_matches()?)
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent: watch Services and endpoints, and keep the kernel's maps and programs up to date
    ///
    /// When the agent ends, programs and maps stay: traffic goes on with the last state, and the next agent takes over.
    /// `lb-agent cleanup` removes them.
    Run(Box<RunArgs>),
    /// Show what is programmed: each Service address with the number of its backends
    ///
    /// Read from the pinned maps, so it works also when no agent runs.
    Services(ListArgs),
    /// Show the backends of each Service address with state and node
    ///
    /// Read from the pinned maps, so it works also when no agent runs.
    Backends(ListArgs),
    /// Show the connections of the packet layer: of clients outside, and of those without a socket hook
    ///
    /// Read from the pinned maps, so it works also when no agent runs. Connections of processes on this node are ordinary
    /// ones to the backend: `ss` shows them.
    Connections(ListArgs),
    /// Show whether an agent runs, how old its state is, how full the maps are and what is wrong
    ///
    /// Read from the pinned maps, so it works also when no agent runs.
    Status(ToolArgs),
    /// Look at this node before anything is installed, and say what is wrong and what to do
    ///
    /// Changes nothing. The exit status is 0 where nothing is wrong.
    Check(Box<CheckArgs>),
    /// Detach all programs and remove all maps and pins of this installation
    ///
    /// Open connections of processes go on; those of the packet layer end. New connections to Service addresses are no
    /// longer translated. Refused while an agent runs.
    Cleanup(CleanupArgs),
}

/// Where the installation is.
#[derive(Args, Clone, Debug)]
pub struct PlaceArgs {
    /// The bpf file system. Maps and links are pinned below DIR/lb
    #[arg(long, value_name = "DIR", env = "LB_BPFFS", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,

    /// The cgroup2 directory at which programs are attached: its processes and those below it are served, nobody else
    /// [default: the cgroup2 mount that is found]
    #[arg(long, value_name = "DIR", env = "LB_CGROUP_ROOT")]
    pub cgroup_root: Option<PathBuf>,
}

/// Flags of the packet layer: of what comes to Services from outside this node's processes.
#[derive(Args, Clone, Debug)]
pub struct PacketArgs {
    /// Network devices by which clients outside reach Services: names, none, or auto for those with a default route or an
    /// address of the node and for overlays between nodes (vxlan, wireguard, ...). Devices are followed as they come and go
    #[arg(long, value_name = "auto|none|IFACE[,IFACE...]", env = "LB_DEVICES", default_value = "auto")]
    pub devices: DeviceNames,

    /// Devices of pods and virtual machines whose connections no hook on this node sees, by patterns such as cni0,veth*
    #[arg(long, value_name = "none|PATTERN[,PATTERN...]", env = "LB_POD_DEVICES", default_value = "none")]
    pub pod_devices: DevicePatterns,

    /// How translated packets get to pods behind --pod-devices: past the host's end of a veth, straight into the pod's network
    /// namespace, where nobody else has anything at its egress (auto), or always out of the device. What has come out of a
    /// device is seen by packet captures and counters there
    #[arg(long, value_name = "auto|device", env = "LB_POD_DELIVERY", value_enum, default_value = "auto")]
    pub pod_delivery: PodDelivery,

    /// Workloads whose connections keep the Service's address until they leave them (a service mesh's sidecars, virtual
    /// machines), by patterns of cgroup paths below the cgroup root, such as machine.slice/* or **/cri-containerd-*.scope. The
    /// packet layer serves them, at devices of --pod-devices
    #[arg(long, value_name = "none|PATTERN[,PATTERN...]", env = "LB_SOCKET_LB_EXCLUDE", default_value = "none")]
    pub socket_lb_exclude: CgroupPatterns,

    /// Ports of the node's own address that connections from outside get on their way to other nodes. Must not overlap
    /// net.ipv4.ip_local_port_range
    #[arg(long, value_name = "FIRST-LAST", env = "LB_SNAT_PORTS", default_value_t = PortRange::SNAT)]
    pub snat_ports: PortRange,

    /// The API server's --service-node-port-range: only to warn of ports that the node's own connections use, too
    #[arg(long, value_name = "FIRST-LAST", env = "LB_NODEPORT_RANGE", default_value_t = PortRange::NODEPORTS)]
    pub nodeport_range: PortRange,
}

impl PacketArgs {
    /// As the packet layer takes them.
    pub(crate) fn settings(&self, nodeport_addresses: &NodePortAddresses) -> Settings {
        Settings {
            devices: self.devices.clone(),
            pods: self.pod_devices.clone(),
            pod_delivery: self.pod_delivery,
            snat_ports: self.snat_ports,
            nodeport_range: self.nodeport_range,
            nodeport_addresses: nodeport_addresses.clone(),
        }
    }
}

/// Flags of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Watch the cluster that this kubeconfig names. Without this and --manifests: the in-cluster configuration, where
    /// there is one
    #[arg(long, value_name = "FILE", env = "LB_KUBECONFIG", conflicts_with = "manifests")]
    pub kubeconfig: Option<PathBuf>,

    /// Watch a directory of manifests (Service, EndpointSlice, Endpoints, Node, List; YAML or JSON) instead of a cluster
    #[arg(long, value_name = "DIR", env = "LB_MANIFESTS")]
    pub manifests: Option<PathBuf>,

    /// API servers to use instead of the one that the kubeconfig or the pod's environment names, with fail-over in
    /// this order. Must not be the `kubernetes` Service's address: that is reachable only through this agent
    #[arg(
        long,
        value_name = "URL[,URL...]",
        env = "LB_API_SERVERS",
        value_delimiter = ',',
        value_parser = crate::config::api_server_url,
        conflicts_with = "manifests"
    )]
    pub api_servers: Vec<String>,

    /// This node's name in the cluster [default: the host name]
    #[arg(long, value_name = "NAME", env = "LB_NODE_NAME")]
    pub node_name: Option<String>,

    #[command(flatten)]
    /// Where the installation is.
    pub place: PlaceArgs,

    #[command(flatten)]
    /// The packet layer.
    pub packet: PacketArgs,

    /// Node addresses that answer to NodePorts: those of the Node object (primary), or those in prefixes. Loopback
    /// addresses only by a prefix of their own, for processes in the node's network namespace
    #[arg(long, value_name = "primary|CIDR[,CIDR...]", env = "LB_NODEPORT_ADDRESSES", default_value = "primary")]
    pub nodeport_addresses: NodePortAddresses,

    /// Which addresses in spec.externalIPs are served. The others are left out with a warning
    #[arg(long, value_name = "all|none|CIDR[,CIDR...]", env = "LB_EXTERNAL_IPS", default_value = "all")]
    pub external_ips: ExternalIps,

    /// Whether TCP connections to a backend that is gone are reset. Connected UDP sockets are always ended
    #[arg(
        long,
        value_name = "never|gone",
        env = "LB_TERMINATE_TCP",
        default_value = "never",
        hide_possible_values = true
    )]
    pub terminate_tcp: TcpPolicy,

    /// Keep processes in the node's own network namespace from binding a NodePort's port, where local clients would not
    /// reach them: they get EADDRINUSE
    #[arg(
        long,
        value_name = "true|false",
        env = "LB_NODEPORT_BIND_PROTECTION",
        default_value_t = true,
        action = clap::ArgAction::Set,
        hide_possible_values = true
    )]
    pub nodeport_bind_protection: bool,

    /// Exclude also this node's Pods that have the annotation lb-agent/socket-lb-exclude: "true". With a cluster only; the
    /// agent must be allowed to list and watch Pods
    #[arg(
        long,
        value_name = "true|false",
        env = "LB_SOCKET_LB_EXCLUDE_ANNOTATED",
        default_value_t = true,
        action = clap::ArgAction::Set,
        hide_possible_values = true
    )]
    pub socket_lb_exclude_annotated: bool,

    /// Where /healthz and /livez are served; `none` turns them off
    #[arg(long, value_name = "ADDR:PORT", env = "LB_HEALTHZ_ADDRESS", default_value = "0.0.0.0:10256")]
    pub healthz_address: ListenAddress,

    /// Where /metrics is served; `none` turns it off
    #[arg(long, value_name = "ADDR:PORT", env = "LB_METRICS_ADDRESS", default_value = "127.0.0.1:10249")]
    pub metrics_address: ListenAddress,

    /// Form of the log on stderr
    #[arg(
        long,
        value_name = "human|json",
        env = "LB_LOG_FORMAT",
        default_value = "human",
        hide_possible_values = true
    )]
    pub log_format: LogFormat,

    /// What to log: a level (error, warn, info, debug, trace) or a filter such as lb_agent=debug,kube=warn. RUST_LOG is
    /// used where neither this nor LB_LOG_LEVEL is given [default: info]
    #[arg(long, value_name = "FILTER", env = "LB_LOG_LEVEL")]
    pub log_level: Option<String>,

    /// Capacity of the frontend maps, per address family: Service addresses times ports, one more for each ClusterIP (it
    /// refuses the other ports), one for each NodePort (it keeps processes of the node from binding it), and with
    /// externalTrafficPolicy Local one for each NodePort, external and load balancer address (for clients outside)
    #[arg(
        long,
        value_name = "N",
        env = "LB_MAX_FRONTENDS",
        default_value_t = maps::N_FRONTENDS,
        value_parser = clap::value_parser!(u32).range(1..=MAX_ENTRIES)
    )]
    pub max_frontends: u32,

    /// Capacity of the backend maps, per address family: endpoints times ports
    #[arg(
        long,
        value_name = "N",
        env = "LB_MAX_BACKENDS",
        default_value_t = maps::N_BACKENDS,
        value_parser = clap::value_parser!(u32).range(1..=MAX_ENTRIES)
    )]
    pub max_backends: u32,

    /// Capacity of the map of clients of Services with sessionAffinity: one entry for each Service port that a pod uses, two
    /// where its traffic policies differ
    #[arg(
        long,
        value_name = "N",
        env = "LB_MAX_AFFINITIES",
        default_value_t = maps::N_AFFINITIES,
        value_parser = clap::value_parser!(u32).range(1..=MAX_ENTRIES)
    )]
    pub max_affinities: u32,

    /// Capacity of the table of connections from outside and of clients without a socket hook, per address family
    #[arg(
        long,
        value_name = "N",
        env = "LB_MAX_CONNECTIONS",
        default_value_t = maps::N_CONNS / 2,
        value_parser = clap::value_parser!(u32).range(1..=MAX_ENTRIES)
    )]
    pub max_connections: u32,
}

/// Keeps the slot array (twice the backends, 24 bytes each for IPv6) below 1 GiB, far from where its byte size would
/// overflow anything.
const MAX_ENTRIES: i64 = 16 * 1024 * 1024;

/// Flags of the tools.
#[derive(Args, Clone, Debug)]
pub struct ToolArgs {
    #[command(flatten)]
    /// Where the installation is.
    pub place: PlaceArgs,

    /// Form of the output
    #[arg(
        short,
        long,
        value_name = "table|json",
        env = "LB_OUTPUT",
        default_value = "table",
        hide_possible_values = true
    )]
    pub output: Output,
}

/// Flags of `services`, `backends` and `connections`.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    /// What all tools have.
    pub tool: ToolArgs,

    /// Only this namespace
    #[arg(short, long, value_name = "NAMESPACE", env = "LB_NAMESPACE")]
    pub namespace: Option<String>,

    /// Only this Service: NAME or NAMESPACE/NAME
    #[arg(value_name = "SERVICE")]
    pub service: Option<String>,
}

impl ListArgs {
    /// Form of the output.
    pub(super) fn output(&self) -> Output {
        self.tool.output
    }
}

/// Flags of `check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    #[command(flatten)]
    /// What all tools have.
    pub tool: ToolArgs,

    #[command(flatten)]
    /// The packet layer.
    pub packet: PacketArgs,

    /// Node addresses that answer to NodePorts: those of the Node object (primary), which are not looked at here, or those in
    /// prefixes
    #[arg(long, value_name = "primary|CIDR[,CIDR...]", env = "LB_NODEPORT_ADDRESSES", default_value = "primary")]
    pub nodeport_addresses: NodePortAddresses,
}

/// Flags of `cleanup`.
#[derive(Args, Clone, Debug)]
pub struct CleanupArgs {
    #[command(flatten)]
    /// Where the installation is.
    pub place: PlaceArgs,

    /// Also while an agent runs. It goes on without effect until it is started anew
    #[arg(long, env = "LB_FORCE")]
    pub force: bool,
}

/// Form of a tool's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for people and for grep.
    Table,
    /// One JSON document.
    Json,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line per event for people.
    Human,
    /// One JSON object per line.
    Json,
}

impl ListenAddress {
    /// The socket address, unless turned off.
    pub fn socket(&self) -> Option<SocketAddr> {
        self.0
    }
}
