//! OpenAI's usage objects (chat completions, responses, realtime, embeddings, images, audio), and
//! those of providers that follow them in all but a few words.
//!
//! Prompt tokens include cached and audio ones, completion tokens include reasoning and audio.

use super::{
    Fault, UsageClass,
    draft::{Count, Draft, sum, value},
};

/// Who follows OpenAI, and in what not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    OpenAi,
    /// Counts audio beside the prompt.
    Mistral,
    /// Counts reasoning beside the completion, or within it; the total tells.
    Xai,
    /// Names the cached part of the prompt `prompt_cache_hit_tokens`.
    DeepSeek,
    Groq,
}

/// The parts of the prompt or of what was written.
struct Parts {
    whole: Option<Count>,
    audio: Option<Count>,
    image: Option<Count>,
}

pub(super) fn read(draft: &mut Draft<'_>, dialect: Dialect) -> Result<(), Fault> {
    // Transcriptions by the second have no tokens.
    if draft.usage().any(|(_, name, member)| name == "/type" && member.text == b"duration") {
        return Ok(());
    }
    let prompt = Parts {
        whole: Some(draft.needed(&["/prompt_tokens", "/input_tokens"])?),
        audio: prompt_detail(draft, "audio_tokens")?,
        image: images(draft, dialect, prompt_detail)?,
    };
    let written = draft.count(&WRITTEN)?;
    let total = draft.count(&["/total_tokens"])?;
    if written.is_none() {
        draft.check_total(total, value(prompt.whole))?;
        return draft.class(UsageClass::Embedding, &[prompt.whole], &[]);
    }
    let written = Parts {
        whole: written,
        audio: written_detail(draft, "audio_tokens")?,
        image: images(draft, dialect, written_detail)?,
    };
    let reasoning = written_detail(draft, "reasoning_tokens")?;
    let beside = read_prompt(draft, dialect, &prompt, (total, value(written.whole)))?;
    let both = value(prompt.whole).saturating_add(value(written.whole));
    let reasoning_beside = dialect == Dialect::Xai
        && value(reasoning) > 0
        && total.is_some_and(|total| total.value == both.saturating_add(value(reasoning)));
    let inside = if reasoning_beside { None } else { reasoning };
    draft.class(UsageClass::Output, &[written.whole], &[inside, written.audio, written.image])?;
    draft.class(UsageClass::Reasoning, &[reasoning], &[])?;
    draft.class(UsageClass::AudioOutput, &[written.audio], &[])?;
    draft.class(UsageClass::ImageOutput, &[written.image], &[])?;
    let tools = draft.count(&["/num_server_side_tools_used"])?;
    draft.class(UsageClass::ToolCalls, &[tools], &[])?;
    let apart = if reasoning_beside { value(reasoning) } else { 0 };
    draft.check_total(total, both.saturating_add(apart).saturating_add(beside))
}

/// The classes of the prompt; how many tokens stand beside it.
fn read_prompt(
    draft: &mut Draft<'_>,
    dialect: Dialect,
    prompt: &Parts,
    (total, written): (Option<Count>, i64),
) -> Result<i64, Fault> {
    let cached = match dialect {
        Dialect::DeepSeek => draft.count(&["/prompt_cache_hit_tokens", DETAILS_CACHED])?,
        _ => prompt_detail(draft, "cached_tokens")?,
    };
    // A cached part of a modality that is not told apart is cached like the rest.
    let cached_part = |whole: Option<Count>, name| match whole {
        Some(_) => prompt_detail(draft, name),
        None => Ok(None),
    };
    let cached_audio = cached_part(prompt.audio, "cached_tokens_details/audio_tokens")?;
    let cached_image = cached_part(prompt.image, "cached_tokens_details/image_tokens")?;
    if sum(&[cached_audio, cached_image]) > value(cached) {
        return Err(Fault("more cached audio and image tokens than cached tokens".into()));
    }
    let both = value(prompt.whole).saturating_add(written);
    let missing = total.map_or(0, |total| total.value.saturating_sub(both));
    if dialect == Dialect::Mistral && missing > 0 {
        return read_audio_beside(draft, prompt, cached, (total, missing));
    }
    draft.class(
        UsageClass::Input,
        &[prompt.whole, cached_audio, cached_image],
        &[cached, prompt.audio, prompt.image],
    )?;
    draft.class(UsageClass::CacheRead, &[cached], &[])?;
    draft.class(UsageClass::AudioInput, &[prompt.audio], &[cached_audio])?;
    draft.class(UsageClass::ImageInput, &[prompt.image], &[cached_image])?;
    draft.context(&[prompt.whole]);
    Ok(0)
}

/// Mistral's audio, by which the total is more than the rest. Of transcriptions it names the seconds
/// and not the tokens, which are then what is missing.
fn read_audio_beside(
    draft: &mut Draft<'_>,
    prompt: &Parts,
    cached: Option<Count>,
    (total, missing): (Option<Count>, i64),
) -> Result<i64, Fault> {
    draft.class(UsageClass::Input, &[prompt.whole], &[cached])?;
    draft.class(UsageClass::CacheRead, &[cached], &[])?;
    if value(prompt.audio) > 0 {
        draft.class(UsageClass::AudioInput, &[prompt.audio], &[])?;
        draft.context(&[prompt.whole, prompt.audio]);
        return Ok(value(prompt.audio));
    }
    if value(draft.count(&["/prompt_audio_seconds"])?) == 0 {
        return Ok(0);
    }
    let written = draft.count(&WRITTEN)?;
    draft.class(UsageClass::AudioInput, &[total], &[prompt.whole, written])?;
    Ok(missing)
}

/// Names of all that was written.
const WRITTEN: [&str; 2] = ["/completion_tokens", "/output_tokens"];
const DETAILS_CACHED: &str = "/prompt_tokens_details/cached_tokens";

/// Only OpenAI bills images by tokens of their own.
fn images(
    draft: &Draft<'_>,
    dialect: Dialect,
    detail: fn(&Draft<'_>, &str) -> Result<Option<Count>, Fault>,
) -> Result<Option<Count>, Fault> {
    if dialect == Dialect::OpenAi { detail(draft, "image_tokens") } else { Ok(None) }
}

/// A detail of the prompt, under the names of chat completions, responses and realtime.
fn prompt_detail(draft: &Draft<'_>, name: &str) -> Result<Option<Count>, Fault> {
    detail(draft, ["/prompt_tokens_details", "/input_tokens_details", "/input_token_details"], name)
}

/// A detail of what was written.
fn written_detail(draft: &Draft<'_>, name: &str) -> Result<Option<Count>, Fault> {
    let names = ["/completion_tokens_details", "/output_tokens_details", "/output_token_details"];
    detail(draft, names, name)
}

fn detail(draft: &Draft<'_>, objects: [&str; 3], name: &str) -> Result<Option<Count>, Fault> {
    let pointers = objects.map(|object| format!("{object}/{name}"));
    draft.count(&pointers.each_ref().map(String::as_str))
}
