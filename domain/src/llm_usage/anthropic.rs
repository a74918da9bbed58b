//! Anthropic's messages: input tokens are those that neither read nor wrote a cache.

use super::{
    Fault, UsageClass,
    draft::{Draft, sum, value},
};

pub(super) fn read(draft: &mut Draft<'_>) -> Result<(), Fault> {
    let input = Some(draft.needed(&["/input_tokens"])?);
    let output = Some(draft.needed(&["/output_tokens"])?);
    let cache_read = draft.count(&["/cache_read_input_tokens"])?;
    let written = draft.count(&["/cache_creation_input_tokens"])?;
    let usual = draft.count(&["/cache_creation/ephemeral_5m_input_tokens"])?;
    let hour = draft.count(&["/cache_creation/ephemeral_1h_input_tokens"])?;
    let split = usual.is_some() || hour.is_some();
    if split && written.is_some() && value(written) != sum(&[usual, hour]) {
        return Err(Fault(format!(
            "`usage.cache_creation` comes to {} tokens, and `usage.cache_creation_input_tokens` says {}",
            sum(&[usual, hour]),
            value(written)
        )));
    }
    let usual = if split { usual } else { written };
    let thinking = draft.count(&[
        "/output_tokens_details/thinking_tokens",
        "/output_tokens_details/reasoning_tokens",
    ])?;
    draft.class(UsageClass::Input, &[input], &[])?;
    draft.class(UsageClass::CacheRead, &[cache_read], &[])?;
    draft.class(UsageClass::CacheWrite, &[usual], &[])?;
    draft.class(UsageClass::CacheWriteHour, &[hour], &[])?;
    draft.class(UsageClass::Output, &[output], &[thinking])?;
    draft.class(UsageClass::Reasoning, &[thinking], &[])?;
    draft.context(&[input, cache_read, usual, hour]);
    let mut tools = Vec::new();
    let names = draft.usage().map(|(_, name, _)| name);
    let names: Vec<&str> = names.filter(|name| name.starts_with("/server_tool_use/")).collect();
    for name in names {
        tools.push(draft.count(&[name])?);
    }
    draft.class(UsageClass::ToolCalls, &tools, &[])
}
