//! The command line. Exit status: 0 done, 1 a finding, 2 wrong use or no way to do it.

use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

use interdict_audit::Format as EventFormat;
use interdict_audit::history::Origin;
use interdict_ebpf_loader::DEFAULT_PIN;
use interdict_policy::export::Format;
use interdict_policy::import;

use crate::{
    agent, audit, check, control, demo, diff, export, history, import as import_list, out, packets, report,
    status, tail, top, why,
};

use crate::select::Selection;

/// Enforces a ban on a vendor's network services, and keeps the record.
#[derive(Debug, Parser)]
#[command(name = "interdict", version, about, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the agent: answer DNS by policy, and keep the record
    Run(RunArgs),
    /// Show the ban at work, in network namespaces made for it; needs root
    Demo,
    /// Read policy files, compile them, run their tests, print every problem
    Check(CheckArgs),
    /// Explain what is decided for a name, an address, or address:port/proto
    Why(WhyArgs),
    /// What changes between two policies, rule by rule and decision by decision
    Diff(DiffArgs),
    /// Write the policy in the words of another program; what it has no words for goes to stderr
    Export(ExportArgs),
    /// Make a policy file of somebody's list; lines that no rule can say go to stderr
    Import(ImportArgs),
    /// Print the JSON Schema of policy files, for editors
    Schema,
    /// What the running agent has in force
    Status(ControlArgs),
    /// Have the running agent read its policy files again
    Reload(ControlArgs),
    /// Have the running agent send a blocked name and a blocked address through both planes now
    Probe(ControlArgs),
    /// Print events as they are recorded: all of them, or those that are asked for
    Tail(TailArgs),
    /// Who asks for what, as a table that is kept up to date
    Top(TopArgs),
    /// Who still contacts the vendor, who stopped, and who may have
    Report(ReportArgs),
    /// Verify the record, prove events, hand them out, remove old ones
    #[command(subcommand)]
    Audit(AuditVerb),
    /// Detach the kernel programs that an agent left in place with at_exit = "keep"
    Unload(UnloadArgs),
}

