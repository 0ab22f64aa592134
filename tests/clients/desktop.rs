//! A desktop for one test: a session bus, and, where a test looks at pixels, an X server with a window manager and
//! xfce4-panel; and the applet in it, as the panel reads and clicks it.

use crate::common::bus::{PrivateBus, has};
use crate::common::{skip, wait_for};
use crate::screen::Screen;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use zbus::{Connection, OwnedVariant, Variant};

/// The applet's name on the session bus.
pub const APPLET: &str = "org.enftun.Applet1";
const ITEM: &str = "/StatusNotifierItem";

const SESSION: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=@DIR@/session</listen>
  <auth>EXTERNAL</auth>
  <servicedir>@DIR@/services</servicedir>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
  </policy>
</busconfig>
"#;

/// One panel at the upper edge, with nothing in it but the notification area at its right end.
const PANEL: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<channel name="xfce4-panel" version="1.0">
  <property name="configver" type="int" value="2"/>
  <property name="panels" type="array">
    <value type="int" value="1"/>
    <property name="panel-1" type="empty">
      <property name="position" type="string" value="p=6;x=0;y=0"/>
      <property name="position-locked" type="bool" value="true"/>
      <property name="length" type="uint" value="100"/>
      <property name="size" type="uint" value="32"/>
      <property name="plugin-ids" type="array">
        <value type="int" value="1"/>
        <value type="int" value="2"/>
      </property>
    </property>
  </property>
  <property name="plugins" type="empty">
    <property name="plugin-1" type="string" value="separator">
      <property name="expand" type="bool" value="true"/>
      <property name="style" type="uint" value="0"/>
    </property>
    <property name="plugin-2" type="string" value="systray"/>
  </property>
</channel>
"#;

/// A process, and all it started; they end with this value.
pub struct Running(Child);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Self(command.process_group(0).stdin(Stdio::null()).spawn().unwrap())
    }

    /// How it ended, if it has.
    pub fn outcome(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }
}

