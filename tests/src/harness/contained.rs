//! A scenario in a process and network namespace of its own, so that nothing of it outlives it and
//! no port of it meets another's.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Result, anyhow, ensure};

use super::{oracle::Verdict, report::Run};

/// Says to the inner process that it is inside.
const INSIDE: &str = "WEIR_CONTAINED";
const ARGUMENTS: [&str; 5] = ["--pid", "--net", "--fork", "--mount-proc", "--kill-child=KILL"];
/// A shell is the first process inside, because it waits for orphans; the loopback is down at first.
const INIT: &str = r#"ip link set lo up && "$@"; exit $?"#;

/// What a test exits with that has kept its line.
const PASSED: i32 = 0;
const FAILED: i32 = 101;

fn unshare() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare"]).args(ARGUMENTS);
    command.args(["sh", "-c", INIT, "inside"]).stdin(Stdio::null());
    command
}

/// Whether this machine allows it.
fn possible() -> bool {
    let tried = unshare().arg("true").stdout(Stdio::null()).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// Whether this process is in namespaces of its own.
pub fn is_contained() -> bool {
    env::var_os(INSIDE).is_some()
}

/// One at a time where there are no namespaces, so that no port of one meets another's.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs the test `name` (its whole path) in namespaces of its own, and keeps its line. Where there are none it says so,
/// and runs it here, one at a time: processes then end with their parent.
pub fn contained<F: Future<Output = Result<Verdict>>>(
    name: &str,
    scenario: impl FnOnce(Run) -> F,
) -> Result<()> {
    let run = Run::new(name);
    if !is_contained() && possible() {
        let status = unshare()
            .arg(env::current_exe()?)
            .args(["--exact", name, "--include-ignored", "--nocapture", "--test-threads", "1"])
            .env(INSIDE, "1")
            .env("WEIR_SEED", run.moments.seed().to_string())
            .status()?;
        if !matches!(status.code(), Some(PASSED | FAILED)) {
            return run.keep(Err(anyhow!("it ended with {status}")));
        }
        ensure!(status.success(), "{name} failed, see above");
        return Ok(());
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !is_contained() {
        println!("{name}: this machine gives no namespaces; running without");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let scenario = AssertUnwindSafe(|| runtime.block_on(scenario(run.clone())));
    let outcome = catch_unwind(scenario).unwrap_or_else(|_| Err(anyhow!("it panicked")));
    run.keep(outcome)
}
