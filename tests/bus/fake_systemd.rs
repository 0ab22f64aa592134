//! PID 1 as `enftunctl follow` asks it: which unit the asker is in, and what is being done to units and to the system.

use crate::common::bus::PrivateBus;
use std::sync::{Arc, Mutex};
use zbus::{Connection, OwnedObjectPath, interface};

const POLICY: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <policy context="default">
    <allow own="org.freedesktop.systemd1"/>
    <allow send_destination="org.freedesktop.systemd1"/>
  </policy>
</busconfig>
"#;
const ROOT: &str = "/org/freedesktop/systemd1";

/// What is going on.
#[derive(Clone, Debug)]
pub struct Now {
    /// The unit that the asker is in.
    pub unit: &'static str,
    /// What is being done to it: `stop`, `restart`, ...
    pub job: Option<&'static str>,
    /// What is being done to enftund.service; that it is not loaded.
    pub daemon_job: Option<&'static str>,
    pub daemon_loaded: bool,
    /// `running`, `stopping`, ...
    pub system: &'static str,
}

impl Now {
    /// Somebody stops the unit that follows `enf0`.
    pub fn stop() -> Self {
        Self {
            unit: "enftun@enf0.service",
            job: Some("stop"),
            daemon_job: None,
            daemon_loaded: true,
            system: "running",
        }
    }
}

/// It leaves the bus with this value.
pub struct FakeSystemd {
    pub now: Arc<Mutex<Now>>,
    _connection: Connection,
}

impl FakeSystemd {
    pub async fn start(bus: &PrivateBus, now: Now) -> Self {
        bus.add_policy("systemd1.conf", POLICY);
        let now = Arc::new(Mutex::new(now));
        let (own, daemon) = (format!("{ROOT}/unit/own"), format!("{ROOT}/unit/daemon"));
        let connection = zbus::connection::Builder::address(bus.address().as_str())
            .serve_at(ROOT, Manager(now.clone()))
            .serve_at(own.as_str(), Unit { now: now.clone(), daemon: false })
            .serve_at(daemon.as_str(), Unit { now: now.clone(), daemon: true })
            .serve_at(format!("{ROOT}/job/1"), Job { now: now.clone(), daemon: false })
            .serve_at(format!("{ROOT}/job/2"), Job { now: now.clone(), daemon: true })
            .name("org.freedesktop.systemd1")
            .build()
            .await
            .unwrap();
        Self { now, _connection: connection }
    }
}

fn path(below: &str) -> OwnedObjectPath {
    OwnedObjectPath::try_from(format!("{ROOT}{below}")).unwrap()
}

struct Manager(Arc<Mutex<Now>>);

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum Error {
    #[zbus(error)]
    ZBus(zbus::Error),
    NoSuchUnit(String),
}

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    #[zbus(name = "GetUnitByPID")]
    fn get_unit_by_pid(&self, pid: u32) -> OwnedObjectPath {
        assert_eq!(pid, 0, "the asker itself");
        path("/unit/own")
    }

    fn get_unit(&self, name: &str) -> Result<OwnedObjectPath, Error> {
        match name {
            "enftund.service" if self.0.lock().unwrap().daemon_loaded => Ok(path("/unit/daemon")),
            other => Err(Error::NoSuchUnit(format!("Unit {other} not loaded."))),
        }
    }

    #[zbus(property)]
    fn system_state(&self) -> &str {
        self.0.lock().unwrap().system
    }
}

struct Unit {
    now: Arc<Mutex<Now>>,
    daemon: bool,
}

#[interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    fn id(&self) -> &str {
        if self.daemon { "enftund.service" } else { self.now.lock().unwrap().unit }
    }

    #[zbus(property)]
    fn job(&self) -> (u32, OwnedObjectPath) {
        let now = self.now.lock().unwrap();
        match (self.daemon, now.job, now.daemon_job) {
            (false, Some(_), _) => (1, path("/job/1")),
            (true, _, Some(_)) => (2, path("/job/2")),
            _ => (0, OwnedObjectPath::try_from("/").unwrap()),
        }
    }
}

struct Job {
    now: Arc<Mutex<Now>>,
    daemon: bool,
}

#[interface(name = "org.freedesktop.systemd1.Job")]
impl Job {
    #[zbus(property)]
    fn job_type(&self) -> String {
        let now = self.now.lock().unwrap();
        if self.daemon { now.daemon_job } else { now.job }.unwrap_or_default().to_owned()
    }
}
