//! A private key in a file that only the TPM can open: PEM around ASN.1 around what the TPM made. This is the form of
//! tpm2-tss-engine, tpm2-openssl, tpm2-tools and the C client (draft-bottomley-tpm2-keys, section 3.1), and an older one of
//! OpenSSL's TPM engines. Nothing here talks to a TPM.

use yasna::models::ObjectIdentifier;
use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReaderSeq, Tag};

const LABEL: &str = "TSS2 PRIVATE KEY";
const OLD_LABEL: &str = "TSS2 KEY BLOB";
/// `id-loadablekey`.
const LOADABLE: &[u64] = &[2, 23, 133, 10, 1, 3];
const OLD_LOADABLE: &[u64] = &[2, 23, 133, 10, 2];
/// `TPM_RH_OWNER`.
const OWNER: u32 = 0x4000_0001;

/// The storage key that a key was made under, and is loaded under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// The one that is made from the seed of the owner hierarchy, always the same.
    Owner,
    /// One that stays in the TPM under this handle.
    Handle(u32),
}

/// What a file holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Blob {
    /// The key that it is under.
    pub parent: Parent,
    /// `TPMT_PUBLIC`, as the TPM marshals it.
    pub public: Vec<u8>,
    /// What the TPM made of the private part, for itself alone.
    pub private: Vec<u8>,
}

/// Why a file with a TSS2 label holds no key that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// The armour or what is in it.
    #[error("it is damaged: write it again")]
    Damaged,
    /// A key of which the TPM does not know the parent, or sealed data.
    #[error("it is no loadable key (2.23.133.10.1.3): keys to import and sealed data cannot be used")]
    NotLoadable,
    /// Somebody must say a password each time, or prove something.
    #[error(
        "it has a password or a policy of its own, or its file says so: make one without, for nobody is there to type it \
         (tpm2_encodeobject says so of all keys: give them the attribute noda)"
    )]
    Guarded,
    /// A parent in another hierarchy.
    #[error("its parent {0:#x} is neither the owner hierarchy (0x40000001) nor a persistent handle")]
    Parent(u32),
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blob(under {})", self.parent)
    }
}

impl std::fmt::Display for Parent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Owner => f.write_str("the owner hierarchy"),
            Self::Handle(handle) => write!(f, "{handle:#x}"),
        }
    }
}

/// Whether a file is one of these, by its label.
pub fn is_blob(file: &[u8]) -> bool {
    [LABEL, OLD_LABEL].iter().any(|label| {
        let begin = format!("-----BEGIN {label}-----");
        file.windows(begin.len()).any(|part| part == begin.as_bytes())
    })
}

impl Blob {
    /// Reads a file of which [`is_blob`] holds.
    ///
    /// # Errors
    /// There is no key in it that can be used.
    pub fn read(file: &[u8]) -> Result<Self, BlobError> {
        let blocks = pem::parse_many(file).map_err(|_| BlobError::Damaged)?;
        let block = blocks.into_iter().find(|block| [LABEL, OLD_LABEL].contains(&block.tag()));
        let block = block.ok_or(BlobError::Damaged)?;
        Self::from_ber(block.contents())
    }

