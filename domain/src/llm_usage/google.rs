//! Google Gemini's `usageMetadata`: the prompt includes cached content and all modalities;
//! thoughts and the results of tools stand beside it. Both spellings of names are read, that of
//! REST and that of the SDKs.

use super::{
    Fault, UsageClass,
    draft::{Count, Draft, sum},
};

pub(super) fn read(draft: &mut Draft<'_>) -> Result<(), Fault> {
    let prompt = Some(draft.needed(&["/promptTokenCount", "/prompt_token_count"])?);
    let cached = draft.count(&["/cachedContentTokenCount", "/cached_content_token_count"])?;
    let tools = draft.count(&["/toolUsePromptTokenCount", "/tool_use_prompt_token_count"])?;
    let thoughts = draft.count(&["/thoughtsTokenCount", "/thoughts_token_count"])?;
    let written = draft.count(&[
        "/candidatesTokenCount",
        "/candidates_token_count",
        "/responseTokenCount",
        "/response_token_count",
    ])?;
    let audio = modality(draft, &["/promptTokensDetails", "/prompt_tokens_details"], "AUDIO")?;
    let cached_audio = modality(draft, &["/cacheTokensDetails", "/cache_tokens_details"], "AUDIO")?;
    let of_written = [
        "/candidatesTokensDetails",
        "/candidates_tokens_details",
        "/responseTokensDetails",
        "/response_tokens_details",
    ];
    let audio_written = modality(draft, &of_written, "AUDIO")?;
    let images_written = modality(draft, &of_written, "IMAGE")?;
    draft.class(UsageClass::Input, &[prompt, tools, cached_audio], &[cached, audio])?;
    draft.class(UsageClass::CacheRead, &[cached], &[])?;
    draft.class(UsageClass::AudioInput, &[audio], &[cached_audio])?;
    draft.class(UsageClass::Output, &[written], &[audio_written, images_written])?;
    draft.class(UsageClass::Reasoning, &[thoughts], &[])?;
    draft.class(UsageClass::AudioOutput, &[audio_written], &[])?;
    draft.class(UsageClass::ImageOutput, &[images_written], &[])?;
    draft.context(&[prompt]);
    let total = draft.count(&["/totalTokenCount", "/total_token_count"])?;
    draft.check_total(total, sum(&[prompt, tools, thoughts, written]))
}

/// The tokens of a modality in a list of `{modality, tokenCount}`.
fn modality(draft: &Draft<'_>, lists: &[&str], modality: &str) -> Result<Option<Count>, Fault> {
    for list in lists {
        let entry = draft.usage().find_map(|(_, name, member)| {
            let entry = name.strip_prefix(list)?.strip_suffix("/modality")?;
            (member.text == modality.as_bytes()).then_some(entry)
        });
        if let Some(entry) = entry {
            let names = [format!("{list}{entry}/tokenCount"), format!("{list}{entry}/token_count")];
            return draft.count(&names.each_ref().map(String::as_str));
        }
    }
    Ok(None)
}
