//! NoCloud seeds: the disk from which a clone learns who it is (cloud-init, "NoCloud").
//!
//! [`files`] is pure: the same seed gives the same texts. The image around them has times in it, so a seed is told from
//! another by the digest of what it was made from, never by its bytes.

use std::sync::Arc;

use hadris_iso::joliet::JolietLevel;
use hadris_iso::read::PathSeparator;
use hadris_iso::rrip::RripOptions;
use hadris_iso::write::options::{BaseIsoLevel, CreationFeatures, IsoFormatOptions};
use hadris_iso::write::{File as IsoFile, InputFiles, IsoImageWriter};
use serde_yaml::{Mapping, Value};

use crate::plan::Seed;

/// The volume label by which cloud-init finds a seed.
pub const LABEL: &str = "cidata";

/// The files of a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedFiles {
    /// `meta-data`: instance-id, local-hostname, public-keys.
    pub meta_data: String,
    /// `user-data`, as written; an empty cloud-config when there is none.
    pub user_data: String,
    /// `network-config`, version 2.
    pub network_config: String,
}

/// Why a seed could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The texts could not be written as YAML.
    #[error("seed of `{vm}`: {text}")]
    Yaml {
        /// The VM.
        vm: String,
        /// Why.
        text: String,
    },
    /// The image could not be made.
    #[error("seed image: {0}")]
    Image(String),
}

/// Writes the texts of a seed.
///
/// # Errors
/// [`SeedError::Yaml`].
pub fn files(seed: &Seed) -> Result<SeedFiles, SeedError> {
    let yaml = |value: &Value| {
        serde_yaml::to_string(value).map_err(|e| SeedError::Yaml { vm: seed.hostname.to_string(), text: e.to_string() })
    };
    let mut meta = Mapping::new();
    meta.insert("instance-id".into(), seed.instance.to_string().into());
    meta.insert("local-hostname".into(), seed.hostname.as_str().into());
    if !seed.ssh_keys.is_empty() {
        meta.insert("public-keys".into(), list(seed.ssh_keys.iter().map(ToString::to_string)));
    }
    let user_data = seed.user_data.as_deref().unwrap_or("#cloud-config\n{}\n");
    Ok(SeedFiles {
        meta_data: yaml(&Value::Mapping(meta))?,
        user_data: user_data.to_owned(),
        network_config: yaml(&network(seed))?,
    })
}

fn list(items: impl Iterator<Item = String>) -> Value {
    Value::Sequence(items.map(Value::from).collect())
}

/// Network-config version 2, which matches interfaces by MAC: their names inside the guest are its own affair.
fn network(seed: &Seed) -> Value {
    let mut ethernets = Mapping::new();
    for (name, nic) in &seed.nics {
        let mut one = Mapping::new();
        let mut mac = Mapping::new();
        mac.insert("macaddress".into(), nic.mac.to_string().into());
        one.insert("match".into(), mac.into());
        let addresses: Vec<&String> = nic.address.iter().chain(&nic.address6).collect();
        one.insert("dhcp4".into(), addresses.is_empty().into());
        if nic.address6.is_some() {
            // What a router announces is not what was planned.
            one.insert("dhcp6".into(), false.into());
            one.insert("accept-ra".into(), false.into());
        }
        if !addresses.is_empty() {
            one.insert("addresses".into(), list(addresses.into_iter().cloned()));
        }
        let four = nic.gateway.map(|via| ("0.0.0.0/0", via.to_string()));
        let six = nic.gateway6.filter(|_| nic.address6.is_some()).map(|via| ("::/0", via.to_string()));
        let route = |(to, via): (&str, String)| {
            let mut route = Mapping::new();
            route.insert("to".into(), to.into());
            route.insert("via".into(), via.into());
            Value::from(route)
        };
        let routes: Vec<Value> = four.into_iter().chain(six).map(route).collect();
        if !routes.is_empty() {
            one.insert("routes".into(), Value::Sequence(routes));
        }
        if !nic.dns.is_empty() {
            let mut servers = Mapping::new();
            servers.insert("addresses".into(), list(nic.dns.iter().map(ToString::to_string)));
            one.insert("nameservers".into(), servers.into());
        }
        ethernets.insert(name.as_str().into(), one.into());
    }
    let mut network = Mapping::new();
    network.insert("version".into(), 2.into());
    network.insert("ethernets".into(), ethernets.into());
    network.into()
}

