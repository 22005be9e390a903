//! Readiness from outside: one try of a TCP or HTTP probe.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::shell::{Program, Shell};

/// How long one try may take.
pub const TRY: Duration = Duration::from_secs(3);

/// Whether a TCP port accepts a connection.
///
/// # Errors
/// In words, what came back.
pub async fn tcp(address: IpAddr, port: u16) -> Result<(), String> {
    connect(address, port).await.map(drop)
}

/// Whether a GET is answered with a status (RFC 9112; HTTP/1.0 so that the answer ends by itself).
///
/// # Errors
/// In words, what came back.
pub async fn http(address: IpAddr, port: u16, path: &str, status: u16) -> Result<(), String> {
    let there = bracketed(address);
    let ask = async {
        let mut stream = connect(address, port).await?;
        let request = format!(
            "GET {path} HTTP/1.0\r\nHost: {there}:{port}\r\nUser-Agent: stablehand\r\nConnection: close\r\n\r\n"
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
        judge(&line, &format!("http://{there}:{port}{path}"), status)
    };
    within(ask, || format!("http://{there}:{port}{path} does not answer")).await
}

/// Connects to a port from the host itself, with what it has for it: bash(1), nc(1) or curl(1). With a path it asks for
/// it and prints the first line of the answer.
const FROM_HOST: &str = r#"address=$1 port=$2 path=$3 url=$4
ask() { printf 'GET %s HTTP/1.0\r\nHost: %s:%s\r\nUser-Agent: stablehand\r\nConnection: close\r\n\r\n' "$path" "$url" "$port"; }
has() { command -v "$1" >/dev/null 2>&1; }
if has bash && has timeout; then
  if [ -z "$path" ]; then exec timeout 3 bash -c 'exec 3<>"/dev/tcp/$1/$2"' bash "$address" "$port"; fi
  ask | timeout 3 bash -c 'exec 3<>"/dev/tcp/$1/$2" && cat >&3 && IFS= read -r line <&3 && printf "%s\n" "$line"' bash "$address" "$port"
elif has curl; then
  if [ -n "$path" ]; then exec curl -s -S -m 3 -o /dev/null -w 'HTTP/1.0 %{http_code}' -g --http1.0 -- "http://$url:$port$path"; fi
  curl -s -S -g -m 3 -o /dev/null "telnet://$url:$port" </dev/null
elif has nc; then
  if [ -z "$path" ]; then exec nc -w 3 "$address" "$port" </dev/null >/dev/null; fi
  ask | nc -w 3 "$address" "$port" | head -n 1
else echo "none of bash, curl and nc is installed" >&2; exit 1
fi"#;

async fn from_host(shell: &dyn Shell, address: IpAddr, port: u16, path: &str) -> Result<String, String> {
    let (url, address, port) = (bracketed(address), address.to_string(), port.to_string());
    let program = Program::new(["sh", "-c", FROM_HOST, "sh", &address, &port, path, &url]).limit(TRY * 2);
    let said = shell.run(program).await.map_err(|e| e.to_string())?;
    if said.status == 0 {
        return Ok(String::from_utf8_lossy(&said.stdout).into_owned());
    }
    let words = said.stderr.lines().next_back().and_then(|l| l.rsplit(": ").next()).unwrap_or("it does not answer");
    Err(format!("{url}:{port}, from its host: {words}"))
}

/// [`tcp`] from the host that a shell leads to.
///
/// # Errors
/// In words, what came back.
pub async fn tcp_from(shell: &dyn Shell, address: IpAddr, port: u16) -> Result<(), String> {
    from_host(shell, address, port, "").await.map(drop)
}

/// [`http`] from the host that a shell leads to.
///
/// # Errors
/// In words, what came back.
pub async fn http_from(shell: &dyn Shell, address: IpAddr, port: u16, path: &str, status: u16) -> Result<(), String> {
    let line = from_host(shell, address, port, path).await?;
    judge(&line, &format!("http://{}:{port}{path}", bracketed(address)), status)
}

/// An address as a URL has it (RFC 3986 section 3.2.2).
fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// Whether a status line has the wanted status.
fn judge(line: &str, shown: &str, status: u16) -> Result<(), String> {
    let got = line.strip_prefix("HTTP/").and_then(|l| l.split(' ').nth(1)?.trim().parse::<u16>().ok());
    match got {
        Some(got) if got == status => Ok(()),
        Some(got) => Err(format!("{shown} answers {got}, not {status}")),
        None => Err(format!("{shown} does not answer in HTTP")),
    }
}

async fn connect(address: IpAddr, port: u16) -> Result<TcpStream, String> {
    let there = SocketAddr::new(address, port);
    let ask = async { TcpStream::connect(there).await.map_err(|e| format!("{there}: {e}")) };
    within(ask, || format!("{there} does not answer")).await
}

async fn within<T>(ask: impl Future<Output = Result<T, String>>, silent: impl FnOnce() -> String) -> Result<T, String> {
    tokio::time::timeout(TRY, ask).await.unwrap_or_else(|_| Err(silent()))
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
        let here = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(tcp(here, port).await, Ok(()));
        assert_eq!(http(here, port, "/", 503).await, Ok(()));
        let error = http(here, port, "/", 200).await.unwrap_err();
        assert!(error.ends_with("answers 503, not 200"), "{error}");
        let shell = super::super::shell::Remote::command(
            ["sh", "-c", r#"exec "$@""#, "sh"].into_iter(),
            std::path::Path::new("/"),
        );
        assert_eq!(tcp_from(&shell, here, port).await, Ok(()));
        assert_eq!(http_from(&shell, here, port, "/", 503).await, Ok(()));
        let error = http_from(&shell, here, port, "/", 200).await.unwrap_err();
        assert!(error.ends_with("answers 503, not 200"), "{error}");
        // Nobody listens on port 1 of a machine of today.
        let error = tcp_from(&shell, here, 1).await.unwrap_err();
        assert!(error.contains("from its host") && error.contains("refused"), "{error}");
    }
}
