//! Tests of [`super`].

use proptest::prelude::*;

use super::*;

#[test]
fn a_new_key_parses_to_its_id_and_hash() {
    let key = generate().unwrap();
    assert_eq!(key.text.len(), KEY_LENGTH);
    let parsed = parse(&key.text).unwrap();
    assert_eq!(parsed.id, key.id);
    assert!(verify(&parsed.secret_hash, &key.secret_hash));
    assert_ne!(generate().unwrap().text, key.text);
}

/// The format is stored at customers: it never changes.
#[test]
fn the_format_is_fixed() {
    let key = compose("abcDEF012345", "0123456789abcdefghijABCDEFGHIJ01");
    assert_eq!(parse(&key.text).unwrap().id, "abcDEF012345");
    assert_eq!(key.text, "weir_live_abcDEF012345_0123456789abcdefghijABCDEFGHIJ01_6Ryaqj");
}

#[test]
fn the_secret_is_not_printed() {
    let key = generate().unwrap();
    let secret = key.text.split('_').nth(3).unwrap().to_owned();
    let parsed = parse(&key.text).unwrap();
    assert!(!format!("{key:?} {parsed:?}").contains(&secret));
}

#[test]
fn hashes_of_another_length_or_value_differ() {
    let hash = hash("a");
    assert!(verify(&hash, &hash));
    assert!(!verify(&hash, &hash[..31]));
    assert!(!verify(&hash, &[]));
    assert!(!verify(&hash, &super::hash("b")));
}

#[test]
fn random_text_uses_the_whole_alphabet() {
    let text = random_text(20_000).unwrap();
    assert_eq!(text.len(), 20_000);
    for character in ALPHABET.map(char::from) {
        // Expected 323 each; five standard deviations are 90.
        let count = text.chars().filter(|one| *one == character).count();
        assert!((233..=413).contains(&count), "{character}: {count}");
    }
}

proptest! {
    #[test]
    fn one_changed_character_is_refused(place in 0..KEY_LENGTH, by in "[!-~]") {
        let key = compose("abcDEF012345", "0123456789abcdefghijABCDEFGHIJ01").text;
        let changed = format!("{}{by}{}", &key[..place], &key[place + 1..]);
        prop_assert_eq!(parse(&changed).is_ok(), changed == key);
    }

    #[test]
    fn any_text_is_refused_and_nothing_panics(text in ".{0,80}", tail in "[0-9A-Za-z_]{50,56}") {
        prop_assert!(parse(&text).is_err());
        let guess = format!("{PREFIX}{tail}");
        prop_assert!(parse(&guess).is_err());
    }

    #[test]
    fn every_composed_key_parses(id in "[0-9A-Za-z]{12}", secret in "[0-9A-Za-z]{32}") {
        let key = compose(&id, &secret);
        let parsed = parse(&key.text).unwrap();
        prop_assert_eq!(parsed.id, id);
        prop_assert_eq!(parsed.secret_hash, hash(&secret));
    }
}
