//! Sleep as systemd-logind announces it: passes on to the daemon that the system is about to sleep, and that it is awake again.
//! Without logind there is nothing to pass on. It asks logind for nothing, never starts it, and holds no sleep up.
//!
//! Only logind is believed, that is who has its name on the bus, which the bus gives to root alone: a signal that somebody
//! sends straight to the daemon reaches it past every rule of who may be heard.

use crate::daemon::{Caller, Core, Request};
use crate::error::chain;
use futures_util::StreamExt;
use std::pin::pin;
use zbus::fdo::{DBusProxy, NameOwnerChanged};
use zbus::message::{Message, Type};
use zbus::names::UniqueName;
use zbus::{Connection, MatchRule, MessageStream};

const LOGIND: &str = "org.freedesktop.login1";
const BUS: &str = "org.freedesktop.DBus";

/// Passes on what logind says until the connection or the daemon is gone.
pub(super) async fn follow(connection: Connection, core: Core) {
    if let Err(error) = pass_on(&connection, &core).await {
        log::debug!("sleep is not announced: {}", chain(&error));
    }
}

async fn pass_on(connection: &Connection, core: &Core) -> zbus::Result<()> {
    let mut owners = owners(connection).await?;
    let mut sleeps = sleeps(connection).await?;
    let bus = DBusProxy::new(connection).await?;
    // While the bus is asked, the streams are read on: what is not taken from them holds up the whole connection.
    let mut asked = pin!(bus.get_name_owner(LOGIND.try_into()?));
    let (mut owner, mut known): (Option<UniqueName<'static>>, bool) = (None, false);
    loop {
        tokio::select! {
            // What came first counts first: who speaks, and only then what he says.
            biased;
            message = owners.next() => {
                let Some(message) = message else { return Ok(()) };
                let message = message?;
                if !is_from(&message, BUS) {
                    continue;
                }
                if let Some(changed) = NameOwnerChanged::from_message(message) {
                    owner = changed.args()?.new_owner().as_ref().map(|name| name.to_owned());
                    known = true;
                    log::debug!("{}", if owner.is_some() { "logind is there" } else { "logind is gone" });
                }
            }
            answer = &mut asked, if !known => {
                known = true;
                match answer {
                    Ok(name) => owner = Some(name.into_inner()),
                    Err(error) => log::debug!("there is no logind: {}", chain(&error)),
                }
            }
            message = sleeps.next() => {
                let Some(message) = message else { return Ok(()) };
                let message = message?;
                if !owner.as_ref().is_some_and(|owner| is_from(&message, owner)) {
                    log::debug!("somebody who is not logind announces sleep: {:?}", message.header().sender());
                    continue;
                }
                let Ok(asleep) = message.body().deserialize::<bool>() else { continue };
                let caller = Caller { name: "systemd-logind".to_owned(), uid: None };
                if core.ask(Request::Sleep(asleep), caller).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

fn is_from(message: &Message, name: &str) -> bool {
    message.header().sender().is_some_and(|sender| sender == name)
}

async fn owners(connection: &Connection) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(BUS)
        .path("/org/freedesktop/DBus")
        .interface(BUS)
        .member("NameOwnerChanged")
        .add_arg(LOGIND)
        .build()?;
    MessageStream::for_match_rule(rule, connection, None).await
}

async fn sleeps(connection: &Connection) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(LOGIND)
        .path("/org/freedesktop/login1")
        .interface("org.freedesktop.login1.Manager")
        .member("PrepareForSleep")
        .build()?;
    MessageStream::for_match_rule(rule, connection, None).await
}
