//! What a worker thread does between two rounds: it waits for signs, or for a time that it has set itself. Knows nothing of
//! what the signs mean.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Instant,
};

/// Waits for a sign, or until `next` if there is a time, and gives all that have come by then: none when the time is up.
/// `None` when nobody is left who could send one.
pub fn gather<S>(signs: &Receiver<S>, next: Option<Instant>) -> Option<impl Iterator<Item = S>> {
    let first = match next {
        None => signs.recv().map_err(|_| RecvTimeoutError::Disconnected),
        Some(at) => signs.recv_timeout(at.saturating_duration_since(Instant::now())),
    };
    match first {
        Ok(sign) => Some(Some(sign).into_iter().chain(signs.try_iter())),
        Err(RecvTimeoutError::Timeout) => Some(None.into_iter().chain(signs.try_iter())),
        Err(RecvTimeoutError::Disconnected) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn all_that_has_come_is_given_at_once_in_its_order() {
        let (sender, signs) = channel();
        for sign in 1..=3 {
            sender.send(sign).unwrap();
        }
        assert_eq!(gather(&signs, None).unwrap().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_time_that_is_up_gives_no_sign_and_is_not_the_end() {
        let (sender, signs) = channel::<u8>();
        assert_eq!(gather(&signs, Some(Instant::now())).unwrap().count(), 0);
        drop(sender);
        assert!(gather(&signs, Some(Instant::now())).is_none());
        assert!(gather(&signs, None).is_none());
    }
}
