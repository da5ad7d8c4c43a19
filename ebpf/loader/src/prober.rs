//! Runs the programs on frames of our choice, through `BPF_PROG_TEST_RUN`.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use aya::{Ebpf, TestRunOptions, TestRunResult, programs::TestRun as _};
use interdict_ebpf_shared::{count::Exit, policy::Verdict};

use crate::{Error, object, tcx::Tcx};

/// An entry point of the kernel object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// The program of [`crate::Role::Lan`].
    Lan,
    /// The program of [`crate::Role::Wan`].
    Wan,
    /// Judges by the staged policy as `Lan` would, apart from opened addresses, and neither counts nor records.
    Selftest,
    /// Tells how the kernel's ticks stand to its clock, whatever the frame.
    Clock,
    /// The program of [`crate::Role::Host`] for what is sent.
    HostOut,
    /// The program of [`crate::Role::Host`] for what is received.
    HostIn,
    /// The program of [`crate::Role::Wan`] for what is sent, which judges nothing.
    WanOut,
    /// The program of [`crate::Role::Lan`] for what is sent to clients, which judges nothing.
    LanOut,
}

impl Entry {
    /// Those on the XDP hook.
    pub(crate) const XDP: [Self; 4] = [Self::Lan, Self::Wan, Self::Selftest, Self::Clock];

    pub(crate) const fn program_name(self) -> &'static str {
        match self {
            Self::Lan => "interdict_lan",
            Self::Wan => "interdict_wan",
            Self::Selftest => "interdict_selftest",
            Self::Clock => "interdict_clock",
            Self::HostOut => Tcx::HostOut.program_name(),
            Self::HostIn => Tcx::HostIn.program_name(),
            Self::WanOut => Tcx::WanOut.program_name(),
            Self::LanOut => Tcx::LanOut.program_name(),
        }
    }

    /// The program, if it is one on tcx.
    const fn tcx(self) -> Option<Tcx> {
        match self {
            Self::Lan | Self::Wan | Self::Selftest | Self::Clock => None,
            Self::HostOut => Some(Tcx::HostOut),
            Self::HostIn => Some(Tcx::HostIn),
            Self::WanOut => Some(Tcx::WanOut),
            Self::LanOut => Some(Tcx::LanOut),
        }
    }

    /// What the program returns for a frame that it drops.
    const fn drops_with(self) -> u32 {
        match self.tcx() {
            None => XDP_DROP,
            Some(_) => TCX_DROP,
        }
    }
}

/// A frame to run a program on.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'f> {
    /// The program.
    pub entry: Entry,
    /// The frame, from its Ethernet header on; at least 14 bytes.
    pub frame: &'f [u8],
    /// How often to run. Every run of `Lan` and `Wan` counts and records as a real packet would.
    pub repeat: u32,
    /// How many bytes of it the driver puts into its first buffer, if not all. At least 14; needs Linux 6.18.
    pub first_buffer: Option<u32>,
}

impl<'f> Probe<'f> {
    /// Runs a program once, on a frame that the driver does not cut.
    pub const fn new(entry: Entry, frame: &'f [u8]) -> Self {
        Self { entry, frame, repeat: 1, first_buffer: None }
    }
}

/// What a program did with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Whether it dropped the frame, in the last run.
    pub dropped: bool,
    /// How long one run took on average, as the kernel measured it.
    pub duration: Duration,
}

/// What a program made of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It was dropped.
    Dropped,
    /// It passed, as this.
    Passed(Vec<u8>),
    /// It was sent back, as this.
    SentBack(Vec<u8>),
}

/// How much longer a frame may become: by the longest answer, and what stands in front of a diverted one.
const REPLY_ROOM_BYTES: usize = 256;

/// What the staged policy decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The reason by which the packet would leave.
    pub exit: Exit,
    /// The verdict and the slot of its rule, if a rule matches.
    pub decision: Option<(Verdict, u32)>,
}

/// Runs the programs of one packet plane, from any thread.
#[derive(Clone)]
pub struct Prober {
    object: Arc<RwLock<Ebpf>>,
}

impl Prober {
    pub(crate) const fn new(object: Arc<RwLock<Ebpf>>) -> Self {
        Self { object }
    }

