//! What must not be passed on is taken out of a text: user names and passwords in URLs, and private keys.

/// Stands for what was taken out.
const GONE: &str = "***";

/// The text without secrets.
pub fn redacted(text: &str) -> String {
    let mut in_key = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.contains("-----BEGIN") && line.contains("PRIVATE KEY-----") {
            in_key = true;
            lines.push(format!("{GONE} a private key"));
        }
        if !in_key {
            lines.push(line.split(' ').map(word).collect::<Vec<_>>().join(" "));
        }
        in_key &= !(line.contains("-----END") && line.contains("PRIVATE KEY-----"));
    }
    lines.join("\n")
}

/// One word. What stands before its last `@` is a user and a password if there is a `:` or it follows `://`: no URL is too
/// broken for that, and `enftun@enf0.service:` stays.
fn word(word: &str) -> String {
    let Some((before, host)) = word.rsplit_once('@') else { return word.to_owned() };
    match before.split_once("://") {
        Some((scheme, _)) => format!("{scheme}://{GONE}@{host}"),
        None if before.contains(':') => format!("{GONE}@{host}"),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_passwords_are_taken_out_whatever_is_around_them() {
        for (text, wanted) in [
            ("proxy = \"http://user:pa:ss@proxy:3128\"", "proxy = \"http://***@proxy:3128\""),
            ("socks5://user@proxy refused", "socks5://***@proxy refused"),
            ("proxy=\"http://user:p@ss\"w@proxy/\", too", "proxy=\"http://***@proxy/\", too"),
            ("\"user:secret@proxy:3128\" is no URL", "***@proxy:3128\" is no URL"),
            ("https://router.example.net:443/a", "https://router.example.net:443/a"),
            ("systemd[1]: enftun@enf0.service: started", "systemd[1]: enftun@enf0.service: started"),
            ("fd00:8f80::1/128 dev enf0", "fd00:8f80::1/128 dev enf0"),
            ("  two  spaces\n\nstay", "  two  spaces\n\nstay"),
        ] {
            assert_eq!(redacted(text), wanted);
        }
    }

    #[test]
    fn private_keys_are_taken_out() {
        let key = "before\n-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\nafter";
        assert_eq!(redacted(key), "before\n*** a private key\nafter");
        assert_eq!(redacted("a -----BEGIN PRIVATE KEY-----\nMHcC"), "*** a private key", "also one that was cut off");
        let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----";
        assert_eq!(redacted(certificate), certificate);
    }
}