/// How to run the agent.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// Configuration file; what the command line says wins over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Policy file or folder; repeat for several. Default: the embedded Kaspersky pack
    #[arg(long, value_name = "PATH")]
    pub policy: Vec<PathBuf>,
    /// Address to answer DNS on, UDP and TCP; repeat for several [default: 127.0.0.1:5300]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Vec<SocketAddr>,
    /// Resolver to ask for what is not banned: an address, or tls://NAME#ADDR, https://NAME/PATH#ADDR, quic://NAME#ADDR;
    /// repeat for several. Default: the system's
    #[arg(long, value_name = "ADDR:PORT|URL")]
    pub upstream: Vec<String>,
    /// Interface whose packets are judged, and what it is to us: lan, wan or host; repeat for several. Needs root
    #[arg(long, value_name = "NAME=ROLE")]
    pub interface: Vec<String>,
    /// Profile of the policy: what one instrument asks. Default: rules as written
    #[arg(long, value_name = "ID")]
    pub profile: Option<String>,
    /// Folder for the record and the state
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Control socket
    #[arg(long, value_name = "SOCKET")]
    pub control: Option<PathBuf>,
    /// Address to serve metrics on, as http://ADDR:PORT/metrics. Default: none
    #[arg(long, value_name = "ADDR:PORT")]
    pub console: Option<SocketAddr>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Policy files or folders. Default: the running agent's, else the embedded Kaspersky pack
    paths: Vec<PathBuf>,
    /// Profile to judge by
    #[arg(long, value_name = "ID")]
    profile: Option<String>,
    #[command(flatten)]
    control: ControlArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// Names, addresses, or address:port/proto such as 192.0.2.1:443/tcp
    #[arg(required_unless_present = "batch", conflicts_with = "batch")]
    pub(crate) what: Vec<String>,
    /// A file with one of them a line; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) batch: Option<PathBuf>,
    /// Policy file or folder to judge by. Default: the running agent, else the embedded Kaspersky pack
    #[arg(long, value_name = "PATH")]
    pub(crate) policy: Vec<PathBuf>,
    /// Profile to judge by
    #[arg(long, value_name = "ID")]
    pub(crate) profile: Option<String>,
    /// By the policy that was in force at a time, under the profile of that time, from the record:
    /// 2026-11-24T03:00:00Z, or a day
    #[arg(long, value_name = "TIME", conflicts_with_all = ["policy", "profile"])]
    pub(crate) at: Option<String>,
    /// Folder of the record, for --at. Default: the running agent's
    #[arg(long, value_name = "DIR", requires = "at")]
    pub(crate) data: Option<PathBuf>,
    /// The client that asks
    #[arg(long, value_name = "IP")]
    pub(crate) client: Option<IpAddr>,
    #[command(flatten)]
    pub(crate) control: ControlArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Policy file or folder, the digest of a kept policy, or the word embedded
    pub(crate) old: String,
    /// Likewise
    pub(crate) new: String,
    /// Events to decide again by both: a file of events, a data folder, or - for standard input
    #[arg(long, value_name = "EVENTS")]
    pub(crate) replay: Option<PathBuf>,
    /// Profile to judge files by; a policy named by its digest stays as it was in force
    #[arg(long, value_name = "ID")]
    pub(crate) profile: Option<String>,
    /// Data folder where policies named by digest were kept
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// rpz (a DNS response policy zone), nft (sets), hosts, unbound, dnsmasq or json
    #[arg(value_parser = words(Format::ALL.map(Format::as_str)).try_map(|word| word.parse::<Format>()))]
    pub(crate) format: Format,
    /// Policy file or folder; repeat for several. Default: the running agent's, else the embedded Kaspersky pack
    #[arg(long, value_name = "PATH")]
    pub(crate) policy: Vec<PathBuf>,
    /// Profile to judge by
    #[arg(long, value_name = "ID")]
    pub(crate) profile: Option<String>,
    /// Version of the zone, for rpz [default: the time in seconds]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) serial: Option<u32>,
    #[command(flatten)]
    pub(crate) control: ControlArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// rpz (a zone file), hosts, domains (one a line, with all below it) or cidrs (one network a line)
    #[arg(value_parser = words(import::Format::ALL.map(import::Format::as_str)).try_map(|word| word.parse::<import::Format>()))]
    pub(crate) format: import::Format,
    /// The list; `-` is stdin
    pub(crate) file: PathBuf,
    /// What the ids of the rules start with [default: the file's name]
    #[arg(long, value_name = "PREFIX")]
    pub(crate) id: Option<import::Prefix>,
    /// The role of the rules
    #[arg(long, value_name = "ROLE", default_value_t)]
    pub(crate) role: import::Role,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// Stop at the end of what is recorded
    #[arg(long)]
    pub(crate) no_follow: bool,
    /// Begin behind this event, by its id or its number; the next run goes on behind the last one that this one printed
    #[arg(long, value_name = "ID", conflicts_with = "last")]
    pub(crate) after: Option<String>,
    /// Begin with the last so many
    #[arg(long, value_name = "NUMBER")]
    pub(crate) last: Option<usize>,
    /// json (as it is on record), ocsf, ecs, cef or csv. Default: a line for people
    #[arg(long, value_name = "FORMAT", conflicts_with = "json",
        value_parser = words(EventFormat::ALL.map(EventFormat::as_str)).try_map(|word| word.parse::<EventFormat>()))]
    pub(crate) format: Option<EventFormat>,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Folder of the record. Default: the running agent's
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) control: ControlArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// What the rows are: client, unit, rule or role
    #[arg(long, value_name = "WHAT", default_value = "client",
        value_parser = words(top::By::ALL.map(top::By::as_str)).try_map(|word| word.parse::<top::By>()))]
    pub(crate) by: top::By,
    /// Over how many days, today among them
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) days: u16,
    /// How many rows
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub(crate) rows: usize,
    /// Print the table once, and end
    #[arg(long)]
    pub(crate) once: bool,
    /// Folder of the record. Default: the running agent's
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) control: ControlArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The first day, in UTC [default: 30 days before the end]
    #[arg(long, value_name = "DAY")]
    pub(crate) from: Option<jiff::civil::Date>,
    /// The day behind the last [default: today]
    #[arg(long, value_name = "DAY")]
    pub(crate) to: Option<jiff::civil::Date>,
    /// Only of this unit
    #[arg(long, value_name = "ID")]
    pub(crate) unit: Option<String>,
    /// Days without contact after which a client that gave a sign of life has stopped
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=3660))]
    pub(crate) quiet: u16,
    /// A role of the headline; repeat for several. Default: update, ksn, activation, product-service, telemetry, cdn
    #[arg(long, value_name = "ROLE")]
    pub(crate) headline: Vec<String>,
    /// File to write as a page
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// File to write as a table of all figures
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// File to write as a PDF, with chromium or weasyprint
    #[arg(long, value_name = "FILE")]
    pub(crate) pdf: Option<PathBuf>,
    /// Folder to make for handing out: page, table and JSON, the events of the period, and the proof of all; `audit verify DIR`
    /// says whether it is whole
    #[arg(long, value_name = "DIR")]
    pub(crate) pack: Option<PathBuf>,
    /// Folder of a record to which no agent writes. Default: the running agent's
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) control: ControlArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditVerb {
    /// Say whether the record, a pack or a proof is what was signed, every byte of it
    Verify(VerifyArgs),
    /// Print the proof that an event is on record, to be sent to somebody
    Prove(ProveArgs),
    /// Write a pack of events that a stranger can verify
    Export(PackArgs),
    /// Put on record what other programs noted before: query logs and captures, of which only what concerns the policy is kept
    Import(ImportHistoryArgs),
    /// Print the newest checkpoint, with the proof that the record only grew, for a witness elsewhere
    Offer(OfferArgs),
    /// Sign the newest checkpoint too, as a witness: if the record only grew since the last time, and into a folder of its own
    Witness(WitnessArgs),
    /// Remove old events, whole days of them; that is put on record, and the rest stays verifiable
    Prune(PruneArgs),
    /// Have a new key sign the record from now on, as both keys sign
    Rekey(ChangeArgs),
    /// Make the index again, which is all in the record
    Reindex(ChangeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A pack, a proof, or a folder of `report --pack`. Default: the whole record
    pub(crate) pack: Option<PathBuf>,
    /// A public key of the record, as its owner told you. Default: the one that lies beside it
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// A file of checkpoints that was kept elsewhere, or another copy of the data folder; repeat for several
    #[arg(long, value_name = "PATH")]
    pub(crate) against: Vec<PathBuf>,
    /// The public key of a witness, which must have signed every checkpoint named with --against
    #[arg(long, value_name = "KEY", requires = "against")]
    pub(crate) witness: Option<String>,
    /// Folder of the record. Default: the running agent's
    #[arg(long, value_name = "DIR", conflicts_with = "pack")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) control: ControlArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ProveArgs {
    /// The event's id, or its number
    pub(crate) id: String,
    /// File to write [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Folder of the record. Default: the running agent's
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) control: ControlArgs,
}

