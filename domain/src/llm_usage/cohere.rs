//! Cohere: what is billed is said apart (`billed_units`) from what was processed (`tokens`), and
//! only the former counts here. Cached tokens have no price of their own.

use super::{Fault, UsageClass, draft::Draft};

pub(super) fn read(draft: &mut Draft<'_>) -> Result<(), Fault> {
    let billed = draft.usage().any(|(_, name, _)| name.starts_with("/billed_units/"));
    let of = if billed { "/billed_units" } else { "/tokens" };
    let member = |name: &str| draft.count(&[&format!("{of}/{name}")]);
    let (input, output) = (member("input_tokens")?, member("output_tokens")?);
    let (images, searches) = (member("images")?, member("search_units")?);
    let others = [images, searches, member("classifications")?];
    if input.is_none() && output.is_none() && others.iter().all(Option::is_none) {
        draft.needed(&["/billed_units/input_tokens", "/tokens/input_tokens"])?;
    }
    match output {
        // Chat says what it wrote; embedding has only what it read.
        Some(_) => {
            draft.class(UsageClass::Input, &[input], &[])?;
            draft.class(UsageClass::Output, &[output], &[])?;
            draft.context(&[input]);
        }
        None => draft.class(UsageClass::Embedding, &[input], &[])?,
    }
    draft.class(UsageClass::Images, &[images], &[])?;
    draft.class(UsageClass::SearchUnits, &[searches], &[])
}
