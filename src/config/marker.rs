//! How an image's clones learn who they are: a word, or markers in the image with what each stands for.

use std::collections::BTreeMap;

use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::node::{Kind, Node};
use super::read::{Leaf, Loc, Named, Read, not, spec, words};
use super::repository::Repository;
use super::sink::{Mark, Sink};
use super::spec::{ImageSpec, Text};
use crate::model::{CloneMethod, Desired, Identity, Marker, MarkerValue, Name, Padding};

words!(MarkerValue, "something that a marker stands for" {
    "address" => Self::Address,
    "cidr" => Self::Cidr,
    "gateway" => Self::Gateway,
    "address6" => Self::Address6,
    "cidr6" => Self::Cidr6,
    "gateway6" => Self::Gateway6,
    "hostname" => Self::Hostname,
});
words!(Padding, "a padding" {
    "space" => Self::Space,
    "nul" => Self::Nul,
    "newline" => Self::Newline,
});

spec! {
    /// A text in the image, and what comes in its place in each clone.
    MarkerSpec("marker") {
        /// The text: 8 to 256 printable ASCII characters without blanks, at least as long as the longest value.
        "text" text: Text, required;
        /// `address`, `cidr` (with prefix length), `gateway`, `address6`, `cidr6`, `gateway6`: of the first interface by
        /// name; or `hostname`.
        "value" value: Loc<MarkerValue>, required;
        /// What fills the rest of the marker's length: `space` (default), `nul` or `newline`.
        "pad" pad: Loc<Padding>;
    }
}

spec! {
    /// Markers instead of cloud-init: replaced while the disk is copied into the slot.
    MarkersSpec("learnsAddressBy") {
        /// Markers by name.
        "marker" marker: Named<MarkerSpec>, required;
    }
}

/// A word, or markers.
#[derive(Clone, Debug)]
pub(crate) struct IdentityChoice {
    pub(crate) at: Mark,
    pub(crate) value: Identity,
    markers: Option<MarkersSpec>,
}

impl Read for IdentityChoice {
    fn read(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        match &node.kind {
            Kind::Map(_) => {
                let markers = MarkersSpec::read(node, sink)?;
                Some(Self { at: node.at, value: Identity::Marker, markers: Some(markers) })
            }
            Kind::Scalar(s) if s.text == "marker" => {
                sink.report("E0206", node.at, "`marker` says which text stands for what")
                    .help("`{marker: {address: {text: \"@@STABLEHAND-ADDRESS@@\", value: address}}}`");
                None
            }
            Kind::Scalar(_) | Kind::Bad => {
                let word = Loc::<Identity>::read(node, sink)?;
                Some(Self { at: word.at, value: word.value, markers: None })
            }
            Kind::List(_) => not("a word, or a map with `marker`", node, sink),
        }
    }
    fn schema(generator: &mut SchemaGenerator) -> Value {
        json!({"oneOf": [Identity::leaf_schema(), MarkersSpec::schema(generator)]})
    }
}

/// The markers of an image and the way of its clones; reports what cannot work. `None` when a marker could not be read.
pub(crate) fn markers(spec: &ImageSpec, sink: &mut Sink) -> Option<BTreeMap<Name, Marker>> {
    let Some(said) = spec.identity.as_ref().and_then(|i| i.markers.as_ref()) else { return Some(BTreeMap::new()) };
    if let Some(clone) = spec.clone.as_ref().filter(|c| c.value != CloneMethod::Copy) {
        let message = "markers are replaced while the whole disk is copied";
        sink.report("E0470", clone.at, message).help("leave `clone` out, or write `clone: copy`");
    }
    let named = said.marker.as_ref()?;
    if named.entries.is_empty() && !said.flawed {
        sink.report("E0470", said.at, "no marker is said").help("name at least one, with its `text` and `value`");
    }
    let mut out = BTreeMap::new();
    let mut seen: Vec<&Loc<std::sync::Arc<str>>> = Vec::new();
    for (name, marker) in &named.entries {
        let (text, value) = (marker.text.as_ref()?, marker.value.as_ref()?);
        fits(text, value.value, sink);
        // Which of the two stood there could not be told.
        if let Some(first) = seen.iter().find(|s| s.value.contains(&*text.value) || text.value.contains(&*s.value)) {
            let message = format!("the marker `{}` is part of another one", text.value);
            sink.report("E0470", text.at, message)
                .also(first.at, "the other one")
                .help("no marker may contain another");
        }
        seen.push(text);
        let pad = marker.pad.as_ref().map(|p| p.value).unwrap_or_default();
        out.insert(name.value.clone(), Marker { text: text.value.clone(), value: value.value, pad });
    }
    Some(out)
}

