//! The control socket: one process at a time opens an embedded root, so the one that watches runs the others' verbs.
//!
//! A UNIX socket of mode 0600 in the state folder. Both sides send JSON, a line a message: the client first a
//! [`Request`], then an [`Reply::Ask`] is answered with `true` or `false`; the server [`Reply`]s, the last one
//! [`Reply::Exit`]. A client that goes away takes its verb's output with it, not the verb.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

/// The socket's name in the state folder.
pub const FILE: &str = "control.sock";
/// Longest message.
const MOST: usize = 1 << 20;

/// What a client wants to have run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Arguments, without the program's name.
    pub arguments: Vec<String>,
    /// The client's folder.
    pub folder: PathBuf,
    /// The fleet's folder: the client may know it from its environment alone.
    pub fleet: PathBuf,
    /// Who asks.
    pub who: String,
    /// Whether the client's output takes colours.
    pub color: bool,
    /// The client's columns.
    pub width: usize,
    /// Whether a person can answer.
    pub can_ask: bool,
}

/// What the server sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    /// For stdout.
    Out(String),
    /// For stderr.
    Err(String),
    /// A question for the person.
    Ask(String),
    /// The verb ended with this code.
    Exit(u8),
}

/// Who listens: removes the socket's file when it goes.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Listens in a state folder.
    ///
    /// # Errors
    /// `AddrInUse` when somebody else listens there; else what the system says.
    pub fn listen(folder: &Path) -> io::Result<Self> {
        let path = folder.join(FILE);
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another watch already serves this fleet"));
        }
        // A socket that nobody listens to was left by a process that was killed.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Bound under another name and renamed, so that it is never there with wider permissions.
        let early = folder.join(format!("{FILE}.{}", std::process::id()));
        let _ = std::fs::remove_file(&early);
        let listener = UnixListener::bind(&early)?;
        std::fs::set_permissions(&early, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&early, &path)?;
        Ok(Self { listener, path })
    }

    /// The next client's request and the line to it.
    ///
    /// # Errors
    /// When the client goes away or says nonsense: the next call is for the next client.
    pub async fn accept(&self) -> io::Result<(Request, Line)> {
        let (stream, _) = self.listener.accept().await?;
        let mut line = Line::new(stream);
        let limit = std::time::Duration::from_secs(5);
        let request = tokio::time::timeout(limit, line.receive()).await.map_err(io::Error::other)??;
        Ok((request, line))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One connection.
#[derive(Debug)]
pub struct Line {
    from: BufReader<OwnedReadHalf>,
    to: OwnedWriteHalf,
}

impl Line {
    fn new(stream: UnixStream) -> Self {
        let (from, to) = stream.into_split();
        Self { from: BufReader::new(from), to }
    }

    /// Connects to who watches; `None` when nobody does.
    pub async fn connect(folder: &Path) -> Option<Self> {
        UnixStream::connect(folder.join(FILE)).await.ok().map(Self::new)
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the other side is gone.
    pub async fn send<T: Serialize + Sync>(&mut self, message: &T) -> io::Result<()> {
        let mut text = serde_json::to_vec(message)?;
        text.push(b'\n');
        self.to.write_all(&text).await
    }

    /// Receives a message.
    ///
    /// # Errors
    /// When the other side is gone, or sends something else or too much.
    pub async fn receive<T: serde::de::DeserializeOwned>(&mut self) -> io::Result<T> {
        let mut text = Vec::new();
        loop {
            let part = self.from.fill_buf().await?;
            if part.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let end = part.iter().position(|b| *b == b'\n');
            let taken = end.map_or(part.len(), |at| at + 1);
            text.extend_from_slice(&part[..taken]);
            self.from.consume(taken);
            if text.len() > MOST {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
            }
            if end.is_some() {
                return Ok(serde_json::from_slice(&text)?);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        let arguments = vec!["status".to_owned()];
        let (folder, fleet) = ("/".into(), ".".into());
        Request { arguments, folder, fleet, who: "ann".into(), color: false, width: 80, can_ask: true }
    }

    #[tokio::test]
    async fn a_verb_is_asked_answered_and_ended() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Line::connect(folder.path()).await.is_none());
        let server = Server::listen(folder.path()).unwrap();
        assert!(Server::listen(folder.path()).is_err(), "one listens");
        let mode = std::fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let task = tokio::spawn(async move {
            // The second listener only knocked.
            assert!(server.accept().await.is_err());
            let (asked, mut line) = server.accept().await.unwrap();
            line.send(&Reply::Ask("sure?".into())).await.unwrap();
            let yes: bool = line.receive().await.unwrap();
            line.send(&Reply::Exit(u8::from(yes))).await.unwrap();
            asked
        });
        let mut line = Line::connect(folder.path()).await.unwrap();
        line.send(&request()).await.unwrap();
        assert_eq!(line.receive::<Reply>().await.unwrap(), Reply::Ask("sure?".into()));
        line.send(&true).await.unwrap();
        assert_eq!(line.receive::<Reply>().await.unwrap(), Reply::Exit(1));
        assert_eq!(task.await.unwrap(), request());
        assert!(!folder.path().join(FILE).exists(), "the file goes with who listens");
    }

    #[tokio::test]
    async fn a_socket_left_by_a_killed_process_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        drop(std::os::unix::net::UnixListener::bind(folder.path().join(FILE)).unwrap());
        assert!(Server::listen(folder.path()).is_ok());
    }
}
