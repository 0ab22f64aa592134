//! Any bytes as a client's certificate: it may name an address, but a router that knows nobody lets nobody in.
#![no_main]

use enftun::identity::{address_of, ipv4_of};
use enftun::transport::trust::{ClientTrust, client_identity};
use libfuzzer_sys::fuzz_target;
use rustls::pki_types::CertificateDer;

fuzz_target!(|data: &[u8]| {
    let certificate = CertificateDer::from(data);
    let _ = (address_of(&certificate), ipv4_of(&certificate));
    let nobody = ClientTrust { anchors: None, endpoints_dir: "/nonexistent".into() };
    assert_eq!(client_identity(&[certificate.clone(), certificate], &nobody), None);
});