/// Reports a text that is no marker, or too short for every value that may come.
fn fits(text: &Loc<std::sync::Arc<str>>, value: MarkerValue, sink: &mut Sink) {
    let length = text.value.len();
    if !(8..=256).contains(&length) || !text.value.bytes().all(|b| b.is_ascii_graphic()) {
        let message = format!("`{}` is not a marker", text.value);
        sink.report("E0470", text.at, message)
            .help("8 to 256 printable ASCII characters without blanks, which stand nowhere else in the image");
    } else if value != MarkerValue::Hostname && length < value.longest() {
        let message = format!(
            "the marker has {length} characters, and its value (`{}`) may have {}",
            value.word(),
            value.longest()
        );
        sink.report("E0470", text.at, message).help("make the marker in the image longer: what is left is filled");
    }
}

/// Reports VMs for which a marker of their image has no value, or one that is too long.
pub(crate) fn vms(repo: &Repository, desired: &Desired, sink: &mut Sink) {
    for (name, doc) in &repo.images {
        let Some(image) = desired.images.get(name).filter(|i| !i.markers.is_empty()) else { continue };
        let named = doc.spec.identity.as_ref().and_then(|i| i.markers.as_ref()?.marker.as_ref());
        for (key, spec) in named.iter().flat_map(|n| &n.entries) {
            let (Some(marker), Some(text), Some(value)) = (image.markers.get(&key.value), &spec.text, &spec.value)
            else {
                continue;
            };
            let users = || desired.vms.values().filter(|vm| vm.spec.image.as_ref() == Some(name));
            if marker.value == MarkerValue::Hostname {
                let longest = users().max_by_key(|vm| vm.name.as_str().len());
                if let Some(vm) = longest.filter(|vm| vm.name.as_str().len() > marker.text.len()) {
                    let (needs, has) = (vm.name.as_str().len(), marker.text.len());
                    let message = format!("the marker has {has} characters, and the VM `{}` {needs}", vm.name);
                    sink.report("E0470", text.at, message)
                        .help("make the marker in the image longer, or the names shorter");
                }
                continue;
            }
            let without = users().find(|vm| !is_known(desired, vm, marker.value));
            if let Some(vm) = without {
                let what = marker.value.word();
                let message =
                    format!("the marker `{}` stands for `{what}`, which VM `{}` does not have", key.value, vm.name);
                let at = sink.mark_of(&vm.origin);
                sink.report("E0471", value.at, message)
                    .also(at, "the VM")
                    .help("its first interface by name needs a network with a `range` (`range6`; and a `gateway`, where that is the value)");
            }
        }
    }
}

fn is_known(desired: &Desired, vm: &crate::model::Vm, value: MarkerValue) -> bool {
    let Some(nic) = vm.spec.nics.values().next() else { return false };
    let Some(network) = desired.networks.get(&nic.network) else { return true };
    network.grounds().iter().all(|ground| {
        let planned = nic.address.is_some() || ground.range.is_some();
        let planned6 = nic.address6.is_some() || ground.six.range.is_some();
        match value {
            MarkerValue::Hostname => true,
            MarkerValue::Address | MarkerValue::Cidr => planned,
            MarkerValue::Gateway => planned && ground.gateway.is_some(),
            MarkerValue::Address6 | MarkerValue::Cidr6 => planned6,
            MarkerValue::Gateway6 => planned6 && ground.six.gateway.is_some(),
        }
    })
}
