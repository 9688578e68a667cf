//! Requests in, replies out, one at a time. Owns the sockets, loads and held sockets that the handles stand for.

use std::{collections::HashMap, io::Write as _};

use anyhow::{Context as _, Result};
use lb_tests::guest::{Failure, Handle, Reply, Request, Traffic};

use crate::{hold::Holding, keep::Keeping, load::Loading, probe, server, socket::Conversation};

#[derive(Default)]
struct Session {
    next: u32,
    sockets: HashMap<Handle, Conversation>,
    loads: HashMap<Handle, Loading>,
    holds: HashMap<Handle, Holding>,
    kept: HashMap<Handle, Keeping>,
}

/// Serves until stdin ends.
pub(crate) fn run() -> Result<()> {
    let mut session = Session::default();
    for line in std::io::stdin().lines() {
        let line = line.context("cannot read a request")?;
        let request = serde_json::from_str(&line).with_context(|| format!("not a request: {line}"))?;
        let reply = session.answer(request);
        let mut line = serde_json::to_string(&reply).context("cannot write a reply as JSON")?;
        line.push('\n');
        std::io::stdout().write_all(line.as_bytes()).context("cannot write a reply")?;
    }
    Ok(())
}

impl Session {
    fn answer(&mut self, request: Request) -> Result<Reply, Failure> {
        match request {
            Request::Serve { name, proto, port } => server::start(&name, proto, port).map(|()| Reply::Done),
            Request::Witness { name, proto, at } => server::witness(&name, proto, at).map(|()| Reply::Done),
            Request::Probe { specs, side_by_side } => probe::run_all(&specs, side_by_side).map(Reply::Probes),
            Request::TcpConnect(target) => Conversation::open(Traffic::Tcp, target).map(|socket| self.keep(socket)),
            Request::UdpOpen(target) => Conversation::udp(target).map(|socket| self.keep(socket)),
            Request::UdpBind(handle, at) => self.socket(handle)?.bind(at).map(|()| Reply::Done),
            Request::UdpBindDevice(handle, interface) => {
                self.socket(handle)?.bind_device(&interface).map(|()| Reply::Done)
            }
            Request::UdpConnect(handle, to) => self.socket(handle)?.connect(to).map(|()| Reply::Done),
            Request::UdpDisconnect(handle) => self.socket(handle)?.disconnect().map(|()| Reply::Done),
            Request::Send(handle) => self.socket(handle)?.send().map(|()| Reply::Done),
            Request::SendTo(handle, to) => self.socket(handle)?.send_to(to).map(|()| Reply::Done),
            Request::Receive(handle) => self.socket(handle)?.receive().map(Reply::Answer),
            Request::Exchange(handle, bytes) => self.socket(handle)?.exchange(&bytes).map(Reply::Datagram),
            Request::Names(handle) => self.socket(handle)?.names().map(Reply::Names),
            Request::Close(handle) => self.sockets.remove(&handle).map(|_| Reply::Done).ok_or_else(unknown),
            Request::StartLoad(spec) => {
                let handle = self.handle();
                self.loads.insert(handle, Loading::start(spec));
                Ok(Reply::Started(handle))
            }
            Request::LoadReport(handle) => {
                self.loads.get(&handle).map(|load| Reply::Load(load.report())).ok_or_else(unknown)
            }
            Request::StopLoad(handle) => {
                self.loads.remove(&handle).map(|load| Reply::Load(load.stop())).ok_or_else(unknown)
            }
            Request::Keep(specs) => {
                let kept = Keeping::open(&specs)?;
                let handle = self.handle();
                self.kept.insert(handle, kept);
                Ok(Reply::Started(handle))
            }
            Request::Said(handle) => self.kept.get(&handle).map(|kept| Reply::Said(kept.said())).ok_or_else(unknown),
            Request::AskAgain(handle) => {
                let kept = self.kept.get_mut(&handle).ok_or_else(unknown)?;
                kept.ask().map(|()| Reply::Said(kept.said()))
            }
            Request::Release(handle) => self.kept.remove(&handle).map(|_| Reply::Done).ok_or_else(unknown),
            Request::StartHold(spec) => {
                let hold = Holding::start(spec)?;
                let handle = self.handle();
                self.holds.insert(handle, hold);
                Ok(Reply::Started(handle))
            }
            Request::HoldReport(handle) => {
                self.holds.get(&handle).map(|hold| Reply::Hold(hold.report())).ok_or_else(unknown)
            }
            Request::StopHold(handle) => {
                self.holds.remove(&handle).map(|hold| Reply::Hold(hold.stop())).ok_or_else(unknown)
            }
        }
    }

    fn handle(&mut self) -> Handle {
        self.next += 1;
        Handle(self.next)
    }

    fn keep(&mut self, socket: Conversation) -> Reply {
        let handle = self.handle();
        self.sockets.insert(handle, socket);
        Reply::Socket(handle)
    }

    fn socket(&mut self, handle: Handle) -> Result<&mut Conversation, Failure> {
        self.sockets.get_mut(&handle).ok_or_else(unknown)
    }
}

fn unknown() -> Failure {
    Failure { call: "handle".to_owned(), errno: "EBADF".to_owned() }
}
