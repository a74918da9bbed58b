//! What a price preview takes in process: the text of an event's data read, rated and named.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use benches::{
    account::{INPUT_METER, MODELS, OUTPUT_METER, lines},
    generator::{Generator, TimeText},
};
use domain::{
    catalog::Catalog,
    preview::{Data, Hypothetical, PreviewLine, preview},
    rating::NoTotals,
};
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Event<'a> {
    r#type: String,
    source: String,
    subject: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    model: String,
    input_tokens: i64,
    output_tokens: i64,
}

/// Previews events one by one by a catalog that has the account's prices in whatever form. Answers how long each
/// took, the shortest first. Those that would be rejected are left out.
pub fn previews(
    generator: &Generator,
    events: u64,
    catalog: &Catalog,
    now_us: i64,
) -> Result<Vec<Duration>> {
    let (mut body, mut clock) = (Vec::new(), TimeText::default());
    generator.write_array(0..events, &mut clock, &mut body);
    let mut took = Vec::new();
    for event in serde_json::from_slice::<Vec<Event<'_>>>(&body)? {
        // By the clock: a thread's processor time is told in ticks of some milliseconds.
        let began = Instant::now();
        let data = Data::read(event.data)?;
        let asked = Hypothetical {
            event_type: &event.r#type,
            source: &event.source,
            team: &event.subject,
            user: None,
            app: None,
            feature: None,
            time_us: now_us,
            data: &data,
        };
        let answer = preview(catalog, &NoTotals, &asked);
        let time = began.elapsed();
        let call: Call = serde_json::from_str(event.data.get())?;
        let (Ok(input), Ok(output)) =
            (u64::try_from(call.input_tokens), u64::try_from(call.output_tokens))
        else {
            continue;
        };
        check(&answer?.1, &call.model, input, output)?;
        took.push(time);
    }
    took.sort_unstable();
    Ok(took)
}

/// Fails where a preview says other than the account.
fn check(found: &[PreviewLine], model: &str, input: u64, output: u64) -> Result<()> {
    let model = MODELS.iter().find(|known| known.name == model).context("a model")?;
    for (meter, wanted) in [INPUT_METER, OUTPUT_METER].into_iter().zip(lines(model, input, output))
    {
        let line = found.iter().find(|line| *line.meter == *meter);
        let line = line.with_context(|| format!("no line of {meter}"))?;
        let charge = line.charge.amount().map(domain::money::Amount::raw);
        let cost = line.cost.as_ref().map(|(amount, _)| amount.raw());
        ensure!(
            (charge, cost) == (Some(wanted.charge), Some(wanted.cost)),
            "a preview is wrong: {line:?}, not {wanted:?}"
        );
    }
    Ok(())
}
