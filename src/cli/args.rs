//! The command line as clap sees it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Your VM fleet, in Git: plan, apply and watch a fleet of virtual machines.
#[derive(Debug, Parser)]
#[command(name = "stablehand", version, about, max_term_width = 110, disable_help_subcommand = true)]
#[command(after_help = "Exit codes: 0 ok; 1 error; 2 changes and 3 changes of which some are blocked (plan \
    --detailed-exitcode); 4 observed state missing or too old; 5 applied in part; 64 usage.")]
pub(crate) struct Arguments {
    /// What holds for every verb.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What holds for every verb.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// The fleet's folder
    #[arg(long, global = true, value_name = "DIR", default_value = ".", env = "STABLEHAND_FLEET")]
    pub(crate) fleet: PathBuf,
    /// Take the fleet from a commit of the folder's Git repository instead of its files
    #[arg(long, global = true, value_name = "REV")]
    pub(crate) rev: Option<String>,
    /// The form of the output
    #[arg(long, short, global = true, value_name = "FORM", value_enum, default_value_t = Form::Text)]
    pub(crate) output: Form,
    /// Signs of ASCII only
    #[arg(long, global = true)]
    pub(crate) ascii: bool,
    /// No colours (also by NO_COLOR)
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// Where holds, approvals, the journal and the control socket are [default: /var/lib/stablehand/FLEET as root, else
    /// $XDG_STATE_HOME/stablehand/FLEET]
    #[arg(long, global = true, value_name = "DIR", env = "STABLEHAND_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

/// Forms of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people
    Text,
    /// For programs
    Json,
    /// For pull requests
    Markdown,
    /// Annotations of GitHub Actions (validate)
    Github,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Write a small fleet to start from
    Init(Init),
    /// Check the fleet's YAML and show every error at once
    Validate,
    /// Write the YAML files in the usual form
    Fmt(Fmt),
    /// Show what apply would do, to whom, and why
    Plan(Plan),
    /// Render a plan that `plan --out` saved
    Show(Show),
    /// Draw the plan as a Mermaid chart
    Graph(Seen),
    /// Make it so
    Apply(Apply),
    /// Keep it so: follow the folder, or a branch given by --rev
    Watch(Watch),
    /// Show every VM and service as it is now
    Status(Status),
    /// Images: generations, who uses them, what rolls, what keeps old ones
    Images(Images),
    /// Read the packet filters back from every host and say whether they mean what they should (exit code 1: not)
    Verify(Status),
    /// Show how busy hosts and VMs are, or were
    Top(Top),
    /// List what the fleet describes: hosts, images, networks, services, modules, tasks or vms
    Get(Get),
    /// Show all that is known of one VM, host, image, network, service, module or task
    Describe(Describe),
    /// Say why something is where it is, or why nothing happens to it
    Why(Describe),
    /// Say whether one reaches another, and by which rule; exit code 0 when it does, 1 when it does not
    Reach(Reach),
    /// Show who may reach whom
    Matrix(Matrix),
    /// Explain a code (E0207, R101), or where a field of a VM comes from (vm/web-1 memory)
    Explain(Explain),
    /// Print what a change of each field costs
    ExplainImpact,
    /// Start VMs by hand; healing respects it until --withdraw
    Start(Hand),
    /// Stop VMs by hand; healing respects it until --withdraw
    Stop(Hand),
    /// Suspend VMs by hand; healing respects it until --withdraw
    Suspend(Hand),
    /// Stop and start VMs once
    Restart(HandOnce),
    /// Put VMs into quarantine: close their rules, then suspend or stop them; so they stay until they are released
    Quarantine(Quarantine),
    /// Let VMs out of quarantine: their documents decide again
    Release(Release),
    /// Images that are made in the fleet: seal, give up, or try again what is made now
    #[command(subcommand)]
    Image(ImageVerb),
    /// Try a task again that failed: on the VMs where it did, then on the others
    Retry(Retry),
    /// Empty a host: show what moves where and what cannot, ask, and move it
    Drain(Drain),
    /// Bring back what a drain took from a host
    Restore(Restore),
    /// Print the YAML of a VM that exists and is not in the fleet
    Export(Export),
    /// Write the YAML and the Adoption of a VM that exists into the fleet's folder
    Adopt(Adopt),
    /// Say where a VM's screen is, or save a picture of it
    Console(Console),
    /// Look at a machine that may become a host
    #[command(subcommand)]
    Host(HostVerb),
    /// Write down what the hosts say now
    Observe(Observe),
    /// Run the fleet's own plan tests: tests/**/case.yaml
    Test(Test),
    /// Run a script of the simulator
    Sim(Sim),
    /// Print, write or check the JSON Schemas
    Schema(Schema),
    /// Look at this machine: what is missing, and the command that mends it
    Doctor,
    /// Print the version
    Version,
}

