//! Asks polkit whether a caller may do something. It asks about the sender of the message, by the name that the bus gave it,
//! never about a process. Which call is which action stands here and in `dbus/org.enftun.Enftun1.policy`.

use super::fault::Fault;
use crate::daemon::Request;
use crate::state::words;
use futures_util::{Stream, StreamExt};
use std::collections::{BTreeMap, HashMap};
use zbus::message::{Flags, Header, Type};
use zbus::proxy::CacheProperties;
use zbus::{Connection, MatchRule, MessageStream, fdo};
use zbus_polkit::policykit1::{
    ActionDescription, AuthorityProxy, CheckAuthorizationFlags, ImplicitAuthorization, Subject,
};

const POLKIT: &str = "org.freedesktop.PolicyKit1";

words! {
    /// What somebody may be allowed to do; the last part of the name of the polkit action.
    Action {
        /// `Connect`, `ConnectWithOptions`, `Reconnect`: strengthens protection.
        Connect => "connect",
        /// `Disconnect`: weakens it.
        Disconnect => "disconnect",
        /// `Reload`.
        Reload => "reload",
        /// `LogControl1`.
        Logging => "logging",
        /// `AddInterface`, `RemoveInterface`: opens a hole.
        Trust => "trust",
        /// `SetLockdown`.
        Lockdown => "lockdown",
        /// `RotateTokens`: whose tokens a tunnel is opened with.
        Credentials => "credentials",
        /// Plans, the firewall's text, what costs the daemon work and changes nothing.
        Inspect => "inspect",
    }
}

impl Action {
    /// The action's full name.
    pub fn id(self) -> String {
        format!("{}.{self}", super::NAME)
    }

    /// Which action a request is, and what a prompt says of it.
    pub fn of(request: &Request) -> (Self, Details<'_>) {
        match request {
            Request::Connect(name) | Request::Reconnect(name) => {
                (Self::Connect, Details::from([("tunnel", name.as_str())]))
            }
            Request::Disconnect(name) => (Self::Disconnect, Details::from([("tunnel", name.as_str())])),
            Request::SetLockdown(name, on) => {
                let switch = if *on { "on" } else { "off" };
                (Self::Lockdown, Details::from([("tunnel", name.as_str()), ("switch", switch)]))
            }
            // A daemon that ends leaves the kernel as it is. No call asks for that, or for sleep; if one did, it would not be for
            // everybody.
            Request::Reload(_) | Request::Sleep(_) | Request::Shutdown => (Self::Reload, Details::new()),
            Request::Trust { group, interface } | Request::Distrust { group, interface } => {
                (Self::Trust, Details::from([("group", group.as_str()), ("interface", interface.as_str())]))
            }
            Request::RotateTokens { tunnel, .. } => (Self::Credentials, Details::from([("tunnel", tunnel.as_str())])),
            Request::SetLogLevel(_) | Request::SetLogTarget(_) => (Self::Logging, Details::new()),
            Request::Verify | Request::Plan(_) => (Self::Inspect, Details::new()),
        }
    }
}

/// What stands in a prompt, by the names that the policy's messages use.
pub type Details<'a> = HashMap<&'a str, &'a str>;

/// Refuses unless polkit lets the sender of `header` do it; the sender is asked for a password when the call allows that.
pub async fn check(
    connection: &Connection,
    header: &Header<'_>,
    action: Action,
    details: &Details<'_>,
) -> Result<(), Fault> {
    let interactive = header.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH);
    let flags =
        if interactive { CheckAuthorizationFlags::ALLOW_USER_INTERACTION } else { CheckAuthorizationFlags::empty() };
    let subject =
        Subject::new_for_message_header(header).map_err(|_| Fault::denied("the bus does not say who you are"))?;
    let asked =
        async { authority(connection).await?.check_authorization(&subject, &action.id(), details, flags, "").await };
    let judged = match asked.await {
        Ok(judged) => judged,
        Err(error) if is_absent(&error) && action == Action::Inspect => return Ok(()),
        Err(error) => return Err(unanswered(error)),
    };
    match (judged.is_authorized, judged.is_challenge) {
        (true, _) => Ok(()),
        (false, true) if !interactive => Err(Fault::interaction_required(format!(
            "{} needs authentication, and the call does not allow to ask for it: allow it, or try again as root",
            action.id()
        ))),
        (false, true) => Err(Fault::denied(format!(
            "{} needs authentication, and nobody could be asked or the prompt was dismissed; try again as root",
            action.id()
        ))),
        (false, false) => Err(Fault::denied(format!("polkit does not let you do {}; try again as root", action.id()))),
    }
}

