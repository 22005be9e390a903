//! Verbs carried out by a running `watch`, and `watch`'s side of it.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::watch::socket::{Line, Reply, Request, Server};

use super::console::Console;
use super::context::{Context, Surroundings};
use super::failure::Failure;
use super::watch::Inside;

/// Asks the watch of a state folder to run a verb; `None` when nobody watches.
pub(crate) async fn forward(folder: &Path, context: &Context, arguments: &[String]) -> Option<Result<u8, Failure>> {
    let mut line = Line::connect(folder).await?;
    let request = Request {
        arguments: arguments.to_vec(),
        folder: context.around.folder.clone(),
        fleet: context.global.fleet.clone(),
        who: context.around.who(),
        color: context.console.color && !context.global.no_color && context.around.get("NO_COLOR").is_none(),
        width: context.console.width,
        can_ask: context.console.can_ask(),
    };
    let lost = |error: std::io::Error| {
        Failure::caused("the running `watch` went away before it answered", &error)
            .hint("what it had begun is continued by the next `watch` or `apply`; `status` shows what is")
    };
    if let Err(error) = line.send(&request).await {
        return Some(Err(lost(error)));
    }
    loop {
        match line.receive::<Reply>().await {
            Ok(Reply::Out(text)) => context.console.out(&text),
            Ok(Reply::Err(text)) => context.console.err(&text),
            Ok(Reply::Ask(question)) => {
                let yes = context.console.ask(&question);
                if let Err(error) = line.send(&yes).await {
                    return Some(Err(lost(error)));
                }
            }
            Ok(Reply::Exit(code)) => return Some(Ok(code)),
            Err(error) => return Some(Err(lost(error))),
        }
    }
}

/// Answers clients until the process ends.
pub(crate) async fn serve(server: Server, inside: Arc<Inside>, around: Surroundings) {
    loop {
        match server.accept().await {
            Ok((request, line)) => {
                tokio::spawn(answer(request, line, inside.clone(), around.clone()));
            }
            // A client that knocked and left. A pause, should the system be out of descriptors.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
    }
}

/// Runs one client's verb. It runs to its end also when the client goes away.
async fn answer(request: Request, mut line: Line, inside: Arc<Inside>, around: Surroundings) {
    let (replies, mut inbox) = unbounded_channel();
    let (answers, answered) = mpsc::channel();
    let console = console(&request, &replies, answered);
    let around = Surroundings { folder: request.folder.clone(), fleet: Some(request.fleet.clone()), ..around };
    tokio::spawn(async move {
        let code = super::run_inside(request.arguments, around, console, inside).await;
        let _ = replies.send(Reply::Exit(code));
    });
    while let Some(reply) = inbox.recv().await {
        let (ask, end) = (matches!(reply, Reply::Ask(_)), matches!(reply, Reply::Exit(_)));
        if line.send(&reply).await.is_err() || end {
            return;
        }
        if ask && answers.send(line.receive().await.unwrap_or(false)).is_err() {
            return;
        }
    }
}

/// A console whose words go to a client.
fn console(request: &Request, replies: &UnboundedSender<Reply>, answered: mpsc::Receiver<bool>) -> Arc<Console> {
    let (asks, answered) = (replies.clone(), Mutex::new(answered));
    let ask = move |question: &str| {
        let asked = asks.send(Reply::Ask(question.to_owned())).is_ok();
        asked && answered.lock().unwrap_or_else(PoisonError::into_inner).recv().unwrap_or(false)
    };
    let out = Box::new(Wire { replies: replies.clone(), wrap: Reply::Out });
    let err = Box::new(Wire { replies: replies.clone(), wrap: Reply::Err });
    let asker = request.can_ask.then(|| Box::new(ask) as Box<dyn Fn(&str) -> bool + Send + Sync>);
    Arc::new(Console::of(out, err, asker, request.color, request.width))
}

/// Writes texts as replies.
struct Wire {
    replies: UnboundedSender<Reply>,
    wrap: fn(String) -> Reply,
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // The console writes whole texts, so no character is ever cut. Long ones go in parts below the limit.
        let text = String::from_utf8_lossy(bytes);
        let mut rest: &str = &text;
        while !rest.is_empty() {
            let mut end = rest.len().min(64 << 10);
            while !rest.is_char_boundary(end) {
                end -= 1;
            }
            let (part, more) = rest.split_at(end);
            self.replies.send((self.wrap)(part.to_owned())).map_err(std::io::Error::other)?;
            rest = more;
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
