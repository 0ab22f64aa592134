//! The methods of the daemon's objects as a caller sees them. Properties are read all at once (see [`super::client`]).

use zbus::OwnedObjectPath;

#[zbus::proxy(
    interface = "org.enftun.Enftun1.Manager",
    default_service = "org.enftun.Enftun1",
    default_path = "/org/enftun/Enftun1"
)]
pub(super) trait Manager {
    fn get_tunnel(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn reload(&self, flags: u32) -> zbus::Result<()>;
    fn set_lockdown(&self, tunnel: &str, on: bool) -> zbus::Result<()>;
}

#[zbus::proxy(interface = "org.enftun.Enftun1.Tunnel", default_service = "org.enftun.Enftun1")]
pub(super) trait Tunnel {
    fn connect(&self, flags: u32) -> zbus::Result<()>;
    fn disconnect(&self, flags: u32) -> zbus::Result<()>;
    fn reconnect(&self, flags: u32) -> zbus::Result<()>;
}
