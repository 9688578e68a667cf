//! The test's side: typed calls over the pipe to a guest.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{ChildStdin, ChildStdout, Command},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Error, Result, bail};

use super::protocol::{
    Answer, Attempt, Failure, Handle, HoldReport, HoldSpec, KeepSpec, LoadReport, LoadSpec, Names, ProbeSpec, Proto,
    Reply, Request, Said, Target, Traffic,
};
use crate::{
    cgroup::Cgroup,
    netns::NetNs,
    poll::{PATIENCE, eventually},
    process::Process,
    run,
};

/// How long all kept sockets of a guest may take: many may wait for silence.
const KEPT_PATIENCE: Duration = Duration::from_secs(180);

/// A process in a pod. Calls return `Err` with a [`Failure`] inside where a system call in the guest failed.
pub struct Guest {
    process: Process,
    pipes: Mutex<Pipes>,
}

struct Pipes {
    requests: ChildStdin,
    replies: mpsc::Receiver<String>,
}

/// The errno of a system call that failed in a guest. Empty where the error is another one.
pub fn errno(error: &Error) -> &str {
    error.downcast_ref::<Failure>().map_or("", |failure| &failure.errno)
}

impl Guest {
    /// Starts one in the given namespace and cgroup.
    pub fn spawn(name: &str, netns: &NetNs, cgroup: &Cgroup) -> Result<Self> {
        let mut command = Command::new(run::binary("lb-guest", "LB_GUEST_BIN")?);
        command.arg("serve");
        netns.enter(&mut command);
        cgroup.enter(&mut command)?;
        let (process, requests, stdout) = Process::spawn_piped(name, command)?;
        let pipes = Mutex::new(Pipes { requests, replies: read_lines(stdout) });
        Ok(Self { process, pipes })
    }

    /// The process, for its pid and log.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Starts a server that answers `name`.
    pub fn serve(&self, name: &str, proto: Proto, port: u16) -> Result<()> {
        self.done(Request::Serve { name: name.to_owned(), proto, port })
    }

    /// Starts a server at one address that answers `name` and the address that it sees the asker with.
    pub fn witness(&self, name: &str, proto: Proto, at: SocketAddr) -> Result<()> {
        self.done(Request::Witness { name: name.to_owned(), proto, at })
    }

    /// What a client meets at each target, on each of several new sockets; so many targets at a time.
    pub fn probe(&self, specs: Vec<ProbeSpec>, side_by_side: usize) -> Result<Vec<Vec<Attempt>>> {
        // The last socket of a probe may wait for two calls in vain.
        let slowest = specs.iter().map(|spec| spec.budget_ms + 2 * spec.patience_ms).max().unwrap_or_default();
        let rounds = specs.len().div_ceil(side_by_side);
        let patience = PATIENCE + Duration::from_millis(slowest) * u32::try_from(rounds)?;
        match self.call_within(patience, &Request::Probe { specs, side_by_side })? {
            Reply::Probes(attempts) => Ok(attempts),
            other => bail!("the guest answered {other:?} to Probe"),
        }
    }

    /// Opens sockets, asks each once and keeps them, until [`Guest::release`] or the guest's end.
    pub fn keep(&self, specs: Vec<KeepSpec>) -> Result<Handle> {
        match self.call_within(KEPT_PATIENCE, &Request::Keep(specs))? {
            Reply::Started(handle) => Ok(handle),
            other => bail!("the guest answered {other:?} to Keep"),
        }
    }

    /// What kept sockets were told last.
    pub fn said(&self, kept: Handle) -> Result<Vec<Vec<Said>>> {
        self.said_to(&Request::Said(kept))
    }

    /// What kept sockets are told now.
    pub fn ask_again(&self, kept: Handle) -> Result<Vec<Vec<Said>>> {
        self.said_to(&Request::AskAgain(kept))
    }

    /// Closes kept sockets.
    pub fn release(&self, kept: Handle) -> Result<()> {
        self.done(Request::Release(kept))
    }

    fn said_to(&self, request: &Request) -> Result<Vec<Vec<Said>>> {
        match self.call_within(KEPT_PATIENCE, request)? {
            Reply::Said(said) => Ok(said),
            other => bail!("the guest answered {other:?} to {request:?}"),
        }
    }

