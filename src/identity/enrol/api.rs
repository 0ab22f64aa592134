//! What is said over the interface, as the C client's enftun-keygen says it: JSON bodies of HTTP/1.1 requests and answers.
//!
//! A request is a `POST` to [`LOGIN`] ([`LoginRequest`], answered by [`LoginAnswer`]) for a token, and then one to
//! [`ENDPOINTS`] ([`EndpointRequest`], [`EndpointAnswer`]) with it in `Authorization: Bearer TOKEN`. Whatever fails is an
//! [`ErrorBody`] under an HTTP status that says the same. Requests are read strictly, so that a router never guesses what is
//! asked of it. Answers are not: the interfaces that are out there leave out members, or have null in them, and add others.

use std::net::Ipv6Addr;

use data_encoding::{HEXUPPER, HEXUPPER_PERMISSIVE};
use ipnet::Ipv6Net;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::Secret;
use crate::identity::{Algorithm, PublicKey};

/// Where a user logs in, below the path of the URL.
pub const LOGIN: &str = "/api/xcr/v2/xauth";
/// Where an address is asked for.
pub const ENDPOINTS: &str = "/api/xiam/v1/endpoints";
/// No body is larger, bytes; those that are meant have a few hundred.
pub const LIMIT: usize = 64 << 10;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginRequest {
    /// The user.
    pub username: String,
    /// The password; it is called so for its use as a one-time password.
    pub token: Secret,
}

/// The answer to a login.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoginAnswer {
    /// One session; the first counts.
    #[serde(default, deserialize_with = "tolerant")]
    pub data: Vec<Session>,
    /// There is always one page.
    #[serde(default, deserialize_with = "tolerant")]
    pub page: Page,
}

/// A login that holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The user.
    #[serde(default, deserialize_with = "tolerant")]
    pub username: Option<String>,
    /// What the request after it carries.
    #[serde(default, deserialize_with = "tolerant")]
    pub token: Option<Secret>,
    /// The interface's own number of the user, or whatever it has.
    #[serde(default)]
    pub user_id: Value,
    /// What the user may do.
    #[serde(default, rename = "type", deserialize_with = "tolerant")]
    pub kind: Option<String>,
    /// The interface's own number of the network, or whatever it has.
    #[serde(default)]
    pub domain_id: Value,
    /// The network in which the user gets addresses.
    #[serde(default, deserialize_with = "tolerant")]
    pub domain_network: Option<Ipv6Net>,
}

/// The part of a list that an answer holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// This one.
    #[serde(default, deserialize_with = "tolerant")]
    pub curr: i64,
    /// The next; -1 if there is none.
    #[serde(default, deserialize_with = "tolerant")]
    pub next: i64,
    /// The one before; -1 if there is none.
    #[serde(default, deserialize_with = "tolerant")]
    pub prev: i64,
}

/// What is asked for, and for which key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRequest {
    /// The key.
    pub ecdsa_credential: Credential,
    /// The address.
    pub address_request: AddressRequest,
}

/// A public key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// `ecdsa_p256`, which is the only one of the C client's world; also `ecdsa_p384` and `ed25519`.
    #[serde(default, rename = "type", deserialize_with = "tolerant")]
    pub kind: String,
    /// An uncompressed point (04…), or the 32 bytes of Ed25519, in hexadecimal digits: upper case, and either is read.
    #[serde(default, deserialize_with = "tolerant")]
    pub key: String,
    /// When the interface took it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "tolerant")]
    pub creation_timestamp: Option<String>,
}

impl Credential {
    /// As the key is written.
    pub fn of(key: &PublicKey) -> Self {
        let kind = kind(key.algorithm()).to_owned();
        Self { kind, key: HEXUPPER.encode(key.bytes()), creation_timestamp: None }
    }

    /// The key that is written; none if it is not one.
    pub fn public_key(&self) -> Option<PublicKey> {
        let algorithm = Algorithm::ALL.into_iter().find(|algorithm| kind(*algorithm) == self.kind)?;
        PublicKey::new(algorithm, &HEXUPPER_PERMISSIVE.decode(self.key.as_bytes()).ok()?)
    }
}

fn kind(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::P256 => "ecdsa_p256",
        Algorithm::P384 => "ecdsa_p384",
        Algorithm::Ed25519 => "ed25519",
    }
}

/// Which address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AddressRequest {
    /// `{"network": "fd00:8f80:1::/64"}`: any in it.
    Network(Ipv6Net),
    /// `{"address": "fd00:8f80:1::1234"}`: this one.
    Address(Ipv6Addr),
}

/// The address, and what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointAnswer {
    /// The address as text: the certificate's common name.
    #[serde(default, deserialize_with = "tolerant")]
    pub address: Option<String>,
    /// The network it is of.
    #[serde(default, deserialize_with = "tolerant")]
    pub network: Option<Ipv6Net>,
    /// When it was given out.
    #[serde(default, deserialize_with = "tolerant")]
    pub creation_timestamp: Option<String>,
    /// When its key was changed last.
    #[serde(default, deserialize_with = "tolerant")]
    pub modification_timestamp: Option<String>,
    /// Its keys.
    #[serde(default, deserialize_with = "tolerant")]
    pub active_credentials: Credentials,
}

/// The keys of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The keys; one.
    #[serde(default, deserialize_with = "tolerant")]
    pub body: Vec<Credential>,
}

/// Why not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The interface's own number for it.
    #[serde(default, deserialize_with = "tolerant")]
    pub xiam_error: Option<i64>,
    /// The HTTP status again.
    #[serde(default, deserialize_with = "tolerant")]
    pub http_error: Option<u16>,
    /// In words.
    #[serde(default, deserialize_with = "tolerant")]
    pub reason: Option<String>,
}

