//! A management instance on a real host: configured through its agent, generalised, captured; its clones are others.

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest as _, Sha256};
use stablehand::execute::{Done, StepError};
use stablehand::model::*;
use stablehand::plan::Op;

use crate::guest::{Guest, page};
use crate::host::{World, name};

/// A first boot gives an id where there is none, as systemd does, and shows it.
const FIRST_BOOT: &str = "#cloud-config
runcmd:
- '[ -s /etc/machine-id ] || tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id'
- cp /etc/machine-id /www/id
- ls -a /etc /etc/ssh /var/lib/cloud >/www/there
";

/// What is done in the guest: something that stays, and something that must not.
const CONFIGURE: &str = "mkdir -p /etc/ssh && echo made >/www/made && echo NOBODY-SEES-THIS >/etc/ssh/ssh_host_rsa_key \
  && echo kept >/etc/ssh/sshd_config && cat /etc/machine-id";

pub(crate) async fn run(world: &World) {
    world.observe().await;
    let address = Some("10.250.9.1/24".to_owned());
    world
        .done(Op::MakeBridge {
            bridge: World::bridge(),
            address,
            address6: None,
            fleet: name("t"),
            uplink: None,
            border: Border::Open,
        })
        .await;
    let recipe = Digest::new(&format!("sha256:{}", "5".repeat(64))).unwrap();
    let mut builder = Guest { user_data: FIRST_BOOT, ..Guest::new(world, "image-desk-4", 30) };
    let (vm, uuid) = (builder.vm.clone(), builder.uuid());
    let token = Management::token_of(&name("t"), &name("desk"), &recipe, uuid);
    let (image, revision) = (name("desk"), name("4"));
    let management = Management { image, recipe: recipe.clone(), revision, token, phase: Phase::Fresh };
    builder.management = Some(management.clone());
    let began = Instant::now();
    builder.make().await;
    assert!(builder.ready(ProbeKind::AgentPing).await.is_ok());
    let at = |phase| Management { phase, ..management.clone() };
    let stamped = |phase| {
        let stamp = Stamp { management: Some(at(phase)), ..builder.stamp() };
        Op::Edit { vm: vm.clone(), uuid, edits: Vec::new(), stamp }
    };
    world.done(stamped(Phase::Configuring)).await;
    let (path, content) = (TOKEN_FILE.into(), management.token_file().into());
    world.done(Op::GuestFile { vm: vm.clone(), uuid, path, content, mode: 0o600 }).await;
    let command: Vec<Arc<str>> = ["/bin/sh", "-c", CONFIGURE].map(Arc::from).to_vec();
    let (input, within, of) = (None, Span::secs(30), None);
    let configured = world.step(Op::GuestRun { vm: vm.clone(), uuid, command, input, within, of }).await;
    assert_eq!(configured, Ok(Done::Changed));
    let own_id = page(builder.address, "/id");
    assert_eq!(own_id.trim().len(), 32);
    world.done(stamped(Phase::Configured)).await;

    let note = ImageNote {
        image: name("desk"),
        generation: Some(name("4")),
        since: Timestamp(9),
        made: Some(Provenance {
            recipe: recipe.clone(),
            revision: name("4"),
            from: MadeFrom::Image { image: name("tiny"), digest: recipe.clone() },
            commit: "abc".to_owned(),
            at: Timestamp(9),
            builder: uuid,
            cpus: 1,
            memory: Bytes::mib(96),
            packages: None,
            size: None,
            length: None,
        }),
    };
    let capture = |management: Management| Op::Capture {
        vm: vm.clone(),
        uuid,
        management,
        disk: builder.slot("root", "qcow2"),
        folder: world.path("images"),
        name: "desk-4.qcow2".to_owned(),
        format: ImageFormat::Qcow2,
        note: note.clone(),
    };
    let running = world.step(capture(management.clone())).await;
    assert!(matches!(&running, Err(StepError::Stale(text)) if text.contains("running")), "{running:?}");
    let generalise = Op::Generalise { vm: vm.clone(), uuid, management: management.clone(), within: Span::secs(60) };
    for _ in 0..2 {
        assert_eq!(world.step(generalise.clone()).await, Ok(Done::Changed));
    }
    builder.stop().await;
    world.done(stamped(Phase::Generalised)).await;
    let other = Management { token: uuid, ..management.clone() };
    assert!(matches!(world.step(capture(other)).await, Err(StepError::Stale(_))));
    world.done(capture(management.clone())).await;
    println!("  a generation made in {} ms", began.elapsed().as_millis());
    builder.end().await;
    assert!(world.observe().await.vms.is_empty(), "the token is gone before the first clone is there");

    let seen = world.observe().await;
    let made = |i: &ImageObs| i.note.as_ref().and_then(|n| n.made.clone());
    let (digest, stored) = seen.images.iter().find(|(_, i)| made(i).is_some()).unwrap();
    let found = made(stored).unwrap();
    assert_eq!((&found.recipe, found.size, found.packages.is_none()), (&recipe, Some(Bytes::mib(128)), true));
    assert!(stored.path.ends_with(&format!("/{}-desk-4.qcow2", digest.short())), "{}", stored.path);
    let content = std::fs::read(&stored.path).unwrap();
    assert_eq!(found.length, Some(Bytes(content.len() as u64)));
    let hex: String = Sha256::digest(&content).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(digest.hex(), hex);
    // Nothing of it is left, in no block that is used by nobody either.
    let plain = world.path("plain.raw");
    let convert = ["convert", "-O", "raw", &stored.path, &plain];
    assert!(Command::new("qemu-img").args(convert).status().unwrap().success());
    for secret in [token.to_string().as_str(), "NOBODY-SEES-THIS"] {
        let found = Command::new("grep").args(["-c", "-a", "-F", "--", secret, &plain]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout).trim(), "0", "{secret} is in the image");
    }

    let clone = |n: u8| {
        let clone = Guest::new(world, &format!("c-{n}"), 40 + n);
        Guest { image: stored.path.clone(), user_data: FIRST_BOOT, ..clone }
    };
    let clones = [clone(1), clone(2)];
    let up = |guest| async move {
        let guest: &Guest<'_> = guest;
        guest.make().await;
        assert!(guest.ready(ProbeKind::Http { port: 80, path: "/".into(), status: 200 }).await.is_ok());
    };
    futures_util::future::join(up(&clones[0]), up(&clones[1])).await;
    let ids: Vec<String> = clones.iter().map(|c| page(c.address, "/id").trim().to_owned()).collect();
    println!("  ids: {} became {ids:?}", own_id.trim());
    assert!(ids.iter().all(|id| id.len() == 32 && id != own_id.trim()) && ids[0] != ids[1], "{ids:?}");
    for guest in &clones {
        assert_eq!(page(guest.address, "/made"), "made\n", "what was configured is in every clone");
        let there = page(guest.address, "/there");
        assert!(!there.contains("stablehand-management") && !there.contains("ssh_host_rsa_key"), "{there}");
        assert!(there.contains("sshd_config"), "{there}");
        guest.stop().await;
        guest.end().await;
    }
    world.done(Op::RemoveBridge { bridge: World::bridge(), fleet: name("t"), uplink: None }).await;
}
