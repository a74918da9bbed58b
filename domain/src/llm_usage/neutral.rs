//! The neutral record: counts under the names of the classes themselves, for providers whose own
//! object is not read, and for tools that have told the classes apart already.

use super::{
    AttributeKind, Fault, UsageClass,
    draft::{Draft, sum},
};

/// What a record may have besides: what all of its tokens come to.
const TOTAL: &str = "/total";

/// Whether the members of `usage` are those of the neutral record. Of a provider whose own object
/// is read, all numbers must be.
pub(super) fn is_neutral(draft: &Draft<'_>, known: bool) -> bool {
    let has_class = draft.usage().any(|(_, below, _)| class_of(below).is_some());
    has_class && (!known || odd_number(draft).is_none())
}

pub(super) fn read(draft: &mut Draft<'_>) -> Result<(), Fault> {
    check_names(draft)?;
    let count = |class: UsageClass| draft.count_or_text(&format!("/{}", class.name()));
    let counts = UsageClass::ALL
        .into_iter()
        .map(|class| Ok((class, count(class)?)))
        .collect::<Result<Vec<_>, Fault>>()?;
    let of = |is: fn(UsageClass) -> bool| {
        let counts = counts.iter().filter(|(class, _)| is(*class));
        counts.map(|(_, count)| *count).collect::<Vec<_>>()
    };
    draft.check_total(draft.count_or_text(TOTAL)?, sum(&of(UsageClass::is_tokens)))?;
    for (class, count) in &counts {
        if count.is_some() {
            draft.class(*class, &[*count], &[])?;
        }
    }
    draft.context(&of(UsageClass::is_prompt));
    Ok(())
}

/// A number under a name that is no class is one that was misspelt: usage that nobody would bill.
fn check_names(draft: &Draft<'_>) -> Result<(), Fault> {
    let Some(below) = odd_number(draft) else { return Ok(()) };
    let names: Vec<&str> = UsageClass::ALL.iter().map(|class| class.name()).collect();
    let name = below.trim_start_matches('/');
    Err(Fault(format!("`usage.{name}` is no class of usage; there are: {}", names.join(", "))))
}

fn odd_number<'a>(draft: &Draft<'a>) -> Option<&'a str> {
    let odd = draft.usage().find(|(_, below, member)| {
        let is_number = match member.kind {
            AttributeKind::Number => true,
            AttributeKind::Text => super::count(member.text).is_some(),
            _ => false,
        };
        is_number && class_of(below).is_none() && *below != TOTAL
    });
    odd.map(|(_, below, _)| below)
}

fn class_of(below: &str) -> Option<UsageClass> {
    UsageClass::from_name(below.strip_prefix('/')?)
}
