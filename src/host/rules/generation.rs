//! Whether anybody changed packet filters of this machine: the number of the kernel's ruleset, one more with each transaction
//! of whatever table (nfnetlink, `NFT_MSG_GETGEN`; nftables counts it in `nf_tables_commit`).
//!
//! *Takes* nothing. *Gives* the number of the network namespace that we are in, in a few microseconds, where nft needs a quarter
//! of a second to read a thousand VMs. *Never* says anything of another machine: over a shell there is no netlink.

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

use crate::host::shell::Shell;

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_…` (linux/netfilter/nfnetlink.h, nf_tables.h).
const NEW_GENERATION: u16 = 10 << 8 | 15;
const GET_GENERATION: u16 = 10 << 8 | 16;
/// `NFTA_GEN_ID`.
const ID: u16 = 1;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;

/// The number now; `None` where it cannot be asked.
pub(super) fn now(shell: &dyn Shell) -> Option<u32> {
    if shell.is_remote() { None } else { ask().ok().flatten() }
}

/// Whether exactly one transaction lies between two numbers. Zero is left out when they begin anew.
pub(super) fn is_next(before: Option<u32>, after: Option<u32>) -> bool {
    let next = |n: u32| if n == u32::MAX { 1 } else { n + 1 };
    before.is_some() && after == before.map(next)
}

fn ask() -> rustix::io::Result<Option<u32>> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(NETFILTER),
    )?;
    // Header (length, type, flags, sequence, port), then family, version and resource.
    let mut message = [0_u8; 20];
    message[..4].copy_from_slice(&20_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&GET_GENERATION.to_ne_bytes());
    message[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
    sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    // The kernel has answered when the call that asks returns.
    let mut buffer = [0_u8; 512];
    let (length, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
    Ok(buffer.get(..length).and_then(read))
}

/// The number in an answer.
fn read(answer: &[u8]) -> Option<u32> {
    let two = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if two(4)? != NEW_GENERATION {
        return None;
    }
    let mut at = 20;
    loop {
        let (length, kind) = (usize::from(two(at)?), two(at + 2)?);
        if kind == ID && length == 8 {
            return Some(u32::from_be_bytes(answer.get(at + 4..at + 8)?.try_into().ok()?));
        }
        // Attributes are aligned to four bytes; one shorter than its own header would never end.
        at += length.max(4).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_found_among_attributes() {
        let answer = |kind: u16, attributes: &[u8]| {
            let head = [&[0; 4][..], &kind.to_ne_bytes(), &[0; 14]].concat();
            [&head, attributes].concat()
        };
        let pid = [8_u16.to_ne_bytes(), 2_u16.to_ne_bytes()].concat();
        let id = [8_u16.to_ne_bytes(), 1_u16.to_ne_bytes()].concat();
        let both = [&pid[..], &[0, 0, 0, 9], &id, &[0, 0, 1, 4]].concat();
        assert_eq!(read(&answer(NEW_GENERATION, &both)), Some(260));
        assert_eq!(read(&answer(2, &both)), None, "an error");
        assert_eq!(read(&answer(NEW_GENERATION, &both[..12])), None);
        assert_eq!(read(&answer(NEW_GENERATION, &[0; 40])), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn one_more_is_the_next() {
        assert!(is_next(Some(4), Some(5)) && is_next(Some(u32::MAX), Some(1)));
        assert!(!is_next(Some(4), Some(4)) && !is_next(Some(4), Some(6)));
        assert!(!is_next(None, Some(1)) && !is_next(Some(1), None) && !is_next(None, None));
    }
}
