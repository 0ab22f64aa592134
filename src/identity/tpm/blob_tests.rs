use super::*;
use proptest::prelude::*;

/// By tpm2_encodeobject of tpm2-tools 5.4.
const SPECIMEN: &str = "-----BEGIN TSS2 PRIVATE KEY-----
MIHwBgZngQUKAQOgAwEBAAIEQAAAAQRYAFYAIwALAAQEcgAAABAAEAADABAAIMZf
/MYV/JerRoWE6nAZGz0CV7BqQklOiDePWPFm2dZvACAf3KPRlBDrq30A+v7cD9Uk
T0gxElh6UAi9SaobjmuJFwSBgAB+ACDDhQZGsxHgHc2NTU1Rsnwi2fA5ojd39eAX
8G7gTNF7ugAQPOyyjYzJE1JnLq79lxBygNgtD+YAWsOmjMa16Z8+/3k0FOQx4RTh
BZSsrq7JUfHMD6itRwTYY5V99HxVTLKZ7tuxhdKkjb7YIbMDEOV+rKtjAEtsFfTu
B7pR
-----END TSS2 PRIVATE KEY-----
";
const EMPTY_AUTH: usize = 15;
const PARENT: usize = 18;
/// The two bytes of `TPMA_OBJECT` in which `noDA` is.
const ATTRIBUTES: usize = 32;

fn der() -> Vec<u8> {
    pem::parse(SPECIMEN).unwrap().into_contents()
}

fn armoured(label: &str, der: &[u8]) -> Vec<u8> {
    let base64 = data_encoding::BASE64.encode(der);
    format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n").into_bytes()
}

/// The specimen with some bytes at other values.
fn changed(changes: &[(usize, &[u8])]) -> Result<Blob, BlobError> {
    let mut der = der();
    for (at, bytes) in changes {
        der[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    Blob::read(&armoured(LABEL, &der))
}

#[test]
fn what_tpm2_tools_write_is_read() {
    let blob = Blob::read(SPECIMEN.as_bytes()).unwrap();
    assert_eq!((blob.parent, blob.public.len(), blob.private.len()), (Parent::Owner, 0x56, 0x7e));
    assert_eq!(&blob.public[..8], [0, 0x23, 0, 0x0b, 0, 4, 4, 0x72]);
    assert_eq!(format!("{blob:?}"), "Blob(under the owner hierarchy)");
    let text_before = [b"some text\n".as_slice(), SPECIMEN.as_bytes()].concat();
    assert!(is_blob(&text_before));
    assert_eq!(Blob::read(&text_before).unwrap(), blob);
}

#[test]
fn what_the_c_client_writes_is_read() {
    // Its TRUE is 1, and its keys count wrong passwords.
    let blob = changed(&[(EMPTY_AUTH, &[1]), (ATTRIBUTES, &[0, 0x72])]).unwrap();
    assert_eq!(blob.public[6..8], [0, 0x72]);
}

#[test]
fn a_password_is_guessed_at_only_where_guesses_do_not_count() {
    assert_eq!(changed(&[(EMPTY_AUTH, &[0]), (ATTRIBUTES, &[0, 0x72])]), Err(BlobError::Guarded));
    assert!(changed(&[(EMPTY_AUTH, &[0])]).is_ok());
}

#[test]
fn a_parent_is_the_owners_or_persistent() {
    let mut none = der();
    none.splice(PARENT - 1..PARENT + 4, [1, 0]);
    none[2] -= 3;
    assert_eq!(Blob::read(&armoured(LABEL, &none)).unwrap().parent, Parent::Owner);
    // As tpm2-tss-engine writes 0x81000001 where `long` has 32 bits.
    assert_eq!(changed(&[(PARENT, &[0x81, 0, 0, 1])]).unwrap().parent, Parent::Handle(0x8100_0001));
    assert_eq!(changed(&[(PARENT, &[0x40, 0, 0, 0x0b])]), Err(BlobError::Parent(0x4000_000b)));
}

#[test]
fn sealed_data_and_keys_to_import_are_told_from_damage() {
    const LAST_OF_OID: usize = 10;
    assert_eq!(changed(&[(LAST_OF_OID, &[5])]), Err(BlobError::NotLoadable));
    assert_eq!(changed(&[(0, &[0x31])]), Err(BlobError::Damaged));
    let cut = der().split_last().unwrap().1.to_vec();
    assert_eq!(Blob::read(&armoured(LABEL, &cut)), Err(BlobError::Damaged));
    assert_eq!(Blob::read(b"-----BEGIN TSS2 PRIVATE KEY-----\n"), Err(BlobError::Damaged));
}

#[test]
fn the_older_form_is_read_too() {
    let blob = Blob::read(SPECIMEN.as_bytes()).unwrap();
    let sized = |part: &[u8]| [&u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat();
    let der = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_oid(&ObjectIdentifier::from_slice(OLD_LOADABLE));
            writer.next().write_tagged(Tag::context(0), |writer| writer.write_bool(true));
            writer.next().write_tagged(Tag::context(1), |writer| writer.write_u32(0x8100_0001));
            writer.next().write_tagged(Tag::context(2), |writer| writer.write_bytes(&sized(&blob.public)));
            writer.next().write_bytes(&sized(&blob.private));
        });
    });
    let file = armoured(OLD_LABEL, &der);
    assert!(is_blob(&file));
    assert_eq!(Blob::read(&file).unwrap(), Blob { parent: Parent::Handle(0x8100_0001), ..blob });
}

fn blobs() -> impl Strategy<Value = Blob> {
    let parent = prop_oneof![Just(Parent::Owner), (0x8100_0000..=0x81ff_ffffu32).prop_map(Parent::Handle)];
    let bytes = || proptest::collection::vec(any::<u8>(), 1..300);
    (parent, bytes(), bytes()).prop_map(|(parent, public, private)| Blob { parent, public, private })
}

proptest! {
    #[test]
    fn what_is_written_is_read(blob in blobs()) {
        let pem = blob.pem();
        prop_assert!(pem.lines().all(|line| line.len() <= 64));
        prop_assert!(is_blob(pem.as_bytes()));
        prop_assert_eq!(Blob::read(pem.as_bytes()).unwrap(), blob);
    }

    #[test]
    fn no_content_makes_it_panic(der in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..240, byte in any::<u8>()) {
        let _ = Blob::read(&armoured(LABEL, &der));
        let _ = changed(&[(at, &[byte])]);
    }
}
