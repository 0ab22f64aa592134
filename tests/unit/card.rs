//! `docs/card.md` says what the code does.

use enftun::card::Reason;

#[test]
fn the_page_explains_every_reason_why_a_frame_went_nowhere() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/card.md")).unwrap();
    let words: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |")).collect();
    let words: Vec<&str> = words.into_iter().map(|(word, _)| word).collect();
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(words, reasons);
}
