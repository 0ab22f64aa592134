//! What PID 1 says of the unit that this process runs in, for whoever must know why it is being ended. It only asks.

use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedObjectPath};

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    #[zbus(name = "GetUnitByPID")]
    fn get_unit_by_pid(&self, pid: u32) -> zbus::Result<OwnedObjectPath>;
    fn get_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    #[zbus(property)]
    fn system_state(&self) -> zbus::Result<String>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait Unit {
    #[zbus(property)]
    fn id(&self) -> zbus::Result<String>;
    /// Its number, 0 for none, and its object.
    #[zbus(property)]
    fn job(&self) -> zbus::Result<(u32, OwnedObjectPath)>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Job", default_service = "org.freedesktop.systemd1")]
trait Job {
    #[zbus(property)]
    fn job_type(&self) -> zbus::Result<String>;
}

/// Why a unit is being ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Somebody stops this unit, and neither the whole system nor the unit that it depends on.
    Stopped,
    /// Nobody asked for it: a stray signal.
    Unasked,
    /// Anything else, in words.
    Otherwise(String),
}

/// Asks PID 1 why `unit`, in which this process runs, is being ended. `on` is the unit that it depends on.
pub async fn why_ended(unit: &str, on: &str) -> zbus::Result<Ending> {
    let connection = Connection::system().await?;
    let manager = ManagerProxy::builder(&connection).cache_properties(CacheProperties::No).build().await?;
    // 0: the sender of the question.
    let own = manager.get_unit_by_pid(0).await?;
    let id = unit_at(&connection, &own).await?.id().await?;
    let otherwise = |why: String| Ok(Ending::Otherwise(why));
    if id != unit {
        return otherwise(format!("this process belongs to {id}"));
    }
    match job(&connection, &own).await?.as_deref() {
        Some("stop") => {}
        Some(job) => return otherwise(format!("{unit} is to {job}")),
        None => return Ok(Ending::Unasked),
    }
    match manager.get_unit(on).await {
        Ok(path) if job(&connection, &path).await?.as_deref() == Some("stop") => {
            return otherwise(format!("{on} is stopped"));
        }
        Ok(_) => {}
        Err(zbus::Error::MethodError(name, ..)) if name == "org.freedesktop.systemd1.NoSuchUnit" => {}
        Err(error) => return Err(error),
    }
    if manager.system_state().await? == "stopping" {
        return otherwise("the system is going down".to_owned());
    }
    Ok(Ending::Stopped)
}

async fn unit_at<'a>(connection: &Connection, path: &'a OwnedObjectPath) -> zbus::Result<UnitProxy<'a>> {
    UnitProxy::builder(connection).path(path).cache_properties(CacheProperties::No).build().await
}

/// What is being done to the unit: `start`, `stop`, `restart`, ...
async fn job(connection: &Connection, unit: &OwnedObjectPath) -> zbus::Result<Option<String>> {
    let (number, path) = unit_at(connection, unit).await?.job().await?;
    if number == 0 {
        return Ok(None);
    }
    let job = JobProxy::builder(connection).path(path).cache_properties(CacheProperties::No).build().await?;
    match job.job_type().await {
        Ok(kind) => Ok(Some(kind)),
        // It is over already.
        Err(zbus::Error::MethodError(..)) => Ok(None),
        Err(zbus::Error::FDO(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