/// `init`
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Where to [default: the fleet's folder]
    pub(crate) folder: Option<PathBuf>,
}

/// `fmt`
#[derive(Debug, Args)]
pub(crate) struct Fmt {
    /// Write nothing; fail when something would be written
    #[arg(long)]
    pub(crate) check: bool,
}

/// Which observed state a plan is made against.
#[derive(Clone, Debug, Args)]
pub(crate) struct Seen {
    /// `live`, `none` (as if every host were empty), or a folder written by `observe --out`
    #[arg(long, value_name = "live|none|DIR", default_value = "live")]
    pub(crate) observed: String,
    /// Observed state older than this is an error (exit code 4); its age is always printed
    #[arg(long, value_name = "TIME")]
    pub(crate) max_age: Option<crate::model::Span>,
}

/// `plan`
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Which observed state.
    #[command(flatten)]
    pub(crate) seen: Seen,
    /// Tell what this change does apart from what an earlier one left: the revision before it
    #[arg(long, value_name = "REV")]
    pub(crate) base: Option<String>,
    /// Exit with 2 when there are changes, 3 when some are blocked
    #[arg(long)]
    pub(crate) detailed_exitcode: bool,
    /// Also save the plan as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Fold nothing, and show notes also when nothing changes
    #[arg(long)]
    pub(crate) show_all: bool,
}

/// `show`
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The saved plan
    pub(crate) file: PathBuf,
    /// Fold nothing
    #[arg(long)]
    pub(crate) show_all: bool,
}

/// `apply`
#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Do what this saved plan says, or less where the world has moved on, never more
    #[arg(long, value_name = "FILE", conflicts_with = "effects")]
    pub(crate) plan: Option<PathBuf>,
    /// Do it only if the plan has exactly these effects: once for a revision
    #[arg(long, value_name = "HASH")]
    pub(crate) effects: Option<String>,
}

/// `watch`
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Look again after this time although nothing was heard
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub(crate) resync: crate::model::Span,
    /// Quiet wanted after a change
    #[arg(long, value_name = "TIME", default_value = "300ms")]
    pub(crate) debounce: crate::model::Span,
}

/// `status`
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Recorded state instead of asking the hosts
    #[arg(long, value_name = "live|DIR", default_value = "live")]
    pub(crate) observed: String,
}

/// `images`
#[derive(Debug, Args)]
pub(crate) struct Images {
    /// Which observed state
    #[arg(long, value_name = "live|none|DIR", default_value = "live")]
    pub(crate) observed: String,
}

/// `top`
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// host/NAME or vm/NAME: how busy it was, as a running watch has seen [default: all of them, now]
    pub(crate) address: Option<crate::model::Address>,
    /// How far to look back, up to 24h: every 15 s for the last hour, means of 5 min before
    #[arg(long, value_name = "TIME", default_value = "1h", requires = "address")]
    pub(crate) last: crate::model::Span,
}

/// `host`
#[derive(Debug, Subcommand)]
pub(crate) enum HostVerb {
    /// Propose the Host document of a machine, from what libvirt and its shell say
    Inspect(Inspect),
}

