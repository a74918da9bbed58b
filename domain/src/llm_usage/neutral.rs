//! The neutral record: counts under the names of the classes themselves, for providers whose own
//! object is not read, and for tools that have told the classes apart already.

use super::{Fault, UsageClass, draft::Draft};

/// Whether the members of `usage` are those of the neutral record. Of a provider whose own object
/// is read, all of them must be.
pub(super) fn is_neutral(draft: &Draft<'_>, known: bool) -> bool {
    let mut names = draft.usage().map(|(_, below, _)| class_of(below).is_some());
    if known { names.all(|class| class) } else { names.any(|class| class) }
}

pub(super) fn read(draft: &mut Draft<'_>) -> Result<(), Fault> {
    let count = |class: UsageClass| draft.count(&[&format!("/{}", class.name())]);
    let counts = UsageClass::ALL
        .into_iter()
        .map(|class| Ok((class, count(class)?)))
        .collect::<Result<Vec<_>, Fault>>()?;
    for (class, count) in &counts {
        if count.is_some() {
            draft.class(*class, &[*count], &[])?;
        }
    }
    let prompt = counts.iter().filter(|(class, _)| class.is_prompt()).map(|(_, count)| *count);
    draft.context(&prompt.collect::<Vec<_>>());
    Ok(())
}

fn class_of(below: &str) -> Option<UsageClass> {
    UsageClass::from_name(below.strip_prefix('/')?)
}
