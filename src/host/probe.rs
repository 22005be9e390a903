//! Readiness from outside: one try of a TCP or HTTP probe.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long one try may take.
pub const TRY: Duration = Duration::from_secs(3);

/// Whether a TCP port accepts a connection.
///
/// # Errors
/// In words, what came back.
pub async fn tcp(address: Ipv4Addr, port: u16) -> Result<(), String> {
    connect(address, port).await.map(drop)
}

/// Whether a GET is answered with a status (RFC 9112; HTTP/1.0 so that the answer ends by itself).
///
/// # Errors
/// In words, what came back.
pub async fn http(address: Ipv4Addr, port: u16, path: &str, status: u16) -> Result<(), String> {
    let ask = async {
        let mut stream = connect(address, port).await?;
        let request = format!(
            "GET {path} HTTP/1.0\r\nHost: {address}:{port}\r\nUser-Agent: stablehand\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
        let mut head = Vec::new();
        // The status line is all that is wanted.
        let mut chunk = [0u8; 512];
        while !head.contains(&b'\n') && head.len() < 4096 {
            let n = stream.read(&mut chunk).await.map_err(|e| e.to_string())?;
            if n == 0 {
                break;
            }
            head.extend_from_slice(&chunk[..n]);
        }
        let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
        let got = line.strip_prefix("HTTP/").and_then(|l| l.split(' ').nth(1)?.parse::<u16>().ok());
        match got {
            Some(got) if got == status => Ok(()),
            Some(got) => Err(format!("http://{address}:{port}{path} answers {got}, not {status}")),
            None => Err(format!("http://{address}:{port}{path} does not answer in HTTP")),
        }
    };
    within(ask, || format!("http://{address}:{port}{path} does not answer")).await
}

async fn connect(address: Ipv4Addr, port: u16) -> Result<TcpStream, String> {
    let there = SocketAddrV4::new(address, port);
    let ask = async { TcpStream::connect(there).await.map_err(|e| format!("{there}: {e}")) };
    within(ask, || format!("{there} does not answer")).await
}

async fn within<T>(ask: impl Future<Output = Result<T, String>>, silent: impl FnOnce() -> String) -> Result<T, String> {
    tokio::time::timeout(TRY, ask).await.unwrap_or_else(|_| Err(silent()))
}

/// The exit code in a guest agent's answer to `guest-exec-status`; `None` while the command runs.
///
/// # Errors
/// When the answer is not one.
pub fn exec_status(answer: &str) -> Result<Option<i64>, String> {
    let value: serde_json::Value = serde_json::from_str(answer).map_err(|e| e.to_string())?;
    let done = value.pointer("/return/exited").and_then(serde_json::Value::as_bool);
    match done {
        Some(false) => Ok(None),
        Some(true) => Ok(Some(value.pointer("/return/exitcode").and_then(serde_json::Value::as_i64).unwrap_or(-1))),
        None => Err(format!("the guest agent answers {answer}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_asked_status_counts() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                let mut buffer = [0u8; 256];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(b"HTTP/1.0 503 Busy\r\n\r\n").await;
            }
        });
        let here = Ipv4Addr::LOCALHOST;
        assert_eq!(tcp(here, port).await, Ok(()));
        assert_eq!(http(here, port, "/", 503).await, Ok(()));
        let error = http(here, port, "/", 200).await.unwrap_err();
        assert!(error.ends_with("answers 503, not 200"), "{error}");
    }
}
