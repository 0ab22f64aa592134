//! What there is to see, as plain values, and the words for it. Pure: made of the daemon's objects as the bus has them.

use std::collections::{BTreeMap, HashMap};
use zbus::OwnedVariant;

/// All properties of one interface.
pub type Properties = HashMap<String, OwnedVariant>;
/// The daemon's objects: path, interface, properties. What `GetManagedObjects` answers.
pub type Objects = HashMap<String, HashMap<String, Properties>>;

pub const ROOT: &str = "/org/enftun/Enftun1";
pub const MANAGER: &str = "org.enftun.Enftun1.Manager";
pub const TUNNEL: &str = "org.enftun.Enftun1.Tunnel";
pub const FORWARDS: &str = "org.enftun.Enftun1.Tunnel.Forwards";

/// Everything that is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Why there is no daemon to be seen, if so.
    pub absent: Option<String>,
    /// `Manager.State`.
    pub state: String,
    /// `Manager.Blocking`.
    pub blocking: bool,
    /// By object path.
    pub tunnels: BTreeMap<String, Tunnel>,
    pub warnings: Vec<Warning>,
    /// What `GetPermissions` says of this user.
    pub permissions: HashMap<String, String>,
    /// The last call that failed, until it is dismissed or another one succeeds.
    pub complaint: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tunnel {
    pub name: String,
    pub state: String,
    /// It shall be connected.
    pub wanted: bool,
    /// The text of `LastError`.
    pub error: String,
    pub remote: String,
    pub addresses: Vec<String>,
    /// Where its services are, a line each, when it has some.
    pub services: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Warning {
    pub severity: String,
    /// The name of the tunnel it is about, if it is about one.
    pub tunnel: String,
    pub text: String,
}

/// The shapes of the icon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Absent,
    Disconnected,
    /// Disconnected, and what belongs in a tunnel is blocked.
    Blocked,
    Connecting,
    Connected,
    Degraded,
    Error,
}

/// What polkit would say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    Yes,
    No,
    /// After a password.
    Asks,
}

impl Default for View {
    fn default() -> Self {
        Self::without("enftund has not been asked yet")
    }
}

impl View {
    /// There is no daemon to be seen.
    pub fn without(why: impl Into<String>) -> Self {
        Self {
            absent: Some(why.into()),
            state: String::new(),
            blocking: false,
            tunnels: BTreeMap::new(),
            warnings: Vec::new(),
            permissions: HashMap::new(),
            complaint: None,
        }
    }

    /// The daemon as its objects show it. What this program does not understand stays empty.
    pub fn of(objects: &Objects, permissions: &HashMap<String, String>) -> Self {
        let none = Properties::new();
        let manager = objects.get(ROOT).and_then(|interfaces| interfaces.get(MANAGER)).unwrap_or(&none);
        let tunnel = |(path, interfaces): (&String, &HashMap<String, Properties>)| {
            Some((path.clone(), Tunnel::of(interfaces.get(TUNNEL)?, interfaces.get(FORWARDS).unwrap_or(&none))))
        };
        Self {
            absent: None,
            state: get(manager, "State"),
            blocking: get(manager, "Blocking"),
            tunnels: objects.iter().filter_map(tunnel).collect(),
            warnings: get::<Vec<Properties>>(manager, "Warnings").iter().map(Warning::of).collect(),
            permissions: permissions.clone(),
            complaint: None,
        }
    }

    pub fn look(&self) -> Look {
        match self.state.as_str() {
            _ if self.absent.is_some() => Look::Absent,
            "connected" => Look::Connected,
            "connecting" => Look::Connecting,
            "degraded" => Look::Degraded,
            "disconnected" if self.blocking => Look::Blocked,
            "disconnected" => Look::Disconnected,
            _ => Look::Error,
        }
    }

