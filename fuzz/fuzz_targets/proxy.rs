//! The answers of a proxy in arbitrary bytes: no panic, no wait for more than was sent, and never a byte more read than the
//! answer has, for what follows belongs to TLS.
#![no_main]

use enftun::config::{Login, Proxy, Scheme};
use enftun::transport::proxy::ask;
use futures_util::FutureExt;
use libfuzzer_sys::fuzz_target;

/// How many of the bytes were taken, if the proxy says that it has connected.
fn taken(proxy: &Proxy, answer: &[u8]) -> Option<usize> {
    let mut stream = tokio::io::join(answer, Vec::new());
    let result = ask(&mut stream, proxy, "router.example.net", 443).now_or_never().expect("there is no waiting");
    let left = stream.into_inner().0.len();
    if let Err(why) = &result {
        // What the proxy wrote is not repeated: the words are ours, and so is every letter.
        assert!(why.to_string().is_ascii());
    }
    result.ok().map(|()| answer.len() - left)
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, answer)) = data.split_first() else { return };
    let scheme = if kind & 1 == 0 { Scheme::Http } else { Scheme::Socks5 };
    let login = (kind & 2 == 0).then(|| Login { user: b"me".to_vec(), password: b"s3cret".to_vec() });
    let proxy = Proxy { scheme, host: "proxy.example.net".to_owned(), port: 3128, login };
    if let Some(taken_of_all) = taken(&proxy, answer) {
        let (whole, _) = answer.split_at(taken_of_all);
        assert_eq!(taken(&proxy, whole), Some(whole.len()));
        assert_eq!(taken(&proxy, &whole[..whole.len() - 1]), None);
    }
});