    /// Opens a TCP connection.
    pub fn tcp(&self, target: impl Into<Target>) -> Result<TcpConnection<'_>> {
        let handle = self.socket(Request::TcpConnect(target.into()))?;
        Ok(TcpConnection { socket: Socket { guest: self, handle } })
    }

    /// Opens a UDP socket for addresses such as the target's.
    pub fn udp(&self, like: impl Into<Target>) -> Result<UdpSocket<'_>> {
        let handle = self.socket(Request::UdpOpen(like.into()))?;
        Ok(UdpSocket { socket: Socket { guest: self, handle } })
    }

    /// Who answers at the target, asked on a new socket.
    pub fn ask(&self, traffic: Traffic, target: impl Into<Target>) -> Result<String> {
        let target = target.into();
        if traffic.is_tcp() {
            return self.tcp(target)?.ask();
        }
        let socket = self.udp(target)?;
        let to = target.on_the_socket();
        match traffic {
            Traffic::UdpConnected => {
                socket.connect(to)?;
                socket.send()?;
            }
            Traffic::Tcp | Traffic::Http | Traffic::UdpUnconnected => socket.send_to(to)?,
        }
        Ok(socket.receive()?.name)
    }

    /// Starts load.
    pub fn load(&self, spec: LoadSpec) -> Result<Load<'_>> {
        match self.call(&Request::StartLoad(spec))? {
            Reply::Started(handle) => Ok(Load { guest: self, handle }),
            other => bail!("the guest answered {other:?} to StartLoad"),
        }
    }

    /// Opens sockets that are kept.
    pub fn hold(&self, spec: HoldSpec) -> Result<Hold<'_>> {
        match self.call(&Request::StartHold(spec))? {
            Reply::Started(handle) => Ok(Hold { guest: self, handle }),
            other => bail!("the guest answered {other:?} to StartHold"),
        }
    }

    fn done(&self, request: Request) -> Result<()> {
        match self.call(&request)? {
            Reply::Done => Ok(()),
            other => bail!("the guest answered {other:?} to {request:?}"),
        }
    }

    fn socket(&self, request: Request) -> Result<Handle> {
        match self.call(&request)? {
            Reply::Socket(handle) => Ok(handle),
            other => bail!("the guest answered {other:?} to {request:?}"),
        }
    }

    fn call(&self, request: &Request) -> Result<Reply> {
        self.call_within(PATIENCE, request)
    }

    fn call_within(&self, patience: Duration, request: &Request) -> Result<Reply> {
        let mut line = serde_json::to_string(request).context("cannot write a request as JSON")?;
        line.push('\n');
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        let died = || format!("the guest died; log: {}", self.process.log_path().display());
        pipes.requests.write_all(line.as_bytes()).with_context(died)?;
        let reply =
            pipes.replies.recv_timeout(patience).with_context(|| format!("no answer to {request:?}: {}", died()))?;
        let reply: Result<Reply, Failure> =
            serde_json::from_str(&reply).with_context(|| format!("not a reply: {reply}"))?;
        Ok(reply?)
    }
}

/// Reads in a thread of its own, so that waiting for a line can end without one.
fn read_lines(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// A socket of a guest; closed when dropped.
struct Socket<'g> {
    guest: &'g Guest,
    handle: Handle,
}

impl Socket<'_> {
    fn names(&self) -> Result<Names> {
        match self.guest.call(&Request::Names(self.handle))? {
            Reply::Names(names) => Ok(names),
            other => bail!("the guest answered {other:?} to Names"),
        }
    }

    fn receive(&self) -> Result<Answer> {
        match self.guest.call(&Request::Receive(self.handle))? {
            Reply::Answer(answer) => Ok(answer),
            other => bail!("the guest answered {other:?} to Receive"),
        }
    }
}

impl Drop for Socket<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.guest.done(Request::Close(self.handle)) {
            eprintln!("cannot close a socket of a guest: {error:#}");
        }
    }
}

/// An open TCP connection of a guest.
pub struct TcpConnection<'g> {
    socket: Socket<'g>,
}

impl TcpConnection<'_> {
    /// Sends a question and waits for the answer: who is at the other end.
    pub fn ask(&self) -> Result<String> {
        self.socket.guest.done(Request::Send(self.socket.handle))?;
        Ok(self.socket.receive()?.name)
    }

    /// getsockname(2) and getpeername(2).
    pub fn names(&self) -> Result<Names> {
        self.socket.names()
    }
}

