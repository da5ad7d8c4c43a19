//! The control socket: one request, one answer, each a line of JSON.

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as Stream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::audit::Part;
use crate::explain::Explanation;

/// Longest request in bytes.
const REQUEST_LIMIT_BYTES: u64 = 1 << 20;
/// How long a client may take to send its request, and the agent to answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Clients served at one time.
const CLIENTS_LIMIT: usize = 32;

/// What can be asked of a running agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase")]
pub enum Request {
    /// What is in force.
    Status,
    /// Read the policy files again; only for root and the agent's user.
    Reload,
    /// Have a new key sign the record; only for root and the agent's user.
    Rekey,
    /// Remove old events from the record; only for root and the agent's user.
    Prune {
        /// Of days before this one. Without it, what the agent's configuration does not retain.
        #[serde(default)]
        before: Option<jiff::civil::Date>,
    },
    /// Test both planes now.
    Probe,
    /// Make the index of the record again; only for root and the agent's user.
    Reindex,
    /// Put on record that events were handed out; only for root and the agent's user.
    Exported {
        /// The number of the first.
        first: u64,
        /// The number of the last.
        last: u64,
    },
    /// Seal what is on record now; only for root and the agent's user.
    Seal,
    /// Put on record that a report was made, and seal it; only for root and the agent's user.
    Reported {
        /// Of what it is, and the SHA-256 of its files.
        detail: Value,
    },
    /// Put on record what others noted; only for root and the agent's user.
    Import(Box<Part>),
    /// Explain decisions.
    Why {
        /// Names, addresses, or address:port/proto.
        asks: Vec<String>,
        /// For whom.
        #[serde(default)]
        client: Option<IpAddr>,
    },
}

impl Request {
    /// Whether it changes anything.
    const fn changes(&self) -> bool {
        match self {
            Self::Reload
            | Self::Rekey
            | Self::Prune { .. }
            | Self::Reindex
            | Self::Exported { .. }
            | Self::Seal
            | Self::Import(_)
            | Self::Reported { .. } => true,
            Self::Status | Self::Probe | Self::Why { .. } => false,
        }
    }
}

/// Where the agent is reached unless said otherwise: `/run/interdict` for root, else the user's runtime folder.
pub fn default_socket() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !is_root());
    match runtime {
        Some(folder) => PathBuf::from(folder).join("interdict/control.sock"),
        None if is_root() => PathBuf::from("/run/interdict/control.sock"),
        None => std::env::temp_dir().join(format!("interdict-{}/control.sock", uid())),
    }
}

