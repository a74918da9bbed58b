//! Typed LLM usage: what `domain` derives from a provider's usage object becomes attributes.
//!
//! They point at the numbers that were sent, under names that no client's attribute can have.

use domain::{
    llm_usage::{self, Member},
    wire::record::Attribute,
};

use crate::{accept::Reject, batch::Strings, collect::Found, scan::Leaf};

/// The derived attributes of an event, none for one without a usage object. Pointers are numbers of
/// `strings`, places are in `text`, as those of `found` are.
pub fn derive(found: &Found, strings: &mut Strings, text: &[u8]) -> Result<Vec<Attribute>, Reject> {
    if !found.attributes.iter().any(|attribute| strings.is_usage(attribute.pointer)) {
        return Ok(Vec::new());
    }
    let Some(provider) = provider(found, strings, text) else { return Ok(Vec::new()) };
    let of_usage: Vec<&Attribute> =
        found.attributes.iter().filter(|attribute| strings.is_usage(attribute.pointer)).collect();
    let members: Vec<Member<'_>> = of_usage
        .iter()
        .map(|attribute| Member {
            pointer: strings.get(attribute.pointer),
            kind: attribute.kind,
            text: bytes(attribute, text),
        })
        .collect();
    let terms = llm_usage::derive(&provider, &members).map_err(|fault| {
        Reject::new(
            "usage_invalid",
            format!("`usage` of {provider} cannot be read: {fault}"),
            "send the provider's usage object as it came, or the counts by class",
        )
    })?;
    let derived = terms.iter().filter_map(|term| {
        let pointer = strings.intern(term.field.pointer(term.less));
        of_usage.get(term.member).map(|attribute| Attribute { pointer, ..**attribute })
    });
    Ok(derived.collect())
}

/// The provider that the data names.
fn provider(found: &Found, strings: &Strings, text: &[u8]) -> Option<String> {
    let named =
        found.attributes.iter().find(|attribute| strings.get(attribute.pointer) == "/provider")?;
    llm_usage::provider(named.kind, bytes(named, text))
}

fn bytes<'a>(attribute: &Attribute, text: &'a [u8]) -> &'a [u8] {
    let place = |place: u32| usize::try_from(place).unwrap_or(usize::MAX);
    let (offset, length) = (place(attribute.offset), place(attribute.length));
    Leaf { kind: attribute.kind, offset, length }.bytes(text)
}