/// An open UDP socket of a guest.
pub struct UdpSocket<'g> {
    socket: Socket<'g>,
}

impl UdpSocket<'_> {
    /// Uses only this interface from now on (SO_BINDTODEVICE of socket(7)).
    pub fn bind_device(&self, interface: &str) -> Result<()> {
        self.socket.guest.done(Request::UdpBindDevice(self.socket.handle, interface.to_owned()))
    }

    /// bind(2).
    pub fn bind(&self, at: SocketAddr) -> Result<()> {
        self.socket.guest.done(Request::UdpBind(self.socket.handle, at))
    }

    /// connect(2).
    pub fn connect(&self, to: SocketAddr) -> Result<()> {
        self.socket.guest.done(Request::UdpConnect(self.socket.handle, to))
    }

    /// connect(2) to AF_UNSPEC: the socket has no peer any more.
    pub fn disconnect(&self) -> Result<()> {
        self.socket.guest.done(Request::UdpDisconnect(self.socket.handle))
    }

    /// send(2) a question.
    pub fn send(&self) -> Result<()> {
        self.socket.guest.done(Request::Send(self.socket.handle))
    }

    /// sendto(2) a question.
    pub fn send_to(&self, to: SocketAddr) -> Result<()> {
        self.socket.guest.done(Request::SendTo(self.socket.handle, to))
    }

    /// send(2) of these bytes, then recv(2) of the answer's: waits some seconds, then fails with EAGAIN.
    pub fn exchange(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        match self.socket.guest.call(&Request::Exchange(self.socket.handle, bytes.to_vec()))? {
            Reply::Datagram(bytes) => Ok(bytes),
            other => bail!("the guest answered {other:?} to Exchange"),
        }
    }

    /// recvfrom(2): waits some seconds for an answer, then fails with EAGAIN.
    pub fn receive(&self) -> Result<Answer> {
        self.socket.receive()
    }

    /// getsockname(2) and getpeername(2).
    pub fn names(&self) -> Result<Names> {
        self.socket.names()
    }
}

/// Load that a guest makes.
pub struct Load<'g> {
    guest: &'g Guest,
    handle: Handle,
}

impl Load<'_> {
    /// So far.
    pub fn report(&self) -> Result<LoadReport> {
        self.report_of(Request::LoadReport(self.handle))
    }

    /// Waits until that many more sockets were tried, so that what happened before has been under load.
    pub fn wait_for(&self, more: u64) -> Result<LoadReport> {
        let goal = self.report()?.attempts + more;
        eventually(&format!("{more} more attempts of the load"), PATIENCE, || {
            let report = self.report()?;
            Ok((report.attempts >= goal).then_some(report))
        })
    }

    /// Ends it.
    pub fn stop(self) -> Result<LoadReport> {
        self.report_of(Request::StopLoad(self.handle))
    }

    fn report_of(&self, request: Request) -> Result<LoadReport> {
        match self.guest.call(&request)? {
            Reply::Load(report) => Ok(report),
            other => bail!("the guest answered {other:?} to {request:?}"),
        }
    }
}

/// Sockets that a guest keeps.
pub struct Hold<'g> {
    guest: &'g Guest,
    handle: Handle,
}

impl Hold<'_> {
    /// So far.
    pub fn report(&self) -> Result<HoldReport> {
        self.report_of(Request::HoldReport(self.handle))
    }

    /// Waits until every socket was asked that many times more. Stops waiting when a socket broke.
    pub fn wait_for(&self, rounds: u64) -> Result<HoldReport> {
        let goal = self.report()?.rounds + rounds;
        eventually(&format!("{rounds} more rounds of the held sockets"), PATIENCE, || {
            let report = self.report()?;
            Ok((report.rounds >= goal || !report.breaks.is_empty()).then_some(report))
        })
    }

    /// Closes them.
    pub fn stop(self) -> Result<HoldReport> {
        self.report_of(Request::StopHold(self.handle))
    }

    fn report_of(&self, request: Request) -> Result<HoldReport> {
        match self.guest.call(&request)? {
            Reply::Hold(report) => Ok(report),
            other => bail!("the guest answered {other:?} to {request:?}"),
        }
    }
}