    /// Runs a program.
    ///
    /// # Errors
    ///
    /// The kernel refuses frames under 14 bytes, and needs `CAP_BPF`.
    pub fn run(&self, probe: Probe<'_>) -> Result<Run, Error> {
        let context = probe.first_buffer.map(context);
        let options = TestRunOptions {
            data_in: Some(probe.frame),
            ctx_in: context.as_ref().map(|context| &context[..]),
            repeat: probe.repeat,
            ..Default::default()
        };
        self.test_run(probe.entry, options)
    }

    /// Runs a program once, and gives back the frame as the program left it.
    ///
    /// # Errors
    ///
    /// As [`Prober::run`].
    pub fn reply(&self, entry: Entry, frame: &[u8]) -> Result<Reply, Error> {
        let mut out = vec![0; frame.len() + REPLY_ROOM_BYTES];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..Default::default() };
        let result = self.raw_run(entry, options)?;
        out.truncate(result.data_size_out as usize);
        Ok(match result.return_value {
            XDP_DROP => Reply::Dropped,
            XDP_TX => Reply::SentBack(out),
            _ => Reply::Passed(out),
        })
    }

    /// Asks the staged policy what it would do with a frame.
    ///
    /// # Errors
    ///
    /// As [`Prober::run`].
    pub fn ask_staged(&self, frame: &[u8]) -> Result<Answer, Error> {
        let mut out = vec![0; frame.len()];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..Default::default() };
        self.test_run(Entry::Selftest, options)?;
        answer(&out).ok_or_else(|| Error::System {
            doing: "understand the self-test program",
            source: io::ErrorKind::InvalidData.into(),
        })
    }

    /// How many instructions the verifier went through for a program, where the kernel tells (Linux 5.16).
    ///
    /// # Errors
    ///
    /// The kernel does not tell of its programs.
    pub fn verified_instructions(&self, entry: Entry) -> Result<Option<u32>, Error> {
        let object = self.object.read().unwrap_or_else(PoisonError::into_inner);
        let info = match entry.tcx() {
            None => object::program(&object, entry).info(),
            Some(tcx) => object::tcx(&object, tcx).info(),
        };
        let info = info.map_err(|source| Error::Program { name: entry.program_name(), source })?;
        Ok(info.verified_instruction_count())
    }

    fn test_run(&self, entry: Entry, options: TestRunOptions<'_>) -> Result<Run, Error> {
        let result = self.raw_run(entry, options)?;
        Ok(Run { dropped: result.return_value == entry.drops_with(), duration: result.duration })
    }

    fn raw_run(&self, entry: Entry, options: TestRunOptions<'_>) -> Result<TestRunResult, Error> {
        // The lock is only ever written to while attaching, which leaves the object whole even in a panic.
        let object = self.object.read().unwrap_or_else(PoisonError::into_inner);
        let result = match entry.tcx() {
            None => object::program(&object, entry).test_run(options),
            Some(tcx) => object::tcx(&object, tcx).test_run(options),
        };
        result.map_err(|source| Error::Program { name: entry.program_name(), source })
    }
}

/// A `struct xdp_md` of the kernel's `bpf.h`: six words, of which the second is where the first buffer ends.
fn context(first_buffer: u32) -> [u8; 24] {
    let mut context = [0; 24];
    context[4..8].copy_from_slice(&first_buffer.to_ne_bytes());
    context
}

/// In `enum xdp_action` of the kernel's `bpf.h`.
const XDP_DROP: u32 = 1;
/// In `enum tcx_action_base` of the kernel's `bpf.h`.
const TCX_DROP: u32 = 2;
/// In `enum xdp_action` of the kernel's `bpf.h`.
const XDP_TX: u32 = 3;

/// Reads what the self-test program wrote over the first bytes of the frame.
fn answer(frame: &[u8]) -> Option<Answer> {
    let word = |at: usize| Some(u32::from_ne_bytes(*frame.get(at..)?.first_chunk()?));
    let exit = *Exit::ALL.get(word(0)? as usize)?;
    let decision = Verdict::from_code(word(4)?).zip(word(8));
    Some(Answer { exit, decision })
}
