//! Connections that are cut, frozen and healed at random, in front of a real libvirtd: nothing may crash.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{Hypervisor, PING};

/// What the cable does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cable {
    Good,
    /// Nothing gets through, nothing is lost.
    Frozen,
    /// Broken: every connection over it ends.
    Broken,
}

/// Passes on what comes over a cable.
async fn pass(mut from: TcpStream, to: SocketAddr, mut cable: watch::Receiver<Cable>) {
    let Ok(mut to) = TcpStream::connect(to).await else { return };
    let (mut up, mut down) = (vec![0; 65536], vec![0; 65536]);
    loop {
        let now = *cable.borrow_and_update();
        match now {
            Cable::Broken => return,
            Cable::Frozen => {
                let _ = cable.changed().await;
                continue;
            }
            Cable::Good => {}
        }
        tokio::select! {
            _ = cable.changed() => {}
            n = from.read(&mut up) => match n {
                Ok(n) if n > 0 => if to.write_all(&up[..n]).await.is_err() { return },
                _ => return,
            },
            n = to.read(&mut down) => match n {
                Ok(n) if n > 0 => if from.write_all(&down[..n]).await.is_err() { return },
                _ => return,
            },
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants the address of a libvirtd without a password in STABLEHAND_LIBVIRTD: 10.77.0.11:16509"]
async fn connections_that_break_in_the_middle_of_calls_crash_nothing() {
    let to: SocketAddr = std::env::var("STABLEHAND_LIBVIRTD").unwrap().parse().unwrap();
    let rounds: u32 = std::env::var("ROUNDS").map_or(30, |n| n.parse().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (set, cable) = watch::channel(Cable::Good);
    tokio::spawn(async move {
        while let Ok((from, _)) = listener.accept().await {
            tokio::spawn(pass(from, to, cable.clone()));
        }
    });
    let hypervisor = Arc::new(Hypervisor::new(&format!("qemu+tcp://127.0.0.1:{port}/system"), "a test"));
    let began = Instant::now();
    for round in 0..rounds {
        let _ = set.send(Cable::Good);
        let healed = Instant::now();
        while let Err(error) = hypervisor.ping().await {
            assert!(healed.elapsed() < Duration::from_secs(40), "round {round}: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let known = healed.elapsed();
        // Calls all the time, of which some are in the middle of it.
        let calls: Vec<_> = (0..4u64)
            .map(|n| {
                let hypervisor = hypervisor.clone();
                tokio::spawn(async move {
                    let mut count = 0;
                    while hypervisor.call("list", PING, |c| c.list_all_domains(0).map(drop)).await.is_ok() {
                        count += 1;
                        tokio::time::sleep(Duration::from_millis(n)).await;
                    }
                    count
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(100 + u64::from(round % 7) * 13)).await;
        let _ = set.send(if round % 5 == 4 { Cable::Broken } else { Cable::Frozen });
        let cut = Instant::now();
        let mut done = 0;
        if round % 5 == 4 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            for call in &calls {
                call.abort();
            }
        } else {
            for call in calls {
                done += call.await.unwrap();
            }
        }
        let over = cut.elapsed();
        // What hangs ends one way or the other: by what was held up, or by an end.
        tokio::time::sleep(Duration::from_millis(u64::from(round % 4) * 700)).await;
        let _ = set.send(if round % 2 == 0 { Cable::Broken } else { Cable::Good });
        tokio::time::sleep(Duration::from_millis(200)).await;
        println!("round {round}: known after {known:?}, {done} calls, cut off for {over:?}");
    }
    println!("{rounds} rounds in {:?}", began.elapsed());
}