#[derive(Debug, Args)]
pub(crate) struct OfferArgs {
    /// How many events the witness saw, as `audit witness --size` says; 0 for none
    #[arg(long, value_name = "SIZE", default_value_t = 0)]
    pub(crate) old: u64,
    /// Folder of the record. Default: the running agent's
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) control: ControlArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WitnessArgs {
    /// What another machine's `audit offer` printed, or `-`. Default: the record of this machine
    pub(crate) offer: Option<PathBuf>,
    /// Folder of the witness: its key, and `cosigned`, for `audit verify --against`. On another machine, or on other media
    #[arg(long, value_name = "DIR")]
    pub(crate) state: PathBuf,
    /// A public key of the record to believe from now on, as its owner told you. Default, once: the one that lies beside the record
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Only print how many events it saw
    #[arg(long, conflicts_with_all = ["offer", "key"])]
    pub(crate) size: bool,
    /// Folder of the record. Default: the running agent's
    #[arg(long, value_name = "DIR", conflicts_with = "offer")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) control: ControlArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PackArgs {
    /// Events from this time on: 2026-11-24T03:00:00Z, or a day
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Events before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
    /// File to write, which must not be there yet [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Folder of the record. Default: the running agent's
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) control: ControlArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImportHistoryArgs {
    /// Files, or `-` for standard input: `zcat query.log.gz | interdict audit import --format bind -`
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// What they are: pihole (pihole-FTL.db), adguard (querylog.json), unbound, bind, zeek (dns.log, conn.log), dnstap or pcap.
    /// Default: what each looks like
    #[arg(long, value_name = "FORMAT",
        value_parser = words(Origin::ALL.map(Origin::as_str)).try_map(|word| word.parse::<Origin>()))]
    pub(crate) format: Option<Origin>,
    /// Whose they are: of one source no time is imported twice [default: the format]
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,
    /// Only entries from this time on: 2025-03-01T00:00:00Z, or a day
    #[arg(long, value_name = "TIME", value_parser = history::time)]
    pub(crate) from: Option<jiff::Timestamp>,
    /// Only entries before this time [default: when the record's first agent started]
    #[arg(long, value_name = "TIME", value_parser = history::time)]
    pub(crate) until: Option<jiff::Timestamp>,
    /// Where times were written that have no zone, such as Europe/Berlin [default: this machine's]
    #[arg(long, value_name = "ZONE", value_parser = jiff::tz::TimeZone::get)]
    pub(crate) timezone: Option<jiff::tz::TimeZone>,
    /// Say what would go on record, and put nothing there
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Take what was imported before once more: its contacts count twice then
    #[arg(long)]
    pub(crate) again: bool,
    /// Folder of a record to which no agent writes. Default: the running agent's
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) control: ControlArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Remove events of days before this one [default: those of 365 days ago and earlier, or as `[audit] retain` says]
    #[arg(long, value_name = "DAY")]
    pub(crate) before: Option<jiff::civil::Date>,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

