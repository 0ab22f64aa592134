//! The text of a proxy: `http://[user:password@]host:port`, `socks5://…`, `https://…` where that can be, or `direct`. No complaint
//! repeats any of it, for there may be a password in whatever was meant to be one.

use super::host::{Login, Proxy, Scheme};
use super::values::{Complaint, Endpoint, endpoint};

const SCHEMES: [Scheme; 2] = [Scheme::Http, Scheme::Socks5];
const WEB_SCHEMES: [Scheme; 3] = [Scheme::Http, Scheme::Https, Scheme::Socks5];
/// Longest user and password that SOCKS5 carries, each (RFC 1929 section 2).
const LONGEST: usize = 255;

/// `None` is no proxy: `"direct"`.
pub(super) fn proxy(text: &str) -> Result<Option<Proxy>, Complaint> {
    one_of(&SCHEMES, text)
}

/// The same for a kind that is reached as servers of the web are: TLS to the proxy is known there too.
pub(super) fn web_proxy(text: &str) -> Result<Option<Proxy>, Complaint> {
    one_of(&WEB_SCHEMES, text)
}

fn one_of(schemes: &[Scheme], text: &str) -> Result<Option<Proxy>, Complaint> {
    if text == "direct" {
        return Ok(None);
    }
    let (scheme, rest) = scheme(schemes, text)?;
    let write = format!("write \"{}://proxy.example.net:{}\"", scheme.as_str(), usual_port(scheme));
    let wrong = |what: &str| Complaint::new(what).help(&write);
    // A password in which somebody forgot to write %40 is still not taken for a host.
    let (login, place) = match rest.rsplit_once('@') {
        Some((login, place)) => (Some(self::login(scheme, login)?), place),
        None => (None, rest),
    };
    let place = place.strip_suffix('/').unwrap_or(place);
    if place.contains(['/', '?', '#']) {
        return Err(wrong("has a path, and a proxy is only a host and a port"));
    }
    match endpoint(place) {
        Ok(Endpoint::Tcp(host, Some(port))) => Ok(Some(Proxy { scheme, host, port, login })),
        Ok(Endpoint::Tcp(_, None)) => Err(wrong("names no port")),
        Ok(Endpoint::Vsock { .. }) | Err(_) => Err(wrong("has no HOST:PORT that can be used")),
    }
}

fn usual_port(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Http | Scheme::Https => 3128,
        Scheme::Socks5 => 1080,
    }
}

fn scheme<'a>(schemes: &[Scheme], text: &'a str) -> Result<(Scheme, &'a str), Complaint> {
    let given = text.split_once("://");
    let known =
        schemes.iter().find_map(|scheme| Some((*scheme, given.filter(|(word, _)| *word == scheme.as_str())?.1)));
    known.ok_or_else(|| {
        let words = schemes.iter().map(|scheme| format!("{}://", scheme.as_str())).collect::<Vec<_>>();
        let complaint = Complaint::new(&format!("does not start with {}, and is not \"direct\"", words.join(" or ")));
        match given.map(|(word, _)| word) {
            Some("socks5h") => complaint.help("write socks5://; names are always looked up by the proxy"),
            Some("https") => complaint.help("a proxy is spoken to in the clear, and TLS goes through it to the router"),
            _ => complaint,
        }
    })
}

/// `user:password` or `user`, percent-encoded (RFC 3986 section 3.2.1).
fn login(scheme: Scheme, text: &str) -> Result<Login, Complaint> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let login = Login { user: decoded(user)?, password: decoded(password)? };
    let complaint = match scheme {
        _ if login.user.is_empty() => "names no user before the @",
        Scheme::Http | Scheme::Https if login.user.contains(&b':') => {
            "has a colon in the user's name, and HTTP cannot carry one there"
        }
        Scheme::Http | Scheme::Https if login.user.iter().chain(&login.password).any(u8::is_ascii_control) => {
            "has a control character in the user's name or the password, and HTTP cannot carry one"
        }
        Scheme::Socks5 if login.user.len() > LONGEST || login.password.len() > LONGEST => {
            "has a user's name or a password of more than 255 bytes, and SOCKS5 cannot carry one"
        }
        Scheme::Socks5 if login.password.is_empty() => "has no password after the user's name, and SOCKS5 needs both",
        _ => return Ok(login),
    };
    Err(Complaint::new(complaint))
}