/// `host inspect`
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// libvirt connection URI, like qemu+ssh://root@kvm1/system
    pub(crate) uri: String,
    /// How programs are run there: `local`, `ssh:[USER@]HOST[:PORT]`, or a command to which they are added [default: local for a
    /// local URI, SSH to the same machine for qemu+ssh://]
    #[arg(long, value_name = "SHELL")]
    pub(crate) shell: Option<String>,
    /// Path of the private key for SSH; it is given to ssh, never read
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<String>,
    /// The host's name in the fleet [default: what the machine calls itself]
    #[arg(long)]
    pub(crate) name: Option<crate::model::Name>,
}

/// `get`
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// Of which kind
    #[arg(value_enum)]
    pub(crate) kind: Kind,
}

/// Kinds that `get` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Host documents
    #[value(alias = "host")]
    Hosts,
    /// Image documents
    #[value(alias = "image")]
    Images,
    /// Network documents
    #[value(alias = "network")]
    Networks,
    /// Service documents
    #[value(alias = "service")]
    Services,
    /// Task documents
    #[value(alias = "task")]
    Tasks,
    /// Module documents
    #[value(alias = "module")]
    Modules,
    /// VMs
    #[value(alias = "vm")]
    Vms,
}

/// `describe`, `why`
#[derive(Debug, Args)]
pub(crate) struct Describe {
    /// kind/name, like vm/web-1
    pub(crate) address: crate::model::Address,
    /// Which observed state
    #[arg(long, value_name = "live|none|DIR", default_value = "live")]
    pub(crate) observed: String,
}

/// `reach`
#[derive(Debug, Args)]
#[command(
    after_help = "Both ends filter: what passes has to be allowed by the rules of both. UDP and ICMP pass both ways, \
    since no connections are tracked. Exit codes: 0 yes, with all that was asked; 1 no, or not between all of them; \
    64 no such end."
)]
pub(crate) struct Reach {
    /// Who begins: vm/NAME, service/NAME, service/NAME/APP, module/NAME, module/NAME/VM, or an address
    pub(crate) from: crate::plan::rules::End,
    /// Who is reached: the same
    pub(crate) to: crate::plan::rules::End,
    /// With what: any, icmp, tcp, udp, tcp/443, udp/5000-5010 [default: anything that passes is a yes]
    pub(crate) traffic: Option<crate::model::Traffic>,
    /// Which observed state
    #[arg(long, value_name = "live|none|DIR", default_value = "live")]
    pub(crate) observed: String,
}

/// `matrix`
#[derive(Debug, Args)]
pub(crate) struct Matrix {
    /// Which observed state
    #[arg(long, value_name = "live|none|DIR", default_value = "live")]
    pub(crate) observed: String,
}

/// `explain`
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// A code, or vm/NAME
    pub(crate) what: String,
    /// A field of the VM, like memory
    pub(crate) field: Option<String>,
}

/// `start`, `stop`, `suspend`
#[derive(Debug, Args)]
pub(crate) struct Hand {
    /// The VMs
    #[arg(required = true, value_name = "VM")]
    pub(crate) vms: Vec<String>,
    /// Take back what was asked: the YAML decides again
    #[arg(long)]
    pub(crate) withdraw: bool,
}

/// `restart`
#[derive(Debug, Args)]
pub(crate) struct HandOnce {
    /// The VMs
    #[arg(required = true, value_name = "VM")]
    pub(crate) vms: Vec<String>,
    /// Take back what was asked and not done yet
    #[arg(long)]
    pub(crate) withdraw: bool,
}

/// `quarantine`
#[derive(Debug, Args)]
pub(crate) struct Quarantine {
    /// The VMs
    #[arg(required = true, value_name = "VM")]
    pub(crate) vms: Vec<String>,
    /// Why: it is written on the VM itself
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// What happens after their rules were closed [default: what the VM's guard says, else close]
    #[arg(long, value_enum)]
    pub(crate) then: Option<ThenArg>,
}

