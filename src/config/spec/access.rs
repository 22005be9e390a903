//! Who may talk to whom.

use crate::config::leaf::Cidr;
use crate::config::read::{Loc, spec};
use crate::model::{Name, Traffic};

spec! {
    /// Something that is allowed beside what always is, for a service or one of its apps.
    ServiceAccessSpec("the access rule") {
        /// The app whose VMs it is said of (default: all).
        "app" app: Loc<Name>;
        /// Who may begin. One of `from` and `to`.
        "from" from: PeerSpec;
        /// Who may be reached. One of `from` and `to`.
        "to" to: PeerSpec;
        /// With what: `any`, `icmp`, `tcp`, `udp`, `tcp/443`, `udp/5000-5010` (default `any`).
        "ports" ports: Vec<Loc<Traffic>>;
    }
}

spec! {
    /// Something that is allowed beside what always is, for all instances of a module or one VM in each.
    ModuleAccessSpec("the access rule") {
        /// The VM of the module that it is said of (default: all).
        "vm" vm: Loc<Name>;
        /// Who may begin. One of `from` and `to`.
        "from" from: PeerSpec;
        /// Who may be reached. One of `from` and `to`.
        "to" to: PeerSpec;
        /// With what: `any`, `icmp`, `tcp`, `udp`, `tcp/443`, `udp/5000-5010` (default `any`).
        "ports" ports: Vec<Loc<Traffic>>;
    }
}

spec! {
    /// The other side of a rule: one of `network`, `cidr`, `service`, `module` and `vm`.
    PeerSpec("the peer") {
        /// A network: all addresses of its subnet, and our VMs on it.
        "network" network: Loc<Name>;
        /// An address or a network outside. A VM of the fleet with such an address stays closed: it is reached by name.
        "cidr" cidr: Loc<Cidr>;
        /// A service.
        "service" service: Loc<Name>;
        /// One app of the service.
        "app" app: Loc<Name>;
        /// A module: all its instances.
        "module" module: Loc<Name>;
        /// One VM of the fleet; beside `module`, the VM of that name in each instance.
        "vm" vm: Loc<Name>;
    }
}

spec! {
    /// An address that every VM on the network may reach.
    SystemAddressSpec("the system address") {
        /// The address, or a network.
        "address" address: Loc<Cidr>, required;
        /// With what: `any`, `icmp`, `tcp`, `udp`, `tcp/443`, `udp/5000-5010` (default `any`).
        "ports" ports: Vec<Loc<Traffic>>;
    }
}
