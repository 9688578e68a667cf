//! Which map operations make a backend serve no more. Pure.

use std::net::SocketAddr;

use lb_common::abi::{Backend, Family, Proto, backend_state};

use crate::datapath::op::{FamilyOp, Op};

/// A backend that serves no more: deleted, or not ready and not terminating either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoneBackend {
    /// Its address and port.
    pub addr: SocketAddr,
    /// TCP or UDP.
    pub proto: Proto,
    /// The id of the Service port that it served.
    pub service: u32,
    /// Its id, which may be given to another backend by now.
    pub backend: u32,
}

/// The backend that an operation took away, if it did. It may not have served before either.
pub(super) fn taken_away(op: &Op) -> Option<GoneBackend> {
    match op {
        Op::V4(op) => taken_away_in(op),
        Op::V6(op) => taken_away_in(op),
        Op::PutName(..) | Op::DeleteName(_) | Op::WaitForReaders => None,
    }
}

fn taken_away_in<F: Family>(op: &FamilyOp<F>) -> Option<GoneBackend> {
    match op {
        FamilyOp::DeleteBackend(id, backend) => gone(*id, backend),
        FamilyOp::PutBackend(id, backend) if backend.state == backend_state::NOT_READY => gone(*id, backend),
        _ => None,
    }
}

fn gone<F: Family>(id: u32, backend: &Backend<F>) -> Option<GoneBackend> {
    Some(GoneBackend {
        addr: SocketAddr::new(F::to_ip(backend.addr), backend.port),
        proto: Proto::from_number(backend.proto)?,
        service: backend.service,
        backend: id,
    })
}

#[cfg(test)]
mod tests {
    use lb_common::abi::V4;

    use super::*;

    fn backend(state: u8) -> Backend<V4> {
        Backend { addr: [10, 0, 0, 1], port: 53, proto: 17, state, service: 7, ..Backend::default() }
    }

    #[test]
    fn a_backend_is_gone_when_it_is_deleted_or_not_ready_and_not_while_it_terminates() {
        let addr = SocketAddr::from(([10, 0, 0, 1], 53));
        let expected = Some(GoneBackend { addr, proto: Proto::Udp, service: 7, backend: 3 });
        let put = |state| taken_away(&Op::V4(FamilyOp::PutBackend(3, backend(state))));
        assert_eq!(put(backend_state::NOT_READY), expected);
        assert_eq!(put(backend_state::TERMINATING), None);
        assert_eq!(put(backend_state::READY), None);
        let delete = Op::V4(FamilyOp::DeleteBackend(3, backend(backend_state::TERMINATING)));
        assert_eq!(taken_away(&delete), expected);
    }
}