/// Whose record is to be changed.
#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    /// Folder of a record to which no agent writes. Default: the running agent's
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) control: ControlArgs,
}

#[derive(Debug, Args)]
pub(crate) struct UnloadArgs {
    /// Folder of the pins
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN)]
    pub(crate) pin: PathBuf,
}

/// How to reach the running agent, and how to print.
#[derive(Clone, Debug, Args)]
pub struct ControlArgs {
    /// Control socket of the running agent
    #[arg(long, value_name = "SOCKET")]
    pub control: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl ControlArgs {
    pub(crate) fn socket(&self) -> PathBuf {
        self.control.clone().unwrap_or_else(control::default_socket)
    }
}

/// Reads one of these words, and names them in the help.
fn words(words: impl IntoIterator<Item = &'static str>) -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(words)
}

/// What a verb found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing to object to.
    Done,
    /// Something that the caller asked about is not in order.
    Finding,
}

impl Cli {
    /// Runs the verb and turns its outcome into an exit status; errors go to stderr.
    pub fn run(self) -> ExitCode {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| "info,hickory_server=warn,hickory_resolver=warn,hickory_net=warn".into());
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .init();
        let outcome = match self.verb {
            Verb::Run(args) => agent::run(&args).map(|()| Outcome::Done),
            Verb::Demo => demo::demo(),
            Verb::Check(args) => check::check(&args.paths, args.profile.as_deref(), &args.control),
            Verb::Why(args) => why::why(&args),
            Verb::Diff(args) => diff::diff(&args),
            Verb::Export(args) => export::run(&args),
            Verb::Import(args) => import_list::run(&args),
            Verb::Schema => {
                let schema = out::line(format_args!("{:#}", interdict_policy::schema()));
                schema.map(|()| Outcome::Done).map_err(anyhow::Error::from)
            }
            Verb::Status(args) => status::status(&args),
            Verb::Reload(args) => status::reload(&args),
            Verb::Probe(args) => status::probe(&args),
            Verb::Tail(args) => tail::tail(&args),
            Verb::Top(args) => top::top(&args),
            Verb::Report(args) => report::report(&args),
            Verb::Audit(verb) => audit::audit(&verb),
            Verb::Unload(args) => packets::unload(&args.pin).map(|()| Outcome::Done),
        };
        match outcome {
            Ok(Outcome::Done) => ExitCode::SUCCESS,
            Ok(Outcome::Finding) => ExitCode::from(1),
            Err(error) if out::reader_left(&error) => ExitCode::SUCCESS,
            Err(error) => {
                // What a file is called may be anything.
                let text = format!("{error:#}");
                let lines: Vec<_> = text.lines().map(interdict_policy::printable).collect();
                eprintln!("interdict: {}", lines.join("\n"));
                ExitCode::from(2)
            }
        }
    }
}