fn is_root() -> bool {
    uid() == 0
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Asks the agent and waits for its answer.
///
/// # Errors
/// When no agent listens there, or it refuses.
pub fn ask(socket: &Path, request: &Request) -> anyhow::Result<Value> {
    let answer: Value = Asked::send(socket, request)?.answer()?;
    if let Some(error) = answer["error"].as_str() {
        bail!("{error}");
    }
    Ok(answer)
}

/// Questions on their way to the agent, so that whoever has many can ask on while it answers.
pub(crate) struct Explaining(Asked);

impl Explaining {
    /// Asks for each of these names and addresses, for a client.
    ///
    /// # Errors
    /// When no agent listens there.
    pub(crate) fn send(socket: &Path, asks: Vec<String>, client: Option<IpAddr>) -> anyhow::Result<Self> {
        Asked::send(socket, &Request::Why { asks, client }).map(Self)
    }

    /// Waits for the answers, which are in the order of the questions.
    ///
    /// # Errors
    /// When the agent refuses.
    pub(crate) fn answers(self) -> anyhow::Result<Vec<Explanation>> {
        match self.0.answer()? {
            Explained { error: Some(error), .. } => bail!("{error}"),
            Explained { answers, .. } => Ok(answers),
        }
    }
}

/// The answer to [`Request::Why`], read and written as it is: a batch has millions of its values.
#[derive(Serialize, Deserialize)]
struct Explained {
    #[serde(default)]
    answers: Vec<Explanation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A request that was sent.
struct Asked(Stream);

impl Asked {
    fn send(socket: &Path, request: &Request) -> anyhow::Result<Self> {
        let stream = connect(socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        (&stream).write_all(line.as_bytes()).context("the agent closed the connection")?;
        Ok(Self(stream))
    }

    fn answer<T: DeserializeOwned>(self) -> anyhow::Result<T> {
        let mut answer = String::new();
        BufReader::new(&self.0).read_line(&mut answer).context("the agent did not answer")?;
        serde_json::from_str(&answer).context("the agent's answer is no JSON")
    }
}

fn connect(socket: &Path) -> anyhow::Result<Stream> {
    let stream = Stream::connect(socket).map_err(|e| match e.kind() {
        std::io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!("no permission for {}; ask as root or as the agent's user", socket.display())
        }
        _ => anyhow::anyhow!(
            "no agent answers at {}; start one, or name its socket with --control",
            socket.display()
        ),
    })?;
    Ok(stream)
}

/// What the agent does with requests.
pub(crate) trait Answer: Send + Sync + 'static {
    /// What is in force.
    fn status(&self) -> Value;

    /// Reads the policy files again, for a process of the user `uid`. May block.
    fn reload(&self, uid: u32) -> Value;

    /// Has a new key sign the record. May block.
    fn rekey(&self) -> anyhow::Result<Value>;

    /// Removes events from the record, of days before one, or what is not to be retained, for a process of the user `uid`. May
    /// block.
    fn prune(&self, before: Option<jiff::civil::Date>, uid: u32) -> anyhow::Result<Value>;

    /// Tests both planes, and puts on record what came of it. May block.
    fn probe(&self) -> Value;

    /// Has the index of the record made again.
    fn reindex(&self) -> Value;

    /// Puts on record that events were handed out, to a process of the user `uid`.
    fn exported(&self, events: [u64; 2], uid: u32) -> Value;

    /// Seals what is on record now. May block.
    fn seal(&self) -> anyhow::Result<Value>;

    /// Puts on record that a report was made, to a process of the user `uid`. May block.
    fn reported(&self, detail: Value, uid: u32) -> anyhow::Result<Value>;

    /// Puts on record what others noted, for a process of the user `uid`. May block.
    fn import(&self, part: Part, uid: u32) -> anyhow::Result<Value>;

    /// Explains what is decided for each name or address, for a client. May block.
    fn why(&self, asks: &[String], client: Option<IpAddr>) -> anyhow::Result<Vec<Explanation>>;
}

/// Binds the socket, mode 0660 in a folder 0750. A socket that nobody answers any more is replaced.
///
/// # Errors
/// When another agent answers there, something else than a socket stands there, or the folder cannot be made.
pub(crate) fn bind(path: &Path) -> anyhow::Result<std::os::unix::net::UnixListener> {
    if Stream::connect(path).is_ok() {
        bail!("another agent answers at {}; stop it, or name another socket with --control", path.display());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o750))?;
    }
    if let Ok(about) = std::fs::symlink_metadata(path) {
        if !about.file_type().is_socket() {
            bail!("{} is there and is no socket; name another path with --control", path.display());
        }
        std::fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)
        .with_context(|| format!("cannot make the control socket {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves requests until it is dropped.
pub(crate) async fn serve(listener: UnixListener, agent: Arc<dyn Answer>) {
    let places = Arc::new(tokio::sync::Semaphore::new(CLIENTS_LIMIT));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let agent = agent.clone();
                tokio::spawn(async move {
                    let _place = place;
                    let _ = tokio::time::timeout(TIMEOUT, serve_one(stream, agent)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_one(mut stream: UnixStream, agent: Arc<dyn Answer>) -> std::io::Result<()> {
    let caller = stream.peer_cred()?.uid();
    let (read, mut write) = stream.split();
    let mut line = String::new();
    tokio::io::BufReader::new(read.take(REQUEST_LIMIT_BYTES)).read_line(&mut line).await?;
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) if request.changes() && caller != 0 && caller != uid() => {
            Err(anyhow::anyhow!("this is only for root and the agent's user"))
        }
        Ok(request) => tokio::task::spawn_blocking(move || answer(&*agent, request, caller))
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("the agent failed to answer"))),
        Err(error) => Err(anyhow::anyhow!("not a request: {error}")),
    };
    let answer = answer.unwrap_or_else(|error| json!({ "error": format!("{error:#}") }).to_string());
    write.write_all(format!("{answer}\n").as_bytes()).await
}

fn answer(agent: &dyn Answer, request: Request, uid: u32) -> anyhow::Result<String> {
    Ok(match request {
        Request::Status => agent.status().to_string(),
        Request::Reload => agent.reload(uid).to_string(),
        Request::Rekey => agent.rekey()?.to_string(),
        Request::Probe => agent.probe().to_string(),
        Request::Reindex => agent.reindex().to_string(),
        Request::Exported { first, last } => agent.exported([first, last], uid).to_string(),
        Request::Seal => agent.seal()?.to_string(),
        Request::Reported { detail } => agent.reported(detail, uid)?.to_string(),
        Request::Import(part) => agent.import(*part, uid)?.to_string(),
        Request::Prune { before } => agent.prune(before, uid)?.to_string(),
        Request::Why { asks, client } => {
            let answers = agent.why(&asks, client)?;
            serde_json::to_string(&Explained { answers, error: None })?
        }
    })
}