impl Drop for Running {
    /// Asked first, so that an X server takes its socket away.
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        let _ = killpg(group, Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.0.try_wait().is_ok_and(|outcome| outcome.is_none()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// Drops in this order: what needs the bus before the bus.
pub struct Desktop {
    panel: Option<Running>,
    _manager: Option<Running>,
    server: Option<Running>,
    display: String,
    session: Option<Running>,
    directory: tempfile::TempDir,
}

impl Desktop {
    /// Only the session bus; none, said loudly, without dbus-daemon.
    pub fn without_screen(test: &str) -> Option<Self> {
        if !has("dbus-daemon") {
            skip(test, "dbus-daemon is missing");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("enftun-desktop-").tempdir().unwrap();
        let dir = directory.path();
        fs::create_dir(dir.join("services")).unwrap();
        let xfconf = Path::new("/usr/share/dbus-1/services/org.xfce.Xfconf.service");
        if xfconf.exists() {
            fs::copy(xfconf, dir.join("services/org.xfce.Xfconf.service")).unwrap();
        }
        let config = dir.join("session.conf");
        fs::write(&config, SESSION.replace("@DIR@", dir.to_str().unwrap())).unwrap();
        let mut command = Command::new("dbus-daemon");
        command.args(["--nofork", "--nopidfile", "--config-file"]).arg(&config);
        let session = Running::start(in_session(&mut command, dir, "").stderr(Stdio::null()));
        wait_for("the session bus to listen", || UnixStream::connect(dir.join("session")).is_ok());
        Some(Self {
            panel: None,
            _manager: None,
            server: None,
            display: String::new(),
            session: Some(session),
            directory,
        })
    }

    /// All of it, with an empty panel; none, said loudly, where a program is missing.
    pub async fn start(test: &str) -> Option<Self> {
        for program in ["Xvfb", "openbox", "xfce4-panel", "xdotool", "xsetroot"] {
            if !has(program) {
                skip(test, &format!("{program} is missing"));
                return None;
            }
        }
        let mut desktop = Self::without_screen(test)?;
        let dir = desktop.directory.path();
        let channels = dir.join("config/xfce4/xfconf/xfce-perchannel-xml");
        fs::create_dir_all(&channels).unwrap();
        fs::write(channels.join("xfce4-panel.xml"), PANEL).unwrap();
        let mut command = Command::new("Xvfb");
        command.args([
            "-displayfd",
            "1",
            "-screen",
            "0",
            "800x600x24",
            "-nolisten",
            "tcp",
            "-wr",
            "-noreset",
            "-fbdir",
        ]);
        let mut server = Running::start(command.arg(dir).stdout(Stdio::piped()).stderr(Stdio::null()));
        let mut number = String::new();
        BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut number).unwrap();
        assert!(!number.is_empty(), "the X server does not start");
        desktop.display = format!(":{}", number.trim());
        desktop.server = Some(server);
        desktop._manager = Some(Running::start(desktop.command("openbox").stdout(Stdio::null()).stderr(Stdio::null())));
        desktop.start_panel().await;
        Some(desktop)
    }

    /// Starts the panel, and waits until it is drawn.
    pub async fn start_panel(&mut self) {
        let mut command = self.command("xfce4-panel");
        self.panel = Some(Running::start(command.arg("--disable-wm-check").stderr(Stdio::null())));
        let connection = self.connect().await;
        eventually("the panel to be the watcher", async || watcher(&connection).await.is_some()).await;
        // Out of the way, where it stays.
        self.input(&["mousemove", "5", "590"]);
        self.screen().settled(|screen| (screen.pixel(10, 2) != [255; 3]).then_some(())).await;
    }

    pub fn stop_panel(&mut self) {
        self.panel = None;
    }

    /// Ends the session bus under its clients.
    pub fn log_out(&mut self) {
        self.session = None;
    }

    pub fn screen(&self) -> Screen {
        Screen::new(self.directory.path().join("Xvfb_screen0"))
    }

    /// Real input: `xdotool ARGS`.
    pub fn input(&self, args: &[&str]) {
        assert!(self.command("xdotool").args(args).status().unwrap().success());
    }

    /// A colour behind everything.
    pub fn paint(&self, colour: &str) {
        assert!(self.command("xsetroot").args(["-solid", colour]).status().unwrap().success());
    }

    /// A command in this session.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        in_session(&mut command, self.directory.path(), &self.display);
        command
    }

    pub async fn connect(&self) -> Connection {
        let address = format!("unix:path={}/session", self.directory.path().display());
        zbus::connection::Builder::address(address.as_str()).build().await.unwrap()
    }

    /// Starts the applet, with `bus` for the system bus, and waits until it is on the session bus.
    pub async fn applet(&self, bus: &PrivateBus) -> Applet {
        self.run(&mut self.applet_command(bus)).await
    }

    /// The same as uid 65534. Ask `no_other_uid` first.
    pub async fn applet_of_nobody(&self, bus: &PrivateBus) -> Applet {
        fs::set_permissions(self.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = bus.place(env!("CARGO_BIN_EXE_enftun-applet"));
        let mut command = self.command("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program);
        self.run(command.env("DBUS_SYSTEM_BUS_ADDRESS", bus.address())).await
    }

    async fn run(&self, command: &mut Command) -> Applet {
        let process = Running::start(command);
        let connection = self.connect().await;
        let applet = Applet { process, connection };
        eventually("the applet to be on the session bus", async || applet.title().await.is_ok()).await;
        applet
    }

    pub fn applet_command(&self, bus: &PrivateBus) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_enftun-applet"));
        command.env("DBUS_SYSTEM_BUS_ADDRESS", bus.address());
        command
    }
}

fn in_session<'a>(command: &'a mut Command, dir: &Path, display: &str) -> &'a mut Command {
    let session = format!("unix:path={}/session", dir.display());
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", dir).env("XDG_CONFIG_HOME", dir.join("config")).env("XDG_CACHE_HOME", dir.join("cache"));
    command.env("XDG_RUNTIME_DIR", dir).env("XDG_DATA_HOME", dir.join("data")).env("XDG_CURRENT_DESKTOP", "XFCE");
    command.env("DBUS_SESSION_BUS_ADDRESS", session).env("DISPLAY", display);
    command.env("LC_ALL", "C.UTF-8").env("NO_AT_BRIDGE", "1").env("GSETTINGS_BACKEND", "memory")
}

/// What the watcher has registered; none without a watcher.
pub async fn watcher(connection: &Connection) -> Option<Vec<String>> {
    let watcher = ("org.kde.StatusNotifierWatcher", "/StatusNotifierWatcher");
    property(connection, watcher, "org.kde.StatusNotifierWatcher", "RegisteredStatusNotifierItems").await.ok()
}

async fn property<T>(
    connection: &Connection,
    (name, path): (&str, &str),
    interface: &str,
    property: &str,
) -> zbus::Result<T>
where
    T: TryFrom<OwnedVariant, Error: Into<zbus::Error>>,
{
    let properties = Some("org.freedesktop.DBus.Properties");
    let reply = connection.call_method(Some(name), path, properties, "Get", &(interface, property)).await?;
    T::try_from(reply.body().deserialize::<OwnedVariant>()?).map_err(Into::into)
}

/// Waits until `condition` holds. The deadline is generous: it only ends a test that would hang.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "waited 60 s in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The applet as a panel sees it.
pub struct Applet {
    pub process: Running,
    connection: Connection,
}

/// One entry of the menu.
#[derive(Clone, Debug)]
pub struct Line {
    id: i32,
    label: Option<String>,
    enabled: bool,
    below: Vec<Line>,
}

type Node = (i32, HashMap<String, OwnedVariant>, Vec<OwnedVariant>);

impl Applet {
    pub async fn read<T>(&self, name: &str) -> zbus::Result<T>
    where
        T: TryFrom<OwnedVariant, Error: Into<zbus::Error>>,
    {
        property(&self.connection, (APPLET, ITEM), "org.kde.StatusNotifierItem", name).await
    }

