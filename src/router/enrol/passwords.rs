//! Passwords against their hashes: argon2id, which takes time and memory on purpose.

use crate::config::users::User;
use argon2::password_hash::phc::{Output, PasswordHash, Salt};
use argon2::password_hash::{self, PasswordHasher, PasswordVerifier};
use argon2::{Argon2, Params};
use aws_lc_rs::rand;

/// Bytes of salt (RFC 9106 section 3.1).
const SALT: usize = 16;

/// What stands for a password in the file of users.
pub fn hash(password: &[u8]) -> Result<String, password_hash::Error> {
    Ok(Argon2::default().hash_password_with_salt(password, &random::<SALT>()?)?.to_string())
}

/// Whether this is the password. It takes as long as the hash says, whether it is or not.
pub fn is_right(password: &[u8], hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

/// The hash of no password, which costs as much as those of the users do: who has no such user is as slow to say so.
pub fn nobodys<'a>(mut users: impl Iterator<Item = &'a User>) -> Result<String, password_hash::Error> {
    let like = users.next().and_then(|user| PasswordHash::new(&user.hash).ok());
    let params = like.as_ref().and_then(|hash| Params::try_from(hash).ok()).unwrap_or_default();
    let mut nobodys = Argon2::from(params).hash_password_with_salt(b"", &random::<SALT>()?)?;
    let length = nobodys.hash.as_ref().map_or(Params::DEFAULT_OUTPUT_LEN, Output::len);
    let bytes = random::<{ Output::MAX_LENGTH }>()?;
    nobodys.hash =
        Some(Output::new(bytes.get(..length).unwrap_or(&bytes)).map_err(|_| password_hash::Error::OutputSize)?);
    nobodys.salt = Some(Salt::new(&random::<SALT>()?).map_err(|_| password_hash::Error::SaltInvalid)?);
    Ok(nobodys.to_string())
}

fn random<const N: usize>() -> Result<[u8; N], password_hash::Error> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| password_hash::Error::RngFailure)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::users::{DEFAULT_MAX, parse_users};
    use std::path::Path;

    /// A hash that costs nothing.
    pub const CHEAP: &str = "$argon2id$v=19$m=8,t=1,p=1$";

    #[test]
    fn the_hash_of_a_password_is_one_that_the_file_takes_and_no_other_password_fits_it() {
        let (one, two) = (hash(b"open sesame").unwrap(), hash(b"open sesame").unwrap());
        assert_ne!(one, two, "each has a salt of its own");
        assert!(is_right(b"open sesame", &one) && is_right(b"open sesame", &two));
        assert!(!is_right(b"open sesam", &one) && !is_right(b"", &one) && !is_right(b"open sesame", "no hash"));
        let (users, findings) = parse_users(Path::new("users"), &format!("alice:{one}\n"));
        assert_eq!((users.len(), findings.len()), (1, 0), "{findings:?}");
    }

    #[test]
    fn nobodys_hash_costs_as_much_as_the_first_users_and_fits_no_password() {
        let salted =
            Argon2::from(Params::new(8, 1, 1, Some(24)).unwrap()).hash_password_with_salt(b"x", b"saltsalt").unwrap();
        let user = User { name: "a".into(), hash: salted.to_string(), network: None, once: false, max: DEFAULT_MAX };
        let nobody = nobodys([&user].into_iter()).unwrap();
        assert!(nobody.starts_with(CHEAP), "{nobody}");
        assert_eq!(PasswordHash::new(&nobody).unwrap().hash.unwrap().len(), 24);
        assert!(!is_right(b"", &nobody) && !is_right(b"x", &nobody));
        assert!(nobodys([].into_iter()).unwrap().contains("m=19456,t=2,p=1"));
    }
}
