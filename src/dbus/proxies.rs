//! The methods of the daemon's objects as a caller sees them. Properties are read all at once (see [`super::client`]). Calls that
//! change something let polkit ask for a password.

use zbus::OwnedObjectPath;

#[zbus::proxy(
    interface = "org.enftun.Enftun1.Manager",
    default_service = "org.enftun.Enftun1",
    default_path = "/org/enftun/Enftun1"
)]
pub(super) trait Manager {
    fn get_tunnel(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn get_plan(&self, tunnel: &str) -> zbus::Result<String>;
    fn get_group(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    #[zbus(allow_interactive_auth)]
    fn reload(&self, flags: u32) -> zbus::Result<()>;
    #[zbus(allow_interactive_auth)]
    fn set_lockdown(&self, tunnel: &str, on: bool) -> zbus::Result<()>;
}

#[zbus::proxy(interface = "org.enftun.Enftun1.Tunnel", default_service = "org.enftun.Enftun1")]
pub(super) trait Tunnel {
    #[zbus(allow_interactive_auth)]
    fn connect(&self, flags: u32) -> zbus::Result<()>;
    #[zbus(allow_interactive_auth)]
    fn disconnect(&self, flags: u32) -> zbus::Result<()>;
    #[zbus(allow_interactive_auth)]
    fn reconnect(&self, flags: u32) -> zbus::Result<()>;
}

#[zbus::proxy(interface = "org.enftun.Enftun1.Tunnel.Forwards", default_service = "org.enftun.Enftun1")]
pub(super) trait Forwards {
    #[zbus(allow_interactive_auth)]
    fn rotate_tokens(&self, file: zbus::Fd<'_>) -> zbus::Result<()>;
}

#[zbus::proxy(interface = "org.enftun.Enftun1.TrustedGroup", default_service = "org.enftun.Enftun1")]
pub(super) trait TrustedGroup {
    #[zbus(allow_interactive_auth)]
    fn add_interface(&self, interface: &str) -> zbus::Result<()>;
    #[zbus(allow_interactive_auth)]
    fn remove_interface(&self, interface: &str) -> zbus::Result<()>;
}