/// What the sender of `header` may do, by the full names of the actions: `yes`, `no`, `auth` or `auth_admin`.
pub async fn permissions(connection: &Connection, header: &Header<'_>) -> zbus::Result<BTreeMap<String, &'static str>> {
    let authority = authority(connection).await?;
    let Ok(subject) = Subject::new_for_message_header(header) else { return Ok(refused()) };
    let mut permissions = BTreeMap::new();
    let mut asking = Vec::new();
    for action in Action::ALL {
        let flags = CheckAuthorizationFlags::empty();
        let judged = authority.check_authorization(&subject, &action.id(), &Details::new(), flags, "").await?;
        permissions.insert(action.id(), if judged.is_authorized { "yes" } else { "no" });
        if !judged.is_authorized && judged.is_challenge {
            asking.push(action.id());
        }
    }
    if !asking.is_empty() {
        let actions = authority.enumerate_actions("").await?;
        for action in asking {
            let described = actions.iter().find(|found| found.action_id == action);
            let word = if described.is_some_and(own_password_suffices) { "auth" } else { "auth_admin" };
            permissions.insert(action, word);
        }
    }
    Ok(permissions)
}

/// Polkit says that somebody is to be asked, and not who: that is what the policy says. A rule that says otherwise is not seen.
fn own_password_suffices(action: &ActionDescription) -> bool {
    let own = [ImplicitAuthorization::AuthenticationRequired, ImplicitAuthorization::AuthenticationRequiredRetained];
    [&action.implicit_any, &action.implicit_inactive, &action.implicit_active].iter().any(|answer| own.contains(answer))
}

/// What everybody but root and the daemon's user may do where there is no polkit: look.
pub fn refused() -> BTreeMap<String, &'static str> {
    let word = |action: &Action| if *action == Action::Inspect { "yes" } else { "no" };
    Action::ALL.iter().map(|action| (action.id(), word(action))).collect()
}

/// What root and the daemon's user may do.
pub fn granted() -> BTreeMap<String, &'static str> {
    Action::ALL.iter().map(|action| (action.id(), "yes")).collect()
}

/// An item whenever what polkit allows may have changed: it says so, it comes, or it goes.
pub async fn changes(connection: &Connection) -> zbus::Result<impl Stream<Item = ()> + Send + Unpin> {
    let signals = || MatchRule::builder().msg_type(Type::Signal);
    let said = signals().sender(POLKIT).interface("org.freedesktop.PolicyKit1.Authority").member("Changed");
    let bus = "org.freedesktop.DBus";
    let there = signals().sender(bus).interface(bus).member("NameOwnerChanged").add_arg(POLKIT);
    let said = MessageStream::for_match_rule(said.build()?, connection, None).await?;
    let there = MessageStream::for_match_rule(there.build()?, connection, None).await?;
    Ok(futures_util::stream::select(said, there).map(drop))
}

async fn authority(connection: &Connection) -> zbus::Result<AuthorityProxy<'static>> {
    AuthorityProxy::builder(connection).cache_properties(CacheProperties::No).build().await
}

/// There is no polkit on the bus, and none that could be started.
fn is_absent(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::FDO(error) if matches!(**error, fdo::Error::ServiceUnknown(_)))
}

/// Without polkit only root and the daemon's user may change anything.
fn unanswered(error: zbus::Error) -> Fault {
    if is_absent(&error) {
        return Fault::denied("there is no polkit on the bus, and without it only root may do this: try again as root");
    }
    log::warn!("polkit does not answer: {error}");
    Fault::denied(format!("polkit does not answer ({error}), and without it only root may do this"))
}
