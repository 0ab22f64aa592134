//! What the menu holds: pure, from a [`View`] to entries. `tray` puts it on the bus.

use super::view::{Permission, View};

/// What a click on an entry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// A method of the tunnel at this path.
    Call {
        method: Method,
        path: String,
        name: String,
    },
    /// The complaint has been read.
    Dismiss,
    Quit,
}

/// The methods of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Connect,
    Disconnect,
    Reconnect,
}

/// One line of the menu.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The same number always means the same thing, for a click may come when the menu is a new one already.
    pub id: i32,
    /// None for a separator.
    pub label: Option<String>,
    /// None for what can only be read.
    pub act: Option<Act>,
    pub enabled: bool,
    pub children: Vec<Entry>,
}

/// Numbers that are not a tunnel's.
const HEADLINE: i32 = 1;
const TRAFFIC: i32 = 2;
const COMPLAINT: i32 = 3;
const QUIT: i32 = 4;
const SEPARATORS: i32 = 5;
const WARNINGS: i32 = 1000;
const TUNNELS: i32 = 1_000_000;
/// So many numbers belong to each tunnel.
const EACH: i32 = 64;

/// Which tunnel has which numbers, as long as the program runs.
#[derive(Debug, Default)]
pub struct Numbers(Vec<String>);

impl Numbers {
    fn of(&mut self, path: &str) -> i32 {
        let at = self.0.iter().position(|known| known == path).unwrap_or_else(|| {
            self.0.push(path.to_owned());
            self.0.len() - 1
        });
        i32::try_from(at).unwrap_or_default().saturating_mul(EACH).saturating_add(TUNNELS)
    }
}

/// The whole menu.
pub fn build(view: &View, numbers: &mut Numbers) -> Vec<Entry> {
    let mut entries = vec![text(HEADLINE, view.headline()), text(TRAFFIC, view.traffic())];
    if !view.tunnels.is_empty() {
        entries.push(separator(SEPARATORS));
    }
    for (path, tunnel) in &view.tunnels {
        let first = numbers.of(path);
        let children = tunnel_menu(view, path, first);
        entries.push(Entry { children, enabled: true, ..text(first, tunnel.line()) });
    }
    if !view.warnings.is_empty() || view.complaint.is_some() {
        entries.push(separator(SEPARATORS + 1));
    }
    for (warning, id) in view.warnings.iter().zip(WARNINGS..) {
        entries.push(text(id, short(&warning.line())));
    }
    if let Some(complaint) = &view.complaint {
        entries.push(Entry { act: Some(Act::Dismiss), enabled: true, ..text(COMPLAINT, short(complaint)) });
    }
    entries.push(separator(SEPARATORS + 2));
    entries.push(Entry { act: Some(Act::Quit), enabled: true, ..text(QUIT, "Quit this applet") });
    entries
}

fn tunnel_menu(view: &View, path: &str, first: i32) -> Vec<Entry> {
    let Some(tunnel) = view.tunnels.get(path) else { return Vec::new() };
    let mut ids = first + 8..first + EACH;
    let own = tunnel.addresses.iter().chain(&tunnel.services);
    let facts = std::iter::once(&tunnel.remote).chain(own).chain(std::iter::once(&tunnel.error));
    let mut entries: Vec<Entry> =
        facts.filter(|fact| !fact.is_empty()).zip(ids.by_ref()).map(|(fact, id)| text(id, short(fact))).collect();
    if !entries.is_empty() {
        entries.push(separator(first + 4));
    }
    let mut change = |offset, method, action, sensible| {
        let permission = view.may(action);
        let dots = if permission == Permission::Asks { "…" } else { "" };
        let act = Act::Call { method, path: path.to_owned(), name: tunnel.name.clone() };
        entries.push(Entry {
            act: Some(act),
            enabled: sensible && permission != Permission::No,
            ..text(first + offset, format!("{method:?}{dots}"))
        });
    };
    change(1, Method::Connect, "connect", !tunnel.wanted);
    change(2, Method::Disconnect, "disconnect", tunnel.wanted);
    change(3, Method::Reconnect, "connect", tunnel.wanted);
    entries
}

/// Looks an entry up by its number.
pub fn find(entries: &[Entry], id: i32) -> Option<&Entry> {
    entries.iter().find_map(|entry| if entry.id == id { Some(entry) } else { find(&entry.children, id) })
}

fn text(id: i32, label: impl Into<String>) -> Entry {
    Entry { id, label: Some(label.into()), act: None, enabled: false, children: Vec::new() }
}

fn separator(id: i32) -> Entry {
    Entry { id, label: None, act: None, enabled: true, children: Vec::new() }
}

/// Long texts make menus wider than screens.
fn short(text: &str) -> String {
    const LONGEST: usize = 90;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::Tunnel;
    use super::*;

    const PATH: &str = "/org/enftun/Enftun1/tunnel/enf0";

    fn view(wanted: bool, permissions: &[(&str, &str)]) -> View {
        let mut view = View::without("");
        view.absent = None;
        view.tunnels.insert(PATH.to_owned(), Tunnel { name: "enf0".to_owned(), wanted, ..Tunnel::default() });
        let full = |(action, word): &(&str, &str)| (format!("org.enftun.Enftun1.{action}"), (*word).to_owned());
        view.permissions = permissions.iter().map(full).collect();
        view
    }

    /// The labels of what can be clicked on a tunnel.
    fn offered(view: &View) -> Vec<String> {
        let menu = build(view, &mut Numbers::default());
        let below = menu.into_iter().flat_map(|entry| entry.children);
        below.filter(|entry| entry.enabled && entry.act.is_some()).filter_map(|entry| entry.label).collect()
    }

    #[test]
    fn a_tunnel_offers_what_makes_sense() {
        assert_eq!(offered(&view(false, &[])), ["Connect"]);
        assert_eq!(offered(&view(true, &[])), ["Disconnect", "Reconnect"]);
    }

    #[test]
    fn what_is_not_allowed_is_grey_and_what_needs_a_password_says_so() {
        assert_eq!(offered(&view(true, &[("connect", "yes"), ("disconnect", "no")])), ["Reconnect"]);
        assert_eq!(offered(&view(true, &[("connect", "no"), ("disconnect", "auth_admin")])), ["Disconnect…"]);
        assert_eq!(offered(&view(false, &[("connect", "auth")])), ["Connect…"]);
        assert_eq!(offered(&view(false, &[("connect", "no")])), [""; 0]);
        // A word of a later daemon: the daemon decides.
        assert_eq!(offered(&view(false, &[("connect", "perhaps")])), ["Connect"]);
    }

    #[test]
    fn a_number_never_comes_to_mean_something_else() {
        let mut numbers = Numbers::default();
        let id = |menu: &[Entry], label: &str| {
            menu.iter().find(|entry| entry.label.as_deref().is_some_and(|text| text.starts_with(label))).unwrap().id
        };
        let mut view = view(false, &[]);
        let only = id(&build(&view, &mut numbers), "enf0");
        view.tunnels.insert("/a".to_owned(), Tunnel { name: "another".to_owned(), ..Tunnel::default() });
        let menu = build(&view, &mut numbers);
        assert_eq!(id(&menu, "enf0"), only);
        let gone = id(&menu, "another");
        view.tunnels.remove("/a");
        view.tunnels.insert("/b".to_owned(), Tunnel { name: "third".to_owned(), ..Tunnel::default() });
        let menu = build(&view, &mut numbers);
        assert_eq!((id(&menu, "enf0"), find(&menu, gone)), (only, None));
    }
}