/// What happens to a VM in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ThenArg {
    /// Nothing more: it runs on and reaches nobody
    Close,
    /// It is saved to disk, its memory with it
    Suspend,
    /// It is stopped; powered off if it does not shut down in time
    Stop,
}

/// `release`
#[derive(Debug, Args)]
pub(crate) struct Release {
    /// The VMs
    #[arg(required = true, value_name = "VM")]
    pub(crate) vms: Vec<String>,
}

/// `image`
#[derive(Debug, Subcommand)]
pub(crate) enum ImageVerb {
    /// Its management instance was configured by hand, and that is done: it is captured and sealed
    Seal(ImageOne),
    /// Give up what is made of it now: its management instance ends, or reverts
    Abandon(ImageOne),
    /// Have it tried again, after it could not be made or was given up
    Retry(ImageOne),
}

/// `image seal`, `image abandon`, `image retry`
#[derive(Debug, Args)]
pub(crate) struct ImageOne {
    /// The image
    pub(crate) image: String,
}

/// `retry`
#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// The task, with or without `task/`
    pub(crate) task: String,
}

/// `drain`
#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// The host
    pub(crate) host: String,
    /// What happens to VMs that cannot move while they run
    #[arg(long, value_enum, default_value_t = OthersArg::Leave)]
    pub(crate) others: OthersArg,
    /// Only show what would move where
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// End the drain: no further VM moves; what has moved stays where it is
    #[arg(long, conflicts_with_all = ["yes", "dry_run"])]
    pub(crate) withdraw: bool,
    /// End the drain and give up the moves that run
    #[arg(long, conflicts_with_all = ["yes", "dry_run", "withdraw"])]
    pub(crate) abort: bool,
}

/// What happens at a drain to VMs that cannot move while they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OthersArg {
    /// They stay, and the plan says what would move them
    Leave,
    /// Stopped, moved with their data, started
    Cold,
    /// Stopped where they are
    Stop,
}

impl From<OthersArg> for crate::model::Others {
    fn from(others: OthersArg) -> Self {
        match others {
            OthersArg::Leave => Self::Leave,
            OthersArg::Cold => Self::Cold,
            OthersArg::Stop => Self::Stop,
        }
    }
}

/// `restore`
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The host
    pub(crate) host: String,
    /// Only show what would come back
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// `export`
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The domain's libvirt name
    pub(crate) domain: String,
    /// On which host [default: the one that has it]
    #[arg(long)]
    pub(crate) host: Option<String>,
}

/// `adopt`
#[derive(Debug, Args)]
pub(crate) struct Adopt {
    /// Which VM.
    #[command(flatten)]
    pub(crate) export: Export,
    /// Why, for the Adoption document
    #[arg(long)]
    pub(crate) reason: String,
}

/// `console`
#[derive(Debug, Args)]
pub(crate) struct Console {
    /// vm/NAME
    pub(crate) vm: String,
    /// Save a picture of the screen
    #[arg(long, value_name = "FILE")]
    pub(crate) screenshot: Option<PathBuf>,
}

/// `observe`
#[derive(Debug, Args)]
pub(crate) struct Observe {
    /// Where to [default: stdout]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// `test`
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Write the snapshots instead of comparing them
    #[arg(long)]
    pub(crate) update: bool,
    /// Only cases whose path has this in it
    pub(crate) filter: Option<String>,
}

/// `sim`
#[derive(Debug, Args)]
pub(crate) struct Sim {
    /// The script
    pub(crate) script: PathBuf,
}

/// `schema`
#[derive(Debug, Args)]
pub(crate) struct Schema {
    /// Compare with the files of a folder (`schemas`)
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "schemas", conflicts_with = "write")]
    pub(crate) check: Option<PathBuf>,
    /// Write them into a folder (`schemas`)
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "schemas")]
    pub(crate) write: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Arguments::command().debug_assert();
    }
}