    /// May this user do that? What the daemon does not say is worth a try: it decides in any case.
    pub fn may(&self, action: &str) -> Permission {
        match self.permissions.get(&format!("org.enftun.Enftun1.{action}")).map(String::as_str) {
            Some("no") => Permission::No,
            Some(word) if word.starts_with("auth") => Permission::Asks,
            _ => Permission::Yes,
        }
    }

    /// The whole in one line.
    pub fn headline(&self) -> String {
        match &self.absent {
            Some(why) => format!("enftun: {why}"),
            None => format!("enftun: {}", self.state),
        }
    }

    /// What happens to traffic outside the tunnels.
    pub fn traffic(&self) -> &'static str {
        match (&self.absent, self.blocking) {
            (Some(_), _) => "What was blocked stays blocked",
            (None, true) => "Traffic has no way around the tunnels",
            (None, false) => "Nothing is blocked",
        }
    }

    /// A few lines for the tooltip.
    pub fn summary(&self) -> String {
        let tunnels = self.tunnels.values().map(Tunnel::line);
        let warnings = self.warnings.iter().map(Warning::line);
        let lines = std::iter::once(self.traffic().to_owned()).chain(tunnels).chain(warnings);
        lines.chain(self.complaint.clone()).collect::<Vec<_>>().join("\n")
    }
}

impl Tunnel {
    fn of(properties: &Properties, forwards: &Properties) -> Self {
        let services: Vec<(String, String, u32)> = get(forwards, "Services");
        Self {
            name: get(properties, "Name"),
            state: get(properties, "State"),
            wanted: get::<String>(properties, "TargetState") == "connected",
            error: get::<(String, String)>(properties, "LastError").1,
            remote: get(properties, "ActiveRemote"),
            addresses: get(properties, "Addresses"),
            services: services.iter().filter(|service| !service.1.is_empty()).map(place).collect(),
        }
    }

    pub fn line(&self) -> String {
        format!("{}: {}", self.name, self.state)
    }
}

impl Warning {
    fn of(properties: &Properties) -> Self {
        let get = |name| get(properties, name);
        Self { severity: get("severity"), tunnel: get("tunnel"), text: get("text") }
    }

    pub fn line(&self) -> String {
        let parts = [capital(&self.severity), self.tunnel.clone(), self.text.clone()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
    }
}

/// A service with its address and port, or its path.
fn place((name, address, port): &(String, String, u32)) -> String {
    match port {
        0 => format!("{name}: {address}"),
        port if address.contains(':') => format!("{name}: [{address}]:{port}"),
        port => format!("{name}: {address}:{port}"),
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// A property; empty when it is absent or of another type.
fn get<T: Default + TryFrom<OwnedVariant>>(properties: &Properties, name: &str) -> T {
    properties.get(name).and_then(|value| T::try_from(value.clone()).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_without_an_interface_shows_where_its_services_are() {
        let value = |value: zbus::Variant<'static>| OwnedVariant::try_from(value).unwrap();
        let text = |text: &'static str| value(zbus::Variant::from(text));
        let services = [("SSH", "127.0.0.1", 40123_u32), ("DB", "/run/db.sock", 0), ("V6", "::1", 1), ("OLD", "", 0)];
        let forwards = Properties::from([("Services".to_owned(), value(zbus::Variant::from(services.to_vec())))]);
        let tunnel = Properties::from([("Name".to_owned(), text("desk")), ("State".to_owned(), text("connected"))]);
        let interfaces = HashMap::from([(TUNNEL.to_owned(), tunnel), (FORWARDS.to_owned(), forwards)]);
        let objects = Objects::from([("/desk".to_owned(), interfaces)]);
        let view = View::of(&objects, &HashMap::new());
        let desk = &view.tunnels["/desk"];
        assert_eq!(desk.line(), "desk: connected");
        assert_eq!(desk.services, ["SSH: 127.0.0.1:40123", "DB: /run/db.sock", "V6: [::1]:1"]);
    }
}
