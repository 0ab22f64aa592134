//! One thread for each TPM that is being asked, as long as there is something to ask: commands wait for each other there, and
//! who asks waits for the answer no longer than until a deadline. A TPM that hangs costs one thread, however often it is asked.

use super::error::TpmError;
use super::password;
use crate::config::Tpm;
use crate::sys::environment::keep_tpms_from_children;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use tokio::runtime::{Handle, RuntimeFlavor};
use tss_esapi::handles::ObjectHandle;
use tss_esapi::{Context, TctiNameConf};

struct Job {
    run: Box<dyn FnOnce() + Send>,
    /// Gone with whoever waits.
    wanted: Weak<()>,
}

/// What waits for each TPM; an entry is there as long as its thread.
static QUEUES: Mutex<BTreeMap<String, VecDeque<Job>>> = Mutex::new(BTreeMap::new());

fn queues() -> MutexGuard<'static, BTreeMap<String, VecDeque<Job>>> {
    QUEUES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the TPM, and gives it commands. Everything that they loaded is unloaded afterwards. It blocks its thread, and no
/// other task of a runtime with several.
///
/// # Errors
/// There is no TPM, or no answer within `limit`, or what the commands say.
pub(super) fn ask<T: Send + 'static>(
    tpm: &Tpm,
    limit: Duration,
    commands: impl FnOnce(&mut Context) -> Result<T, TpmError> + Send + 'static,
) -> Result<T, TpmError> {
    let waiting = Arc::new(());
    let (answer, answered) = mpsc::channel();
    let asked = tpm.clone();
    let run = move || {
        let _ = answer.send(open(&asked).and_then(|mut context| commands(&mut context)));
    };
    submit(&tpm.tcti, Job { run: Box::new(run), wanted: Arc::downgrade(&waiting) })?;
    // Who waits for the TPM must not keep others from running.
    let answer = match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(|| answered.recv_timeout(limit)),
        _ => answered.recv_timeout(limit),
    };
    match answer {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(TpmError::Silent { tcti: tpm.tcti.clone(), limit }),
        Err(RecvTimeoutError::Disconnected) => Err(TpmError::Lost { tcti: tpm.tcti.clone() }),
    }
}

fn submit(tcti: &str, job: Job) -> Result<(), TpmError> {
    let mut queues = queues();
    if let Some(queue) = queues.get_mut(tcti) {
        queue.retain(|job| job.wanted.strong_count() > 0);
        queue.push_back(job);
        return Ok(());
    }
    let name = tcti.to_owned();
    thread::Builder::new().name("tpm".to_owned()).spawn(move || work(&name)).map_err(TpmError::Thread)?;
    queues.insert(tcti.to_owned(), VecDeque::from([job]));
    Ok(())
}

fn work(tcti: &str) {
    loop {
        let job = {
            let mut queues = queues();
            match queues.get_mut(tcti).and_then(VecDeque::pop_front) {
                Some(job) => job,
                None => {
                    queues.remove(tcti);
                    return;
                }
            }
        };
        if job.wanted.strong_count() > 0 {
            // Whoever waits is told by the closed channel.
            let _ = catch_unwind(AssertUnwindSafe(job.run));
        }
    }
}

fn open(tpm: &Tpm) -> Result<Context, TpmError> {
    if let Some(path) = tpm.tcti.strip_prefix("device:") {
        // The library does not say what is wrong with it.
        access(path, AccessFlags::R_OK | AccessFlags::W_OK)
            .map_err(|errno| TpmError::Device { path: path.into(), source: errno.into() })?;
    }
    let unreachable = |source| TpmError::Unreachable { tcti: tpm.tcti.clone(), source };
    let mut context = TctiNameConf::from_str(&tpm.tcti).and_then(Context::new).map_err(unreachable)?;
    keep_tpms_from_children();
    if let Some(file) = &tpm.password_file {
        let password = password::read(file)?;
        context.tr_set_auth(ObjectHandle::Owner, password).map_err(TpmError::refuses("take the owner's password"))?;
    }
    Ok(context)
}
