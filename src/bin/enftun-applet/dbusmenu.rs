//! The menu on the session bus, as `com.canonical.dbusmenu`: what `menu` builds, in the form that panels read. It turns clicks
//! into [`Act`]s.

use super::menu::{self, Act, Entry, Numbers};
use super::view::View;
use std::collections::HashMap;
use tokio::sync::{mpsc, watch};
use zbus::object_server::SignalEmitter;
use zbus::{Connection, OwnedVariant, Variant, fdo, interface};

/// Where it is.
pub const PATH: &str = "/StatusNotifierItem/Menu";

/// The menu as it is now; numbered anew whenever it may have changed.
pub struct Menu {
    seen: watch::Receiver<View>,
    numbers: Numbers,
    revision: u32,
    clicks: mpsc::UnboundedSender<Act>,
}

type Values = HashMap<String, OwnedVariant>;
/// Number, properties, and the same again of each entry below, as variants.
type Node = (i32, Values, Vec<OwnedVariant>);

impl Menu {
    /// `clicks` gets what clicks ask for.
    pub fn new(seen: watch::Receiver<View>, clicks: mpsc::UnboundedSender<Act>) -> Self {
        Self { seen, numbers: Numbers::default(), revision: 1, clicks }
    }

    fn root(&mut self) -> Entry {
        let children = menu::build(&self.seen.borrow(), &mut self.numbers);
        Entry { id: 0, label: None, act: None, enabled: true, children }
    }

    fn click(&mut self, id: i32, event: &str) {
        let root = self.root();
        // What has become grey since it was shown is not done.
        if let Some(Entry { act: Some(act), enabled: true, .. }) = menu::find(&root.children, id)
            && event == "clicked"
        {
            let _ = self.clicks.send(act.clone());
        }
    }
}

#[interface(name = "com.canonical.dbusmenu")]
impl Menu {
    fn get_layout(&mut self, parent: i32, depth: i32, _names: Vec<String>) -> fdo::Result<(u32, Node)> {
        let root = self.root();
        let entry = if parent == 0 { Some(&root) } else { menu::find(&root.children, parent) };
        let entry = entry.ok_or_else(|| fdo::Error::InvalidArgs(format!("there is no entry {parent}")))?;
        Ok((self.revision, node(entry, depth)?))
    }

    fn get_group_properties(&mut self, ids: Vec<i32>, _names: Vec<String>) -> fdo::Result<Vec<(i32, Values)>> {
        let root = self.root();
        let wanted = ids.iter().filter_map(|id| if *id == 0 { Some(&root) } else { menu::find(&root.children, *id) });
        wanted.map(|entry| Ok((entry.id, values(entry)?))).collect()
    }

    fn get_property(&mut self, id: i32, name: &str) -> fdo::Result<OwnedVariant> {
        let root = self.root();
        let mut all = menu::find(&root.children, id).map(values).transpose()?.unwrap_or_default();
        all.remove(name).ok_or_else(|| fdo::Error::InvalidArgs(format!("entry {id} has no {name}")))
    }

    fn event(&mut self, id: i32, event: &str, _data: OwnedVariant, _time: u32) {
        self.click(id, event);
    }

    fn event_group(&mut self, events: Vec<(i32, String, OwnedVariant, u32)>) -> Vec<i32> {
        for (id, event, ..) in events {
            self.click(id, &event);
        }
        Vec::new()
    }

    /// The layout is always up to date.
    fn about_to_show(&self, _id: i32) -> bool {
        false
    }

    fn about_to_show_group(&self, _ids: Vec<i32>) -> (Vec<i32>, Vec<i32>) {
        (Vec::new(), Vec::new())
    }

    #[zbus(signal)]
    pub async fn layout_updated(emitter: &SignalEmitter<'_>, revision: u32, parent: i32) -> zbus::Result<()>;

    #[zbus(property)]
    fn version(&self) -> u32 {
        3
    }

    #[zbus(property)]
    fn status(&self) -> &'static str {
        "normal"
    }

    #[zbus(property)]
    fn text_direction(&self) -> &'static str {
        "ltr"
    }

    #[zbus(property)]
    fn icon_theme_path(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Tells whoever shows the menu that it is another one.
pub async fn tell(connection: &Connection) -> zbus::Result<()> {
    let menu = connection.object_server().interface::<_, Menu>(PATH).await?;
    let revision = {
        let mut menu = menu.get_mut().await;
        menu.revision += 1;
        menu.revision
    };
    Menu::layout_updated(menu.signal_emitter(), revision, 0).await
}

/// `depth` levels below `entry`; all of them when it is negative.
fn node(entry: &Entry, depth: i32) -> zbus::Result<Node> {
    let below = if depth == 0 { &[][..] } else { &entry.children };
    let children = below.iter().map(|child| Variant::from(node(child, depth - 1)?).try_into());
    Ok((entry.id, values(entry)?, children.collect::<zbus::Result<_>>()?))
}

fn values(entry: &Entry) -> zbus::Result<Values> {
    let mut values: Vec<(&str, Variant<'_>)> = Vec::new();
    match &entry.label {
        // An underscore would mark the letter for the keyboard.
        Some(label) => values.push(("label", label.replace('_', "__").into())),
        None if entry.id != 0 => values.push(("type", "separator".into())),
        None => {}
    }
    if !entry.enabled {
        values.push(("enabled", false.into()));
    }
    if !entry.children.is_empty() {
        values.push(("children-display", "submenu".into()));
    }
    values.into_iter().map(|(name, value)| Ok((name.to_owned(), value.try_into()?))).collect()
}
