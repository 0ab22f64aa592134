//! Ends the session of a client as soon as it is not one any more: its address is revoked, or the enrolment by which it was
//! let in is gone. The kernel tells of changes in `endpoints_dir`; a key that is replaced ends nothing.

use super::Hub;
use super::quiet::{Quiet, and_more};
use crate::sys::inotify::Notices;
use crate::transport::trust::{ENDPOINT, REVOKED};
use nix::sys::inotify::AddWatchFlags;
use std::ffi::OsStr;
use std::io;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Where the kernel cannot tell, this often everybody is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Ends what is to be ended, for ever.
pub async fn watch(hub: Arc<Hub>, directory: PathBuf) {
    let lines = Quiet::default();
    loop {
        if let Err(error) = listen(&hub, &directory).await
            && let Some(more) = lines.allows()
        {
            // There may be no directory as long as nobody is enrolled.
            let level = if error.kind() == io::ErrorKind::NotFound { log::Level::Debug } else { log::Level::Warn };
            log::log!(
                level,
                "{} is not watched ({error}): it is looked at every second{}",
                directory.display(),
                and_more(more)
            );
        }
        judge_everybody(&hub);
        tokio::time::sleep(LOOK).await;
    }
}

/// Until the kernel has no more to tell: the directory is gone, or another one has its name.
async fn listen(hub: &Hub, directory: &Path) -> io::Result<()> {
    let notices = Notices::new()?;
    let mask = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    notices.add(directory, mask)?;
    // What happened before.
    judge_everybody(hub);
    loop {
        notices.readable().await?;
        let taken = notices.take()?;
        for notice in taken {
            if notice.mask.intersects(AddWatchFlags::IN_Q_OVERFLOW) {
                judge_everybody(hub);
            } else if let Some((address, end)) = notice.name.as_deref().and_then(about) {
                if end == REVOKED && notice.mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO) {
                    log::warn!(ENFTUN_ADDRESS:% = address; "{address} is revoked");
                }
                judge(hub, address);
            }
            if notice
                .mask
                .intersects(AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_IGNORED)
            {
                return Ok(());
            }
        }
    }
}

/// The address that a file of this name is about, and what it says of it.
fn about(name: &OsStr) -> Option<(Ipv6Addr, &str)> {
    let (address, end) = name.to_str()?.rsplit_once('.')?;
    let address = address.parse().ok()?;
    [ENDPOINT, REVOKED].contains(&end).then_some((address, end))
}

fn judge_everybody(hub: &Hub) {
    hub.sessions.addresses().into_iter().for_each(|address| judge(hub, address));
}

/// Ends the sessions of this address that do not hold any more.
pub fn judge(hub: &Hub, address: Ipv6Addr) {
    let clients = &hub.trust().clients;
    let (certified, enrolled) = (clients.still_holds(address, false), clients.still_holds(address, true));
    let ended = hub.sessions.end(address, |session| !if session.client.enrolled { enrolled } else { certified });
    for session in ended {
        hub.sessions_revoked.fetch_add(1, Relaxed);
        log::warn!(
            ENFTUN_ADDRESS:% = address, ENFTUN_PEER:% = session.peer;
            "{address} is a client no more: its session from {} is ended", session.peer
        );
    }
}
