//! A key file for a TPM: what is read of it is written as it was read.
#![no_main]

use enftun::identity::tpm::Blob;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Blob::read(data);
    if let Ok(blob) = Blob::from_ber(data) {
        assert_eq!(Blob::read(blob.pem().as_bytes()), Ok(blob));
    }
});
