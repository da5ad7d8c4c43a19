//! The program, run as a user runs it, in a folder of its own.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::{Dig, Upstream, dig, loopback, until};

pub(crate) struct Agent {
    pub(crate) folder: TempDir,
    child: Child,
}

/// The program with these words.
pub(crate) fn interdict(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_interdict")).args(words).output().expect("the program runs")
}

impl Agent {
    /// An agent with these policy files in a folder that it watches, answering on a free port.
    pub(crate) fn start(files: &[(&str, &str)], upstream: &Upstream) -> Self {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("policy")).unwrap();
        for (name, text) in files {
            fs::write(folder.path().join("policy").join(name), text).unwrap();
        }
        Self::start_in(folder, upstream).unwrap_or_else(|said| panic!("the agent did not start:\n{said}"))
    }

    /// Starts an agent in a folder that may have a past. `Err` is what it said when it ended at once.
    /// A folder with this policy and this configuration, in which `FOLDER` stands for its path, to start one in.
    pub(crate) fn folder(policy: &str, config: &str) -> TempDir {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("policy")).unwrap();
        fs::write(folder.path().join("policy/p.toml"), policy).unwrap();
        let config = config.replace("FOLDER", folder.path().to_str().unwrap());
        fs::write(folder.path().join("agent.toml"), config).unwrap();
        folder
    }

    pub(crate) fn start_in(folder: TempDir, upstream: &Upstream) -> Result<Self, String> {
        Self::start_asking(folder, &[upstream.address()])
    }

    /// The same, with several upstreams, and with the configuration in the folder's `agent.toml`, if there is one.
    pub(crate) fn start_asking(folder: TempDir, upstreams: &[SocketAddr]) -> Result<Self, String> {
        let config = Some(folder.path().join("agent.toml")).filter(|path| path.exists());
        let config = config.map(|path| ["--config".to_owned(), path.display().to_string()]);
        let upstreams = upstreams.iter().flat_map(|address| ["--upstream".to_owned(), address.to_string()]);
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mut child = Command::new(env!("CARGO_BIN_EXE_interdict"))
            .args(["run", "--listen", &SocketAddr::new(loopback(), 0).to_string()])
            .args(["--policy", &path("policy"), "--data", &path("data")])
            .args(["--control", &path("control/sock")])
            .args(upstreams)
            .args(config.into_iter().flatten())
            // Whom the program trusts, if the folder says so.
            .envs(
                Some(path("trusted.pem"))
                    .filter(|file| Path::new(file).exists())
                    .map(|file| ("SSL_CERT_FILE", file)),
            )
            .args(["--console", &SocketAddr::new(loopback(), 0).to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut agent = None;
        until("the agent answers its control socket or ends", || {
            if child.try_wait().unwrap().is_some() {
                return Some(());
            }
            let socket = folder.path().join("control/sock");
            ::interdict::control::ask(&socket, &::interdict::control::Request::Status).ok()?;
            agent = Some(());
            Some(())
        });
        if agent.is_none() {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            return Err(said);
        }
        Ok(Self { folder, child })
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.folder.path().join("control/sock")
    }

    /// The program with these words, and this agent's control socket.
    pub(crate) fn tell(&self, words: &[&str]) -> Output {
        let socket = self.control().display().to_string();
        interdict(&[words, &["--control", &socket]].concat())
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_slice(&self.tell(&["status", "--json"]).stdout).unwrap()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.status()["planes"]["dns"]["listen"][0].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn dig(&self, words: &[&str]) -> Dig {
        dig(self.address(), words)
    }

    /// Writes a policy file in the watched folder, as an editor does: beside it, then renamed.
    pub(crate) fn write_policy(&self, name: &str, text: &str) {
        let folder = self.folder.path().join("policy");
        fs::write(folder.join(".new"), text).unwrap();
        fs::rename(folder.join(".new"), folder.join(name)).unwrap();
    }

    /// Every event on record so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        let output = self.tell(&["tail", "--no-follow", "--json"]);
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The first event on record that is as told, awaited.
    pub(crate) fn event(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        until(what, || self.events().into_iter().find(|event| is_it(event)))
    }

    /// Ends it without a word, as a crash does. What it leaves behind stays.
    pub(crate) fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.folder, TempDir::new().unwrap())
    }

    /// Ends it as an operator does. What it leaves behind stays.
    pub(crate) fn stop(mut self) -> TempDir {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().unwrap();
        std::mem::replace(&mut self.folder, TempDir::new().unwrap())
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
