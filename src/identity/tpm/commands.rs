//! What is said to the TPM. Each function is one conversation: it opens the TPM, and leaves nothing in it that was not asked for.

use super::At;
use super::blob::{Blob, BlobError, Parent};
use super::error::{TpmError, kind};
use super::key::Curve;
use super::queue::ask;
use crate::config::Tpm;
use std::time::Duration;

use tss_esapi::abstraction::nv;
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::constants::tss::{TPM2_RH_NULL, TPM2_ST_HASHCHECK};
use tss_esapi::handles::{KeyHandle, NvIndexHandle, NvIndexTpmHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::{Hierarchy, NvAuth};
use tss_esapi::structures::{
    Digest, EccPoint, EccScheme, HashScheme, Private, Public, PublicBuilder, PublicEccParametersBuilder, Signature,
    SignatureScheme, SymmetricDefinitionObject,
};
use tss_esapi::traits::{Marshall, UnMarshall};
use tss_esapi::tss2_esys::TPMT_TK_HASHCHECK;
use tss_esapi::{Context, Error};

/// Discrete TPMs take a second for what is done here, and make a key in some ten.
const LIMIT: Duration = Duration::from_secs(20);
const LIMIT_OF_CREATION: Duration = Duration::from_secs(120);
/// A handshake waits for it.
const LIMIT_OF_SIGNATURE: Duration = Duration::from_secs(10);

/// The public part of a key that the TPM has, or takes.
pub(super) fn public(tpm: &Tpm, at: At) -> Result<Public, TpmError> {
    ask(tpm, LIMIT, move |context| with_key(context, &at, |_, _, public| Ok(public)))
}

/// A signature of a digest, as the TPM gives it.
pub(super) fn sign(tpm: &Tpm, at: At, curve: Curve, digest: Vec<u8>) -> Result<Signature, TpmError> {
    ask(tpm, LIMIT_OF_SIGNATURE, move |context| {
        with_key(context, &at, |context, key, _| {
            let refused = TpmError::refuses("sign with this key");
            let digest = Digest::try_from(digest).map_err(&refused)?;
            let scheme = SignatureScheme::EcDsa { hash_scheme: HashScheme::new(curve.hash()) };
            // The digest is not the TPM's own, and the key is not one that would demand it.
            let none =
                TPMT_TK_HASHCHECK { tag: TPM2_ST_HASHCHECK, hierarchy: TPM2_RH_NULL, digest: Default::default() };
            let signed = context.sign(key, digest, scheme, none.try_into().map_err(&refused)?);
            signed.map_err(|source| match kind(&source) {
                Some(Kind::AuthFail | Kind::BadAuth) => BlobError::Guarded.into(),
                _ => refused(source),
            })
        })
    })
}

/// A new key under `tpm.parent`. It cannot be taken to another TPM, and no other than this one has ever seen it.
pub(super) fn create(tpm: &Tpm, curve: Curve) -> Result<(Public, Blob), TpmError> {
    let parent = tpm.parent.map_or(Parent::Owner, Parent::Handle);
    ask(tpm, LIMIT_OF_CREATION, move |context| {
        in_session(context, |context| {
            let refused = TpmError::refuses("make a key");
            let storage = storage(context, parent)?;
            let template = signing(curve).map_err(&refused)?;
            let made = context.create(storage, template, None, None, None, None).map_err(&refused)?;
            let public = made.out_public.marshall().map_err(&refused)?;
            let blob = Blob { parent, public, private: made.out_private.value().to_vec() };
            Ok((made.out_public, blob))
        })
    })
}

/// What is in an NV index: its length is in its public area, and it is read in pieces as large as the TPM gives.
pub(super) fn stored(tpm: &Tpm, index: u32) -> Result<Vec<u8>, TpmError> {
    ask(tpm, LIMIT, move |context| {
        let refused = |source: Error| match kind(&source) {
            Some(Kind::NvUninitialized) => TpmError::Unwritten { index },
            _ => TpmError::refuses("let the NV index be read")(source),
        };
        let handle = NvIndexTpmHandle::new(index).map_err(refused)?;
        let object = context.tr_from_tpm_public(TpmHandle::NvIndex(handle)).map_err(|source| match kind(&source) {
            Some(Kind::Handle | Kind::Value) => TpmError::NoIndex { index },
            _ => refused(source),
        })?;
        let object = NvIndexHandle::from(object);
        let (public, _) = context.nv_read_public(object).map_err(refused)?;
        let attributes = public.attributes();
        // An index is read by its own password, which is empty, before the owner's is asked for.
        let reader = match (attributes.auth_read(), attributes.owner_read()) {
            (true, _) => NvAuth::NvIndex(object),
            (false, true) => NvAuth::Owner,
            (false, false) => return Err(TpmError::Unreadable { index }),
        };
        in_session(context, |context| nv::read_full(context, reader, handle).map_err(refused))
    })
}

/// With a session of the commands' own: a password that one of them needs is proved, and never said.
fn in_session<T>(
    context: &mut Context,
    commands: impl FnOnce(&mut Context) -> Result<T, TpmError>,
) -> Result<T, TpmError> {
    let mut result = None;
    let session = context.execute_with_nullauth_session(|context| {
        result = Some(commands(context));
        Ok::<(), Error>(())
    });
    match result {
        // A session that cannot be ended afterwards goes with the connection.
        Some(result) => result,
        None => Err(TpmError::refuses("begin a session")(session.err().unwrap_or(LOST))),
    }
}

const LOST: Error = Error::WrapperError(tss_esapi::WrapperErrorKind::InternalError);

/// With the key of a file or a handle, loaded, and its public part.
fn with_key<T>(
    context: &mut Context,
    at: &At,
    commands: impl FnOnce(&mut Context, KeyHandle, Public) -> Result<T, TpmError>,
) -> Result<T, TpmError> {
    match at {
        At::Handle(handle) => {
            let key = persistent(context, *handle)?;
            let (public, ..) =
                context.read_public(key).map_err(TpmError::refuses("show the public part of this key"))?;
            in_session(context, |context| commands(context, key, public))
        }
        At::Blob(blob) => in_session(context, |context| {
            let public = Public::unmarshall(&blob.public).map_err(|_| BlobError::Damaged)?;
            let private = Private::try_from(blob.private.clone()).map_err(|_| BlobError::Damaged)?;
            let storage = storage(context, blob.parent)?;
            let key = context.load(storage, private, public.clone()).map_err(|source| match kind(&source) {
                Some(Kind::Integrity | Kind::Binding | Kind::Size | Kind::Type | Kind::Sensitive | Kind::Value) => {
                    TpmError::Foreign { parent: blob.parent, source }
                }
                _ => TpmError::refuses("load this key")(source),
            })?;
            commands(context, key, public)
        }),
    }
}

/// What stays in the TPM under a handle.
fn persistent(context: &mut Context, handle: u32) -> Result<KeyHandle, TpmError> {
    let refused = TpmError::refuses("find this key");
    let persistent = PersistentTpmHandle::new(handle).map_err(&refused)?;
    let object =
        context.tr_from_tpm_public(TpmHandle::Persistent(persistent)).map_err(|source| match kind(&source) {
            Some(Kind::Handle | Kind::Value) => TpmError::NoKey { handle },
            _ => refused(source),
        })?;
    Ok(KeyHandle::from(object))
}

/// The storage key that keys are made and loaded under.
fn storage(context: &mut Context, parent: Parent) -> Result<KeyHandle, TpmError> {
    match parent {
        Parent::Handle(handle) => persistent(context, handle),
        Parent::Owner => {
            let refused = TpmError::refuses("make the storage key of the owner hierarchy");
            let template = storage_template().map_err(&refused)?;
            let made = context.create_primary(Hierarchy::Owner, template, None, None, None, None);
            Ok(made.map_err(refused)?.key_handle)
        }
    }
}

/// The storage key that tpm2-tss-engine, tpm2-openssl and the C client make of the owner's seed: whoever asks for the same
/// gets the same.
fn storage_template() -> Result<Public, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()?;
    let aes = SymmetricDefinitionObject::AES_128_CFB;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(
            PublicEccParametersBuilder::new_restricted_decryption_key(aes, EccCurve::NistP256).build()?,
        )
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

/// A key that signs, made in the TPM (`sensitiveDataOrigin`) and bound to it (`fixedTPM`, `fixedParent`).
fn signing(curve: Curve) -> Result<Public, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_sign_encrypt(true)
        .build()?;
    let scheme = EccScheme::EcDsa(HashScheme::new(curve.hash()));
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(PublicEccParametersBuilder::new_unrestricted_signing_key(scheme, curve.tpm()).build()?)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}