/// Makes the image: ISO 9660 with Joliet and Rock Ridge names, labelled [`LABEL`].
///
/// # Errors
/// [`SeedError::Image`].
pub fn image(files: &SeedFiles) -> Result<Vec<u8>, SeedError> {
    let file =
        |name: &str, text: &str| IsoFile::File { name: Arc::new(name.to_owned()), contents: text.as_bytes().to_vec() };
    let content = files.meta_data.len() + files.user_data.len() + files.network_config.len();
    let input = InputFiles {
        path_separator: PathSeparator::ForwardSlash,
        files: vec![
            file("meta-data", &files.meta_data),
            file("network-config", &files.network_config),
            file("user-data", &files.user_data),
        ],
    };
    let options = IsoFormatOptions {
        volume_name: LABEL.to_owned(),
        system_id: None,
        volume_set_id: None,
        publisher_id: None,
        preparer_id: None,
        application_id: None,
        sector_size: 2048,
        path_separator: PathSeparator::ForwardSlash,
        features: CreationFeatures {
            filenames: BaseIsoLevel::Level1 { supports_lowercase: true, supports_rrip: true },
            long_filenames: false,
            joliet: Some(JolietLevel::Level3),
            rock_ridge: Some(RripOptions::default()),
            el_torito: None,
            ..CreationFeatures::default()
        },
        strict_charset: false,
    };
    // 66 KiB of an empty image, and for each file at most a sector of padding: a quarter MiB leaves room.
    let mut buffer = std::io::Cursor::new(vec![0u8; content + (256 << 10)]);
    IsoImageWriter::create(&mut buffer, input, options).map_err(|e| SeedError::Image(e.to_string()))?;
    let mut bytes = buffer.into_inner();
    // The volume descriptor says how many sectors are used (ECMA-119 section 8.4.8, little endian at byte 80).
    let field = bytes.get(16 * 2048 + 80..16 * 2048 + 84).and_then(|b| b.try_into().ok());
    let sectors = field.map_or(0, u32::from_le_bytes) as usize;
    let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| (last / 2048 + 1) * 2048);
    bytes.truncate(used.max(sectors * 2048));
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::Name;
    use crate::plan::SeedNic;

    fn seed() -> Seed {
        let lan = SeedNic {
            mac: "02:00:00:00:00:0a".parse().unwrap(),
            address: Some("10.83.0.10/24".to_owned()),
            gateway: Some([10, 83, 0, 1].into()),
            address6: Some("fd00:83::a/64".to_owned()),
            gateway6: Some("fe80::1".parse().unwrap()),
            dns: vec![[10, 83, 0, 1].into(), "fd00:83::1".parse().unwrap()],
        };
        let wan = SeedNic::new("02:00:00:00:00:0b".parse().unwrap());
        Seed {
            instance: uuid::Uuid::nil(),
            hostname: Name::new("web-1").unwrap(),
            nics: BTreeMap::from([(Name::new("lan").unwrap(), lan), (Name::new("wan").unwrap(), wan)]),
            user_data: Some("#cloud-config\nruncmd: [date]\n".into()),
            ssh_keys: vec!["ssh-ed25519 AAAA someone".into()],
        }
    }

    #[test]
    fn a_seed_is_what_cloud_init_reads() {
        let files = files(&seed()).unwrap();
        assert_eq!(
            files.meta_data,
            "instance-id: 00000000-0000-0000-0000-000000000000\nlocal-hostname: web-1\npublic-keys:\n- ssh-ed25519 AAAA someone\n"
        );
        insta::assert_snapshot!(files.network_config, @r"
        version: 2
        ethernets:
          lan:
            match:
              macaddress: 02:00:00:00:00:0a
            dhcp4: false
            dhcp6: false
            accept-ra: false
            addresses:
            - 10.83.0.10/24
            - fd00:83::a/64
            routes:
            - to: 0.0.0.0/0
              via: 10.83.0.1
            - to: ::/0
              via: fe80::1
            nameservers:
              addresses:
              - 10.83.0.1
              - fd00:83::1
          wan:
            match:
              macaddress: 02:00:00:00:00:0b
            dhcp4: true
        ");
        assert!(files.user_data.starts_with("#cloud-config\n"));
    }

    #[test]
    fn the_image_is_labelled_and_holds_the_files() {
        let files = files(&seed()).unwrap();
        let bytes = image(&files).unwrap();
        assert_eq!(&bytes[32769..32774], b"CD001");
        assert_eq!(&bytes[32808..32814], b"cidata");
        assert!(bytes.len().is_multiple_of(2048) && bytes.len() < (512 << 10), "{} bytes", bytes.len());
        // A second opinion, where the tool is installed.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seed.iso");
        std::fs::write(&path, &bytes).unwrap();
        let Ok(out) = std::process::Command::new("isoinfo").args(["-R", "-f", "-i"]).arg(&path).output() else {
            return;
        };
        let names = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(["/meta-data", "/user-data", "/network-config"].iter().all(|n| names.contains(n)), "{names}");
        let out =
            std::process::Command::new("isoinfo").args(["-R", "-x", "/user-data", "-i"]).arg(&path).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), files.user_data);
    }
}