    pub async fn title(&self) -> zbus::Result<String> {
        self.read("Title").await
    }

    pub async fn tooltip(&self) -> String {
        type ToolTip = (String, Vec<(i32, i32, Vec<u8>)>, String, String);
        let (_, _, title, text): ToolTip = self.read("ToolTip").await.unwrap();
        format!("{title}\n{text}")
    }

    /// The menu, as a panel asks for it.
    pub async fn menu(&self) -> Vec<Line> {
        let (_, root): (u32, Node) = self.call("GetLayout", &(0i32, -1i32, Vec::<&str>::new())).await;
        line(root).below
    }

    /// The menu as text: a grey entry has a `-` before it, what is below another is indented.
    pub async fn menu_text(&self) -> String {
        let mut text = String::new();
        write_menu(&mut text, &self.menu().await, 0);
        text
    }

    /// Waits until the menu reads so.
    pub async fn shows(&self, expected: &str) {
        let mut last = String::new();
        let deadline = Instant::now() + Duration::from_secs(60);
        while last != expected {
            assert!(Instant::now() < deadline, "waited 60 s in vain for this menu:\n{expected}\nbut it is:\n{last}");
            last = self.menu_text().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A click on an entry, given by the labels on the way to it. As with a panel, a grey one can be clicked, too.
    pub async fn click(&self, way: &[&str]) {
        let mut lines = self.menu().await;
        let mut id = 0;
        for label in way {
            let found = lines.iter().find(|line| line.label.as_deref() == Some(label));
            let line = found.unwrap_or_else(|| panic!("no {label:?} in {lines:?}")).clone();
            (id, lines) = (line.id, line.below);
        }
        self.call::<()>("Event", &(id, "clicked", Variant::from(0i32), 0u32)).await;
    }

    async fn call<R>(&self, method: &str, body: &(impl serde::Serialize + zbus::wire::DynamicType)) -> R
    where
        R: serde::de::DeserializeOwned + zbus::Type,
    {
        let menu: zbus::OwnedObjectPath = self.read("Menu").await.unwrap();
        let interface = Some("com.canonical.dbusmenu");
        let reply = self.connection.call_method(Some(APPLET), menu, interface, method, body).await.unwrap();
        reply.body().deserialize().unwrap()
    }
}

fn line((id, values, below): Node) -> Line {
    let text = |name| values.get(name).map(|value| String::try_from(value.clone()).unwrap());
    assert_eq!(text("type").is_some(), text("label").is_none() && id != 0, "{values:?}");
    let enabled = values.get("enabled").is_none_or(|value| bool::try_from(value.clone()).unwrap());
    let below: Vec<Line> = below.into_iter().map(|node| line(node.try_into().unwrap())).collect();
    assert_eq!(text("children-display").is_some(), !below.is_empty(), "{values:?}");
    Line { id, label: text("label").map(|label| label.replace("__", "_")), enabled, below }
}

fn write_menu(text: &mut String, lines: &[Line], depth: usize) {
    for line in lines {
        let grey = if line.enabled { "" } else { "- " };
        let label = line.label.as_deref().unwrap_or("----");
        writeln!(text, "{:indent$}{grey}{label}", "", indent = depth * 4).unwrap();
        write_menu(text, &line.below, depth + 1);
    }
}