    /// Reads what is in the armour: `TPMKey`, or its older form.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn from_ber(bytes: &[u8]) -> Result<Self, BlobError> {
        let mut refused = None;
        // Not DER: the C client's TRUE is 1.
        let read = yasna::parse_ber(bytes, |reader| {
            reader.read_sequence(|reader| {
                let kind = reader.next().read_oid()?;
                if kind.components().as_slice() == OLD_LOADABLE {
                    return old_fields(reader);
                }
                if kind.components().as_slice() != LOADABLE {
                    refused = Some(BlobError::NotLoadable);
                    return Err(ASN1Error::new(ASN1ErrorKind::Invalid));
                }
                fields(reader)
            })
        });
        if let Some(refused) = refused {
            return Err(refused);
        }
        let fields = read.map_err(|_| BlobError::Damaged)?;
        let whole = |bytes: &[u8]| sized(bytes).map(<[u8]>::to_vec).ok_or(BlobError::Damaged);
        let (public, private) = (whole(&fields.public)?, whole(&fields.private)?);
        // Programs say that there is a password where there is none. To find out is harmless only if it does not count as a
        // guess, of which the TPM allows few.
        if fields.policies || !(fields.empty || is_free_to_try(&public)) {
            return Err(BlobError::Guarded);
        }
        let parent = match fields.parent {
            0 | OWNER => Parent::Owner,
            handle @ 0x8100_0000..=0x81ff_ffff => Parent::Handle(handle),
            other => return Err(BlobError::Parent(other)),
        };
        Ok(Self { parent, public, private })
    }

    /// As a file.
    pub fn pem(&self) -> String {
        let der = yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_oid(&ObjectIdentifier::from_slice(LOADABLE));
                writer.next().write_tagged(Tag::context(0), |writer| writer.write_bool(true));
                writer.next().write_u32(match self.parent {
                    Parent::Owner => OWNER,
                    Parent::Handle(handle) => handle,
                });
                for part in [&self.public, &self.private] {
                    let length = u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes();
                    writer.next().write_bytes(&[&length, part.as_slice()].concat());
                }
            });
        });
        let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        pem::encode_config(&pem::Pem::new(LABEL, der), lines)
    }
}

/// What stands behind the object identifier.
struct Fields {
    /// The key has a policy.
    policies: bool,
    /// The key has no password.
    empty: bool,
    parent: u32,
    public: Vec<u8>,
    private: Vec<u8>,
}

/// `TPMKey`, without the members that say how to import.
fn fields(reader: &mut BERReaderSeq<'_, '_>) -> ASN1Result<Fields> {
    let tagged = |number| Tag::context(number);
    let empty = reader.read_optional(|reader| reader.read_tagged(tagged(0), |reader| reader.read_bool()))?;
    let mut policies = false;
    for number in [1, 3] {
        let policy = reader.read_optional(|reader| reader.read_tagged(tagged(number), |reader| reader.read_der()))?;
        policies |= policy.is_some();
    }
    for number in [4, 5] {
        // A description, and whether the parent made from the seed is of RSA; the TPM finds out.
        reader.read_optional(|reader| reader.read_tagged(tagged(number), |reader| reader.read_der()))?;
    }
    let parent = handle(reader.next().read_i64()?)?;
    let (public, private) = (reader.next().read_bytes()?, reader.next().read_bytes()?);
    Ok(Fields { policies, empty: empty == Some(true), parent, public, private })
}

fn old_fields(reader: &mut BERReaderSeq<'_, '_>) -> ASN1Result<Fields> {
    let empty = reader.read_optional(|reader| reader.read_tagged(Tag::context(0), |reader| reader.read_bool()))?;
    let parent = reader.read_optional(|reader| reader.read_tagged(Tag::context(1), |reader| reader.read_i64()))?;
    let public = reader.read_optional(|reader| reader.read_tagged(Tag::context(2), |reader| reader.read_bytes()))?;
    let parent = parent.map_or(Ok(OWNER), handle)?;
    let private = reader.next().read_bytes()?;
    Ok(Fields { policies: false, empty: empty == Some(true), parent, public: public.unwrap_or_default(), private })
}

/// Some write handles as signed numbers of 32 bits.
fn handle(number: i64) -> ASN1Result<u32> {
    let unsigned = u32::try_from(number).or_else(|_| i32::try_from(number).map(i32::cast_unsigned));
    unsigned.map_err(|_| ASN1Error::new(ASN1ErrorKind::IntegerOverflow))
}

/// Whether wrong passwords of this key are not counted (`noDA` of `TPMA_OBJECT`, which is the third member of `TPMT_PUBLIC`).
fn is_free_to_try(public: &[u8]) -> bool {
    let attributes = public.get(4..8).and_then(|bytes| bytes.first_chunk::<4>());
    attributes.is_some_and(|bytes| u32::from_be_bytes(*bytes) & (1 << 10) != 0)
}

/// The content of a `TPM2B`: two bytes of length, and as many behind them.
fn sized(bytes: &[u8]) -> Option<&[u8]> {
    let (length, content) = bytes.split_first_chunk::<2>()?;
    (usize::from(u16::from_be_bytes(*length)) == content.len() && !content.is_empty()).then_some(content)
}

#[cfg(test)]
#[path = "blob_tests.rs"]
mod tests;