/// A member that is null or of another form counts as left out.
fn tolerant<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::keypair;
    use serde_json::json;

    const POINT: &str = "046B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C2964FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5";

    #[test]
    fn requests_are_those_of_the_c_client() {
        let login = LoginRequest { username: "me".to_owned(), token: Secret::new("pass \"word\"".to_owned()) };
        let wire = json!({"username": "me", "token": "pass \"word\""});
        assert_eq!(serde_json::to_value(&login).unwrap(), wire);
        assert_eq!(serde_json::from_value::<LoginRequest>(wire).unwrap(), login);

        let key = json!({"type": "ecdsa_p256", "key": POINT});
        for (request, wire) in [
            (AddressRequest::Network("fd00:8f80:1::/64".parse().unwrap()), json!({"network": "fd00:8f80:1::/64"})),
            (AddressRequest::Address("fd00:8f80:1::1234".parse().unwrap()), json!({"address": "fd00:8f80:1::1234"})),
        ] {
            let wire = json!({"ecdsa_credential": key, "address_request": wire});
            let read: EndpointRequest = serde_json::from_value(wire.clone()).unwrap();
            assert_eq!(read.address_request, request);
            assert_eq!(serde_json::to_value(&read).unwrap(), wire);
        }
    }

    #[test]
    fn a_request_that_does_not_say_what_it_wants_is_refused() {
        let key = json!({"type": "ecdsa_p256", "key": POINT});
        for wanted in [
            json!({}),
            json!(null),
            json!({"address": null}),
            json!({"address": "fd00::1", "network": "fd00::/64"}),
            json!({"network": "fd00::"}),
        ] {
            let request = json!({"ecdsa_credential": key, "address_request": wanted});
            assert!(serde_json::from_value::<EndpointRequest>(request).is_err(), "{wanted}");
        }
        assert!(serde_json::from_value::<LoginRequest>(json!({"username": "me"})).is_err());
        assert!(serde_json::from_value::<LoginRequest>(json!({"username": "me", "token": null})).is_err());
    }

    #[test]
    fn answers_are_read_as_the_interface_writes_them() {
        let login = r#"{"data":[{"username":"me","token":"eyJ.long","user_id":17,"type":"DOMAIN_ADMIN","domain_id":"4",
            "domain_network":"fd00:8f80:1::/64","new":[]}],"page":{"curr":0,"next":-1,"prev":-1}}"#;
        let answer: LoginAnswer = serde_json::from_str(login).unwrap();
        let [session] = &answer.data[..] else { panic!("{answer:?}") };
        assert_eq!(session.token.as_ref().unwrap().expose(), "eyJ.long");
        assert_eq!(session.domain_network, "fd00:8f80:1::/64".parse().ok());
        assert_eq!((answer.page.curr, answer.page.next), (0, -1));
        assert!(!format!("{answer:?}").contains("eyJ"), "a token is never shown");

        let endpoint = format!(
            r#"{{"address":"fd00:8f80:1::1234","network":"fd00:8f80:1::/64","creation_timestamp":"2026-01-01T00:00:00Z",
            "modification_timestamp":null,"active_credentials":{{"body":[{{"type":"ecdsa_p256","key":"{POINT}",
            "creation_timestamp":"2026-01-01T00:00:00Z"}},{{"type":"daa_lrsw_bn256","group_id":"a","pseudonym":"b"}}]}}}}"#
        );
        let answer: EndpointAnswer = serde_json::from_str(&endpoint).unwrap();
        assert_eq!(answer.address.as_deref(), Some("fd00:8f80:1::1234"));
        let [ours, other] = &answer.active_credentials.body[..] else { panic!("{answer:?}") };
        assert!(ours.public_key().is_some() && other.public_key().is_none());
        let error: ErrorBody =
            serde_json::from_str(r#"{"xiam_error":12,"http_error":403,"reason":"not yours"}"#).unwrap();
        assert_eq!(error, ErrorBody { xiam_error: Some(12), http_error: Some(403), reason: Some("not yours".into()) });
    }

    #[test]
    fn what_answers_leave_out_or_have_null_or_strange_is_nothing() {
        for text in ["{}", r#"{"data":null,"page":null}"#, r#"{"data":"none","page":[]}"#] {
            assert_eq!(serde_json::from_str::<LoginAnswer>(text).unwrap(), LoginAnswer::default(), "{text}");
        }
        let session: Session =
            serde_json::from_str(r#"{"username":null,"token":5,"type":{},"domain_network":"all"}"#).unwrap();
        assert_eq!(session, Session::default());
        for text in ["{}", r#"{"address":null,"active_credentials":null}"#, r#"{"address":17,"network":""}"#] {
            assert_eq!(serde_json::from_str::<EndpointAnswer>(text).unwrap(), EndpointAnswer::default(), "{text}");
        }
        assert_eq!(serde_json::from_str::<ErrorBody>(r#"{"reason":null}"#).unwrap(), ErrorBody::default());
    }

    #[test]
    fn every_kind_of_key_is_the_same_after_a_way_over_the_wire() {
        for algorithm in Algorithm::ALL {
            let key = PublicKey::of(&keypair(algorithm).unwrap()).unwrap();
            let mut credential = Credential::of(&key);
            assert_eq!(credential.public_key().as_ref(), Some(&key), "{algorithm}");
            credential.key.make_ascii_lowercase();
            assert_eq!(credential.public_key(), Some(key));
            credential.key.push('0');
            assert_eq!(credential.public_key(), None);
        }
        let off_the_curve = POINT.replace("F5", "F6");
        let credential = Credential { kind: "ecdsa_p256".into(), key: off_the_curve, creation_timestamp: None };
        assert_eq!(credential.public_key(), None);
    }
}
