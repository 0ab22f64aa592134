//! Which wire the tunnels of the tests speak: what both ends agree on, or with `ENFTUN_TEST_WIRE=v1` the old one.

use enftun::tunnel::enf::wire::ALPN;
use rustls::ClientConfig;
use std::sync::Arc;

/// The tunnels of this run are to speak the ENF wire, version 1.
pub fn is_v1() -> bool {
    match std::env::var("ENFTUN_TEST_WIRE").as_deref() {
        Ok("v1") => true,
        Ok("auto" | "") | Err(_) => false,
        Ok(other) => panic!("ENFTUN_TEST_WIRE is v1 or auto, not {other}"),
    }
}

/// A line for `[remote]` of every tunnel that a test writes.
pub fn remote_line() -> &'static str {
    if is_v1() { "wire = \"v1\"\n" } else { "" }
}

/// What a client that is nothing but a wire says of it in its greeting.
pub fn offering(config: Arc<ClientConfig>) -> Arc<ClientConfig> {
    let mut config = Arc::unwrap_or_clone(config);
    config.alpn_protocols = if is_v1() { Vec::new() } else { vec![ALPN.to_vec()] };
    Arc::new(config)
}
