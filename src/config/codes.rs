//! The table of codes: what each means, for `stablehand explain E0207`. A code never changes its meaning.

use super::diagnostic::Severity;

/// One code.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// The code, for example `E0207`.
    pub code: &'static str,
    /// What is wrong, in a few words.
    pub title: &'static str,
    /// What it means and what to do, with an example where one helps.
    pub text: &'static str,
}

macro_rules! codes {
    ($($code:ident $title:literal $text:literal)*) => {
        /// Every code, in order.
        pub const CODES: &[Code] = &[$(Code { code: stringify!($code), title: $title, text: $text },)*];
    };
}

codes! {
    E0001 "a file cannot be read" "The operating system refused to open or read the file. Mend its permissions, or move it out of the fleet's folder."
    E0002 "a file is too large" "A file of the fleet has at most 4 MiB, some 8,000 documents. A larger one is hardly meant to be here: move it out, or split it."
    E0003 "a file is not UTF-8" "YAML is read as UTF-8. Save the file in that encoding."
    E0004 "a file holds a NUL byte" "A text file has no NUL bytes: this is something else with a `.yaml` name, or was damaged."
    E0005 "a link leads out of the folder" "A commit must say everything that a fleet is. A symbolic link to a place outside the fleet's folder (or to nothing) says something different on every machine, so it is not followed."
    E0006 "nothing is there" "The fleet's folder holds no `*.yaml` or `*.yml` file outside `state/`, `tests/` and hidden folders. An empty repository is refused everywhere, so that a wrong path never reads as \"remove everything\"."
    E0007 "too many files or folders" "A bound of what is read was passed: folders nested deeper than 32, or more than 100,000 files."
    E0101 "not YAML" "The text is not YAML 1.2, from the place shown on. The rest of that document is not looked at; the documents after it are."
    E0102 "something is said twice" "A key stands twice in one map. Other tools silently take the last one; here both places are shown and you choose.\n\n    memory: 1GiB\n    memory: 2GiB    # which?"
    E0103 "a YAML 1.1 boolean" "`yes`, `no`, `on`, `off`, `y` and `n` are booleans to parsers of YAML 1.1 and text to those of YAML 1.2. Write `true` or `false` for a boolean, and quotes for text.\n\n    labels: {country: \"no\"}"
    E0104 "a number with a leading zero" "`0755` is 493 to some parsers and 755 to others. Write the number without the zero, or quotes for text."
    E0105 "a merge key" "`<<` is not part of YAML 1.2, and its result is hard to read in review. What is alike stands in the fleet's `defaults` or in a template:\n\n    templates:\n      small: {cpus: 1, memory: 512MiB}\n    apps:\n      web: {from: small, image: debian}"
    E0106 "a tag" "Tags (`!!str`, `!include`) have no meaning here: the field decides what a value is."
    E0107 "an alias that names nothing" "An alias (`*name`) stands for the value with the anchor (`&name`) before it in the same document, and not inside that value."
    E0108 "nested too deep" "Documents of ours need about ten levels; 64 are read."
    E0109 "too many values" "A file holds at most 250,000 values, aliases counted as what they stand for: a file of a few lines can otherwise stand for more than any machine can hold."
    E0110 "a key that is not text" "Keys are text: neither nothing, nor lists, nor maps."
    E0199 "more diagnostics than are shown" "The first 1,000 are shown. Mending those usually mends many of the others."
    E0201 "not a document" "A document is a map with `apiVersion`, `kind`, `metadata` and `spec`. Several stand in one file with a line `---` between them."
    E0202 "an unknown API version" "`apiVersion` of every document is `stablehand/v1alpha1`."
    E0203 "another API version" "The document was written for another version of stablehand than the one that reads it."
    E0204 "an unknown kind" "Kinds are Fleet, Host, Image, Network, Module, Service, Removal, Adoption, HostLost, Pause and Task."
    E0205 "a kind of a later version" "The kind is planned, and this version does not read it yet. It is an error rather than ignored, because a document that does nothing is worse than one that is refused."
    E0206 "a field is missing" "The field must be said, here or (for a field of a VM) in a template or the fleet's `defaults`."
    E0207 "an unknown field" "No such field exists here. Unknown fields are errors, because a misspelt one would otherwise do nothing, silently.\n\n    memroy: 8GiB    # did you mean `memory`?"
    E0208 "another shape is expected" "A map stands where a list is expected, or text where a map is, and so on."
    E0209 "a field without a value" "Nothing stands after the colon. It is not taken for empty, because it is usually a line that was meant to be indented."
    E0210 "another sort of scalar is expected" "A number where text is expected, or text where a number is. Quotes make text of a number: `rack: \"12\"`."
    E0211 "a number out of range" "The help says which numbers are possible."
    E0212 "a unit is missing" "Sizes and times need a unit, so that nobody has to know what is assumed: `memory: 512MiB`, `within: 30s`."
    E0213 "an unknown unit" "Sizes: B, KiB, MiB, GiB, TiB (powers of 1024), KB, MB, GB, TB (powers of 1000). Times: ms, s, m, h, d. Case matters."
    E0214 "not a quantity" "A number with a unit, without a space: `8GiB`, `1.5h`, `25%`."
    E0215 "an unknown word" "The field takes one of a few words, which the help lists."
    E0216 "not a name" "Names are RFC 1123 labels: 1 to 63 of a-z, 0-9 and `-`, beginning and ending with a letter or digit. They become host names and parts of file names."
    E0217 "malformed text" "The text does not have the form that the field needs: an address, a subnet, a UUID, a path, a key."
    E0218 "one of several fields" "Exactly one of these fields says what is meant: `path` or `url`; one probe."
    E0220 "something of a later version" "The field or word is planned, and this version does not do it yet. It is an error, so that nobody relies on what does not happen."
    E0221 "user data that is not YAML" "User data that begins with `#cloud-config` is read by the guest as a YAML map. An error in it would otherwise show only as a guest that is not set up."
    E0222 "not a digest" "`sha256:` and 64, or `sha512:` and 128 lower-case hexadecimal digits. An image is known by its digest, so that the same commit always means the same bytes."
    E0223 "user data of another kind" "User data is a `#cloud-config` (YAML) or a script (`#!` and its program), and read before it is given to a guest. Parts (MIME), includes, templates and boot hooks are not read; what begins otherwise cloud-init itself would ignore, and only a guest that is not set up would show it.\n\n    cloudInit:\n      userData: |\n        #cloud-config\n        packages: …"
    E0301 "no Fleet" "Every repository has one document of `kind: Fleet`; its name is the fleet's id, which everything that is ours is stamped with.\n\n    apiVersion: stablehand/v1alpha1\n    kind: Fleet\n    metadata: {name: quickstart}\n    spec: {}"
    E0302 "two Fleets" "One folder is one fleet. Two in one folder would own each other's VMs."
    E0303 "a second document of that name" "Two documents of one kind, or two templates, with one name. Other tools let the last one win, and delete what the first one made."
    E0304 "a name that does not exist" "Nothing of that name is written in the repository."
    E0305 "a cycle of dependencies" "VMs start when what they depend on is ready. In a cycle none can be first. The whole path is shown."
    E0306 "two VMs of one name" "A VM is called `<service>-<app>-<number>` or `<module>-<instance>-<member>`; two of them come to the same name, for example `a-b` in service `c` and `b-c`…"
    E0307 "a VM's name is too long" "A VM's name is also its host name, which has at most 63 characters."
    E0308 "a template made from itself" "`from:` of a template leads back to it."
    E0310 "a field without meaning here" "The field belongs to apps or members, not to what every VM shares."
    E0311 "a reserved name" "The name is used for something of our own."
    E0312 "a machine type without version" "`pc` and `q35` mean whatever the newest QEMU makes of them: after an upgrade a guest would find other hardware. Write `pc-q35-7.2`."
    E0313 "a VM without image" "`image: none` is for a VM that exists and is adopted with the disks it has. Any other VM is made from an image."
    E0315 "too many VMs" "A fleet has at most 100,000 VMs."
    E0401 "too few hosts to spread over" "`spread.minHosts` is more than the hosts that may run the app, or than its VMs."
    E0402 "too many VMs for the rule" "`spread.maxPerHost` times the hosts that may run the app is less than its VMs."
    E0403 "separation that cannot be" "The apps must not share hosts, and there are not enough hosts on which each may run. Counted are the hosts that `placement` allows, however empty."
    E0404 "no host may run it" "No host has the labels, the security level and the name that `placement` asks for, and runs what the image is for: virtual machines, or containers (`lxc://`)."
    E0405 "an address outside its subnet" "The address is not one that a host of the subnet can have."
    E0406 "an address is taken" "Two interfaces would have one address, or one has the host's or the gateway's."
    E0407 "too few addresses" "The network's range has fewer addresses than the VMs on it have interfaces."
    E0408 "a range that ends before it begins" "`from` is the lower address, `to` the higher one; both belong to the range."
    E0409 "an address that is not ours to give" "The network's addresses are given by somebody else (`addressing: external`)."
    E0411 "two networks on one bridge" "Each network has a bridge of its own; networks on one bridge would be one network."
    E0412 "at most less than now" "A maximum is less than the value that it bounds."
    E0413 "a value that cannot work" "Too small, too large, or empty: the help says what is possible."
    E0415 "one machine described twice" "Two Host documents mean one machine: its room would be counted twice and its VMs seen on both. Only a machine that runs virtual machines and containers has two: one with a `qemu` and one with an `lxc` connection, each with folders of its own and with its share of the machine as `capacity`."
    E0416 "a Removal of something else" "A Removal names a VM, a service, a module or the fleet. Hosts, images and networks go when their document goes and nothing uses them."
    E0417 "adopted twice" "One existing domain becomes one VM, and one VM is one domain."
    E0420 "not a name for a bridge" "Linux takes at most 15 characters for the name of an interface."
    E0421 "a path that is not absolute" "The path is one on the host, where we have no current folder."
    E0422 "a probe that cannot reach" "A TCP or HTTP probe needs an interface of the VM, on a network on which the host has an address: it is the host that asks."
    E0424 "no shell for a host" "Images, disks and bridges are made by programs on the host: libvirt's connection does not run them. A host that is reached over `qemu+ssh://` gets SSH by itself; for others `shell` says how."
    E0425 "clear text where it is not declared" "Memory and disks of a VM that moves hold everything that the VM holds. They travel encrypted (`tls`, `tunnel`), or in clear text on the one network that the Host document declares for it."
    E0426 "an uplink that cannot be" "A bridge that is made for the fleet may have an interface of its host as its uplink, whole or one VLAN of it. What the host has as an address on it must go on living somewhere: `takeOver` moves it to the bridge; a `hostAddress` of its own would be on the same wire from every host.\n\n    bridge: {name: shoffice, create: true, uplink: eth1, vlan: 20}"
    E0427 "NAT without what it needs" "The host is the router of guests behind NAT: the bridge is ours to make, without uplink, and the host has an address in the guests' subnet, which is their gateway.\n\n    spec:\n      bridge: {name: shout, create: true}\n      mode: nat\n      subnet: 10.84.0.0/24\n      hostAddress: 10.84.0.1\n      range: {from: 10.84.0.10, to: 10.84.0.99}"
    E0428 "two networks on one uplink" "Networks on one uplink would be one network, unless each is a VLAN of its own, or one is what is not tagged."
    E0430 "one device under two names" "A device is in one place, and has one name on its host; and a VM has it once. Two of one kind on one host (equal `vendor` and `product`) are told apart by `bus` and `device`."
    E0431 "more VMs than devices" "A device of a host is in one VM at a time, and more VMs should run with it than there are hosts that have it and may run them. VMs that are `run: stopped` do not count."
    E0440 "only one of virtual machines and containers has it" "A container is a root file system and a first program on its host's kernel: an image of `format: rootfs`, on a host with libvirt's LXC driver. It has no hardware, no kernel, no screen and no guest agent of its own, and its memory cannot be saved. What the fleet's `defaults` say of those is meant for virtual machines.\n\n    kind: Image\n    spec:\n      format: rootfs\n      boot: {init: /usr/bin/server, arguments: [--port, \"80\"]}"
    E0450 "a rule that nobody can hold" "A rule names a network whose addresses nobody has said: without `subnet` there is nothing to compare packets with."
    E0460 "which generation is current" "An Image says it in one way: by `source` and `digest`, or by `current`, which names one of its `generations`. A generation is what its digest says, so that each has one name.\n\n    kind: Image\n    spec:\n      current: 3\n      generations:\n        2: {path: desk-2.qcow2, digest: \"sha256:…\"}\n        3: {path: desk-3.qcow2, digest: \"sha256:…\"}"
    E0470 "a marker that cannot work" "A marker is a text in the image that is replaced by a value of the same length, filled up by `pad`: it must be long enough for every value (an address has up to 15 characters, one with its prefix length 18), stand nowhere else in the image, and not be part of another marker. The whole disk is read for it, so it is copied: neither an overlay nor a reflink is possible.\n\n    learnsAddressBy:\n      marker:\n        address: {text: \"@@STABLEHAND-ADDRESS@@\", value: address}"
    E0471 "a marker without a value" "The marker stands for an address that a VM of the image does not have: its first interface by name is on a network whose addresses somebody else gives, or that has no gateway. What is not known when the disk is copied cannot be written into it."
    E0480 "an image that is made in the fleet" "An Image says where its disk comes from in one way: by `source` and `digest` (or `generations`), or by `from`, which makes it in the fleet: from another image, in a VM that is made for it; or from a VM that exists, which reverts afterwards. `revision`, `configure`, `build`, `check` and `generalise` go with `from`. It is made of the disk of a virtual machine.\n\n    kind: Image\n    spec:\n      format: qcow2\n      from: {image: debian}\n      revision: 4\n      configure:\n        steps:\n          - packages: {install: [nginx]}\n      check: {exec: {command: [nginx, -t]}}"
    E0481 "an image that is made from itself" "Images that are made from one another begin with one that has a `source`: of that, the others are made in turn."
    E0490 "a time that cannot be" "A `lease` has one end (`for`, `until` or `untilTask`) after its beginning. What begins again and again (`from` with `every`) says a time of day with its zone, and lasts `for` a time that is over before it begins again.\n\n    lease: {for: 8h}\n    from: {every: weekday, at: \"08:00\", zone: Europe/Berlin}"
    W0501 "a Removal of something described" "What a Removal names ends, although the YAML still describes it. Take the description out too: once the Removal is gone, it would be made again."
    W0502 "a rule that allows nothing new" "What the rule allows is allowed already: by another rule, by a wider one beside it, or because the VMs belong together. It does no harm; it only makes the others harder to read."
}

/// The table's line of a code.
pub fn explain(code: &str) -> Option<&'static Code> {
    CODES.iter().find(|known| known.code.eq_ignore_ascii_case(code))
}

/// The title of a code.
pub fn title(code: &str) -> Option<&'static str> {
    explain(code).map(|known| known.title)
}

/// Whether a code is an error: `E…`.
pub(crate) fn is_error(code: &str) -> bool {
    code.starts_with('E')
}

/// Error or warning.
pub(crate) fn severity(code: &str) -> Severity {
    if is_error(code) { Severity::Error } else { Severity::Warning }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_in_order_and_unique() {
        assert!(CODES.windows(2).all(|pair| pair[0].code < pair[1].code));
        assert!(
            CODES.iter().all(|c| c.code.len() == 5
                && !c.title.ends_with('.')
                && c.text.ends_with(['.', '…', '}', '`', '?', '}']))
        );
    }
}
