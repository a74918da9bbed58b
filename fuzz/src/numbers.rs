//! Numbers, times and places in traces from their text.

use domain::{
    llm_usage::count,
    money::{Amount, Price},
    quantity::Quantity,
    time,
};
use runtime::traces;

/// Amounts and quantities: what is read is written and read back, and a price of one is itself.
pub fn number(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(amount) = Amount::parse_exact(text) {
        assert_eq!(Amount::parse_exact(&amount.to_string()), Ok(amount));
        assert_eq!(Amount::from_raw(amount.raw()), Some(amount));
        let json = serde_json::to_string(&amount).expect("an amount is JSON");
        assert_eq!(serde_json::from_str::<Amount>(&json).ok(), Some(amount));
        let price = Price { amount, per: 1 };
        assert_eq!(price.charge(Quantity::ONE.raw()), Some(amount));
    }
    if let Ok((quantity, rounded)) = Quantity::parse(text) {
        assert_eq!(Quantity::parse(&quantity.to_string()), Ok((quantity, false)), "{rounded}");
    }
    if let Some(count) = count(input) {
        assert_eq!(
            Quantity::parse(text).map(|(count, _)| count.to_string()),
            Ok(count.to_string())
        );
    }
    let _ = serde_json::from_str::<Amount>(text);
}

/// Times: what is read is written and read back.
pub fn time(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for time_us in [time::parse(text), time::parse_naive(text)].into_iter().flatten() {
        assert_eq!(time::parse(&time::format(time_us)), Ok(time_us));
        assert!(time::month_of(time_us) >= 197_001);
        let bucket = time::bucket_of(time_us) * time::BUCKET_US;
        assert!((bucket..bucket + time::BUCKET_US).contains(&time_us));
    }
}

/// The header of a trace: what is read of it stands in it.
pub fn traceparent(input: &[u8]) {
    let Some((place, sampled)) = traces::parse(input) else { return };
    assert!(place.trace != 0 && place.span != 0, "{place:?}");
    let said = format!("-{:032x}-{:016x}-", place.trace, place.span);
    assert_eq!(&input[2..2 + said.len()], said.as_bytes());
    let flags = format!("00{said}{:02x}", u8::from(sampled));
    assert_eq!(traces::parse(flags.as_bytes()), Some((place, sampled)));
}