fn decoded(text: &str) -> Result<Vec<u8>, Complaint> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let complaint = Complaint::new("has a space or a letter beyond ASCII in the user's name or the password");
        return Err(complaint.help("write each of its bytes as % and two hexadecimal digits: %20 for a space"));
    }
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let byte = part.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let Some(byte) = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
            let complaint = Complaint::new("has a % without two hexadecimal digits after it");
            return Err(complaint.help("write %25 for a percent sign"));
        };
        bytes.push(byte);
        bytes.extend(part.bytes().skip(2));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Proxy {
        proxy(text).unwrap().unwrap()
    }

    #[test]
    fn proxies_are_read_with_their_logins() {
        assert_eq!(proxy("direct"), Ok(None));
        for (text, shown, login) in [
            ("http://proxy.example.net:3128", "http://proxy.example.net:3128", None),
            ("http://proxy.example.net:3128/", "http://proxy.example.net:3128", None),
            ("socks5://[2001:DB8::5]:1080", "socks5://[2001:db8::5]:1080", None),
            ("socks5://me:s3cret@10.0.0.1:1080", "socks5://10.0.0.1:1080", Some(("me", "s3cret"))),
            ("http://me@p:1", "http://p:1", Some(("me", ""))),
            ("http://me:@p:1", "http://p:1", Some(("me", ""))),
            ("http://m%40e:a%3Ab%2fc%25:d@p:1", "http://p:1", Some(("m@e", "a:b/c%:d"))),
            ("http://me:p@ss@p:1", "http://p:1", Some(("me", "p@ss"))),
            ("socks5://m%3Ae:x@p:1", "socks5://p:1", Some(("m:e", "x"))),
        ] {
            let proxy = read(text);
            assert_eq!(proxy.to_string(), shown, "{text}");
            let expected =
                login.map(|(user, password): (&str, &str)| Login { user: user.into(), password: password.into() });
            assert_eq!(proxy.login, expected, "{text}");
        }
    }

    #[test]
    fn tls_to_a_proxy_is_for_those_who_know_how() {
        let proxy = web_proxy("https://me:s3cret@proxy.example.net:3129").unwrap().unwrap();
        assert_eq!((proxy.scheme, proxy.to_string().as_str()), (Scheme::Https, "https://proxy.example.net:3129"));
        assert_eq!(web_proxy("http://p:1").unwrap().unwrap().scheme, Scheme::Http);
        assert!(web_proxy("https://m%3ae:x@p:1").is_err() && web_proxy("ftp://p:1").is_err());
    }

    #[test]
    fn what_is_no_proxy_is_told_why_without_repeating_the_password() {
        for (text, why) in [
            ("", "does not start with"),
            ("me:s3cret@p:1", "does not start with"),
            ("https://me:s3cret@p:1", "does not start with"),
            ("http://", "HOST:PORT"),
            ("http://me:s3cret", "HOST:PORT"),
            ("http://me:s3cret@p", "no port"),
            ("http://me:s3cret@p:0", "HOST:PORT"),
            ("http://me:s3cret@vsock:2:3", "HOST:PORT"),
            ("http://me:s3cret@p:1/path", "path"),
            ("http://:s3cret@p:1", "no user"),
            ("http://m%3ae:s3cret@p:1", "colon"),
            ("http://me:s3cret%0a@p:1", "control"),
            ("http://me:s3cret%@p:1", "hexadecimal"),
            ("http://me:s3cret%+1@p:1", "hexadecimal"),
            ("http://me:s3 cret@p:1", "space"),
            ("socks5://me@p:1", "SOCKS5 needs both"),
        ] {
            let complaint = proxy(text).unwrap_err();
            let said = format!("{} {}", complaint.text, complaint.help.unwrap_or_default());
            assert!(said.contains(why) && !said.contains("s3"), "{text}: {said}");
        }
        assert!(proxy(&format!("socks5://me:{}@p:1", "x".repeat(256))).is_err());
        assert!(proxy(&format!("socks5://me:{}@p:1", "x".repeat(255))).is_ok());
    }

    proptest! {
        #[test]
        fn every_login_survives_percent_encoding(user in "[^:\\x00-\\x1f\\x7f]{1,40}", password in "[^\\x00-\\x1f\\x7f]{0,40}") {
            let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
            let login = read(&format!("http://{}:{}@p:1", encode(&user), encode(&password))).login.unwrap();
            prop_assert_eq!((login.user, login.password), (user.into_bytes(), password.into_bytes()));
        }

        #[test]
        fn no_text_makes_it_panic(text in "(http|socks5)?(://)?.{0,60}") {
            let _ = proxy(&text);
        }
    }
}
