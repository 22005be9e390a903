//! Memory of an emulated guest, in a size with which QEMU loses none of it while it moves.
//!
//! Before version 9.0, QEMU without KVM misses pages that a guest writes while its memory travels. It takes over its bitmap of
//! written pages in words of 64 bits, and does not tell the emulated processors, which go on writing to pages that they
//! believe to be marked (mended by QEMU's commit 03bfc2188f06, "physmem: Fix migration dirty bitmap coherency with TCG memory
//! access"). Memory whose pages do not fill the last word is looked at page by page, and there they are told
//! (`cpu_physical_memory_sync_dirty_bitmap`, `include/exec/ram_addr.h`).
//!
//! libvirt rounds memory up to whole MiB, 4 words of pages, so QEMU is given it past libvirt. That holds for a domain from its
//! start on, and goes with it to other hosts.

use roxmltree::Node;

use super::edit::Splices;
use super::read::child;

/// Namespace of QEMU's own arguments (libvirt, "QEMU command-line passthrough").
const QEMU_NS: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// How our argument begins, by which it is known again.
const OBJECT: &str = "memory-backend-ram,id=stablehand.ram,";

/// Bytes above what libvirt would give: the step to which QEMU rounds `-m` (`hw/core/machine.c`), two pages.
const ABOVE: u64 = 8192;

/// The `<qemu:commandline>` of an emulated domain with this much memory, in KiB.
pub(super) fn element(kib: u64) -> String {
    // As libvirt rounds it (`qemuDomainAlignMemorySizes`).
    let size = kib.next_multiple_of(1024).saturating_mul(1024).saturating_add(ABOVE);
    let words = [
        "-object".to_owned(),
        format!("{OBJECT}size={size}"),
        "-machine".to_owned(),
        "memory-backend=stablehand.ram".to_owned(),
        "-m".to_owned(),
        format!("size={}k", size / 1024),
    ];
    let words: String = words.iter().map(|w| format!("<qemu:arg value='{w}'/>")).collect();
    format!("<qemu:commandline xmlns:qemu='{QEMU_NS}'>{words}</qemu:commandline>")
}

/// After the memory changed: says it to QEMU where the domain is one of these.
pub(super) fn resize(root: Node<'_, '_>, out: &mut Splices<'_>, kib: u64) {
    if let Some(node) = ours(root) {
        say(node, out, kib);
    }
}

/// For a domain that is emulated from now on. One with arguments, memory devices or cells of its own is left alone.
pub(super) fn add(root: Node<'_, '_>, out: &mut Splices<'_>, kib: u64) {
    let special = ["maxMemory", "memoryBacking", "numatune"].into_iter().any(|name| child(root, name).is_some())
        || child(root, "cpu").is_some_and(|c| child(c, "numa").is_some());
    if !special && !commandlines(root).any(|_| true) {
        out.append(root, &element(kib));
    }
}

/// For a domain that has KVM from now on.
pub(super) fn remove(root: Node<'_, '_>, out: &mut Splices<'_>) {
    if let Some(node) = ours(root) {
        out.remove(node);
    }
}

fn say(node: Node<'_, '_>, out: &mut Splices<'_>, kib: u64) {
    let new = element(kib);
    // libvirt binds the prefix at the root and breaks the lines: only another size is a change.
    let size =
        |text: &str| text.split_once(OBJECT).and_then(|(_, rest)| rest.split(['\'', '"']).next().map(str::to_owned));
    let now = node.children().find_map(|n| n.attribute("value").filter(|v| v.starts_with(OBJECT)).and_then(size));
    if now != size(&new) {
        out.replace(node.range(), new);
    }
}

fn commandlines<'a, 'i: 'a>(root: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> + 'a {
    root.children().filter(|n| n.has_tag_name((QEMU_NS, "commandline")))
}

/// The element, where all of it is ours.
fn ours<'a, 'i: 'a>(root: Node<'a, 'i>) -> Option<Node<'a, 'i>> {
    commandlines(root).find(|node| {
        let words: Vec<&str> = node.children().filter_map(|n| n.attribute("value")).collect();
        words.len() == 6 && words.iter().any(|w| w.starts_with(OBJECT))
    })
}
