//! Lines to a libvirtd: connections over which one call goes at a time.
//!
//! libvirt allows any number of calls at once over a connection, and 9.0 breaks there. A thread that waits for its reply
//! watches the socket with a place on its own stack to note what it saw. When the connection ends under several threads
//! (`virConnectSetKeepAlive` finds it dead, or it is closed), the first one leaves and forgets its watch; the second one, which
//! waits for the same socket, then writes to the stack of a thread that is no more: SIGSEGV some seconds after a cable was
//! cut (`virNetClientIOEventLoop`, CVE-2024-4418). With one caller at a time nobody is left to stumble over the watch.
//!
//! The end of a connection is a call, too, and so is taking a callback back: both go after all others, on one thread.

use virt::connect::Connect;

use super::raw::Ears;

/// One connection for one caller.
pub(super) struct Line {
    connect: Option<Connect>,
    ears: Option<Ears>,
}

impl Line {
    /// A connection that nobody else has, and what listens there.
    pub(super) const fn new(connect: Connect, ears: Ears) -> Self {
        Self { connect: Some(connect), ears: Some(ears) }
    }

    /// Another count of a connection of a driver inside this process, which has no socket.
    pub(super) const fn shared(connect: Connect) -> Self {
        Self { connect: Some(connect), ears: None }
    }

    /// The connection. Neither it nor anything made of it may be kept past the call.
    #[expect(clippy::unwrap_used, reason = "it is taken by `drop` alone")]
    pub(super) const fn connect(&self) -> &Connect {
        self.connect.as_ref().unwrap()
    }

    /// Whether domains are heard of over it.
    pub(super) fn hears(&self) -> bool {
        self.ears.as_ref().is_some_and(Ears::hears)
    }
}

impl Drop for Line {
    /// On a thread of its own: the host is told, and may not answer until libvirt sees that it is away.
    fn drop(&mut self) {
        let (Some(connect), Some(ears)) = (self.connect.take(), self.ears.take()) else { return };
        let close = move || {
            // First, so that nothing comes in any more: libvirt would count up a connection that is being closed, and close
            // it twice.
            ears.take_back(&connect);
            drop(connect);
        };
        let _ = std::thread::Builder::new().name("libvirt".to_owned()).spawn(close);
    }
}
