//! What an LLM call used, in classes that do not overlap, from the provider's own usage object.
//!
//! Providers differ on whether prompt tokens include cached ones and completion tokens include
//! reasoning. [`derive`] knows each provider's rules: it says of which numbers of the object each
//! class is the sum (`input` = `prompt_tokens` − `cached_tokens`), so that a class needs no number
//! of its own and always shows where it comes from. The classes of an event never overlap, and
//! together they are what the provider bills. An object that contradicts itself is a [`Fault`].
//! What is counted by the names of the classes themselves, the neutral record, needs no rules.

use std::fmt;

use crate::{event::unescape, money, wire::record::AttributeKind};

mod anthropic;
mod cohere;
mod draft;
mod google;
mod neutral;
mod openai;

use draft::Draft;

/// Largest count of one member: far beyond any request, and sums of it stay exact.
pub const COUNT_MAX: i64 = 1_000_000_000_000;
/// Prompts of more tokens than one of these may be priced higher, by `usage.context`. The
/// boundaries of the providers' price lists: 32K, 128K, 200K, 256K and 272K tokens.
pub const CONTEXT_BOUNDARIES: [u32; 5] = [32_000, 128_000, 200_000, 256_000, 272_000];

/// A class of usage. Classes that count tokens are disjoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum UsageClass {
    /// Prompt tokens that are in no other class: text, and images where they cost the same.
    Input,
    /// Tokens written that are in no other class.
    Output,
    /// Prompt tokens read from a cache, of any modality.
    CacheRead,
    /// Prompt tokens written to a cache for its usual time (Anthropic: 5 minutes).
    CacheWrite,
    /// Prompt tokens written to a cache for an hour.
    CacheWriteHour,
    /// Tokens of thinking that are billed but not shown.
    Reasoning,
    /// Prompt tokens that are audio and did not come from a cache.
    AudioInput,
    /// Tokens written as audio.
    AudioOutput,
    /// Prompt tokens that are images, where the provider bills them apart.
    ImageInput,
    /// Tokens written as images.
    ImageOutput,
    /// Tokens that were embedded.
    Embedding,
    /// Tools that the provider itself ran, such as web searches; calls, not tokens.
    ToolCalls,
    /// Images made or read, by their number.
    Images,
    /// Searches that a reranker bills.
    SearchUnits,
}

impl UsageClass {
    /// All classes.
    pub const ALL: [UsageClass; 14] = [
        UsageClass::Input,
        UsageClass::Output,
        UsageClass::CacheRead,
        UsageClass::CacheWrite,
        UsageClass::CacheWriteHour,
        UsageClass::Reasoning,
        UsageClass::AudioInput,
        UsageClass::AudioOutput,
        UsageClass::ImageInput,
        UsageClass::ImageOutput,
        UsageClass::Embedding,
        UsageClass::ToolCalls,
        UsageClass::Images,
        UsageClass::SearchUnits,
    ];

    /// Its name, as in `usage.cache_read`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.pointer(false).strip_prefix(PREFIX).unwrap_or_default()
    }

    /// The class of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<UsageClass> {
        UsageClass::ALL.into_iter().find(|class| class.name() == name)
    }

    /// Under which other class a price list has this one where it names no price of its own:
    /// providers bill reasoning, and images of models that write images, as output, and list an
    /// embedding model's only price as input.
    #[must_use]
    pub fn listed_as(self) -> Option<UsageClass> {
        match self {
            UsageClass::Reasoning | UsageClass::ImageOutput => Some(UsageClass::Output),
            UsageClass::Embedding => Some(UsageClass::Input),
            _ => None,
        }
    }

    /// Whether it is a part of the prompt, whose length may change the price of a call.
    #[must_use]
    pub fn is_prompt(self) -> bool {
        matches!(
            self,
            UsageClass::Input
                | UsageClass::CacheRead
                | UsageClass::CacheWrite
                | UsageClass::CacheWriteHour
                | UsageClass::AudioInput
                | UsageClass::ImageInput
        )
    }

    /// Whether it counts tokens, and not things.
    #[must_use]
    pub fn is_tokens(self) -> bool {
        !matches!(self, UsageClass::ToolCalls | UsageClass::Images | UsageClass::SearchUnits)
    }

    fn pointer(self, less: bool) -> &'static str {
        let (more, fewer) = match self {
            UsageClass::Input => ("usage.input", "usage.input-"),
            UsageClass::Output => ("usage.output", "usage.output-"),
            UsageClass::CacheRead => ("usage.cache_read", "usage.cache_read-"),
            UsageClass::CacheWrite => ("usage.cache_write", "usage.cache_write-"),
            UsageClass::CacheWriteHour => ("usage.cache_write_1h", "usage.cache_write_1h-"),
            UsageClass::Reasoning => ("usage.reasoning", "usage.reasoning-"),
            UsageClass::AudioInput => ("usage.audio_input", "usage.audio_input-"),
            UsageClass::AudioOutput => ("usage.audio_output", "usage.audio_output-"),
            UsageClass::ImageInput => ("usage.image_input", "usage.image_input-"),
            UsageClass::ImageOutput => ("usage.image_output", "usage.image_output-"),
            UsageClass::Embedding => ("usage.embedding", "usage.embedding-"),
            UsageClass::ToolCalls => ("usage.tool_calls", "usage.tool_calls-"),
            UsageClass::Images => ("usage.images", "usage.images-"),
            UsageClass::SearchUnits => ("usage.search_units", "usage.search_units-"),
        };
        if less { fewer } else { more }
    }
}

/// What a meter can name of derived usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UsageField {
    /// How much of a class.
    Class(UsageClass),
    /// The largest of [`CONTEXT_BOUNDARIES`] that the whole prompt (cached tokens too) exceeds;
    /// absent for shorter prompts.
    Context,
}

/// Before the names of derived attributes. A JSON pointer begins with `/` or is empty, so no
/// client can send one of these.
pub const PREFIX: &str = "usage.";

impl UsageField {
    /// The field of a path such as `usage.input`.
    pub fn parse(path: &str) -> Result<UsageField, String> {
        let name = path.strip_prefix(PREFIX).unwrap_or(path);
        if name == "context" {
            return Ok(UsageField::Context);
        }
        UsageClass::from_name(name).map(UsageField::Class).ok_or_else(|| {
            let names: Vec<&str> = UsageClass::ALL.iter().map(|class| class.name()).collect();
            format!("there is no class of usage `{name}`; there are: {}, context", names.join(", "))
        })
    }

    /// The name of its attributes in a record: of numbers that are added, or of those that are
    /// taken off.
    #[must_use]
    pub fn pointer(self, less: bool) -> &'static str {
        match (self, less) {
            (UsageField::Class(class), less) => class.pointer(less),
            (UsageField::Context, false) => "usage.context",
            (UsageField::Context, true) => "usage.context-",
        }
    }

    /// How its sum reads as a value: a class as its number, the context as its boundary.
    #[must_use]
    pub fn text(self, sum: i64) -> Option<String> {
        match self {
            UsageField::Class(_) => Some(sum.to_string()),
            UsageField::Context => context_of(sum).map(|boundary| boundary.to_string()),
        }
    }
}

/// The largest boundary that a prompt of so many tokens exceeds.
fn context_of(prompt: i64) -> Option<u32> {
    CONTEXT_BOUNDARIES.into_iter().rev().find(|boundary| prompt > i64::from(*boundary))
}

/// A scalar of an event's `data`, by its JSON pointer.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// JSON pointer below `data`, such as `/usage/prompt_tokens`.
    pub pointer: &'a str,
    /// What it is.
    pub kind: AttributeKind,
    /// Its text, a string's without quotes.
    pub text: &'a [u8],
}

/// One number that a field is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// The field.
    pub field: UsageField,
    /// Whether the number is taken off rather than added.
    pub less: bool,
    /// Which of the members it is.
    pub member: usize,
}

/// Why a usage object cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(pub String);

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The provider that the member `/provider` of `data` names, if it is text.
#[must_use]
pub fn provider(kind: AttributeKind, text: &[u8]) -> Option<String> {
    match kind {
        AttributeKind::Text => Some(String::from_utf8_lossy(text).into_owned()),
        AttributeKind::EscapedText => Some(unescape(text)),
        _ => None,
    }
}

/// Whether [`derive`] wants to see a member: those of `usage`, and the number of images.
#[must_use]
pub fn concerns(pointer: &str) -> bool {
    pointer.starts_with("/usage/") || pointer == IMAGES
}

/// The number of images of a call, which providers leave to whoever asked for them.
const IMAGES: &str = "/images/count";

/// The classes of a provider's usage object, as sums of its members. The object of an unknown
/// provider has some only where it is the neutral record.
///
/// `members` holds at least what [`concerns`] says, each pointer once.
pub fn derive(provider: &str, members: &[Member<'_>]) -> Result<Vec<Term>, Fault> {
    let provider = Provider::of(provider);
    let mut draft = Draft::new(members);
    match provider {
        // Images may be counted where no tokens are.
        Some(_) if draft.usage().next().is_none() => {}
        _ if neutral::is_neutral(&draft, provider.is_some()) => neutral::read(&mut draft)?,
        Some(Provider::OpenAi(dialect)) => openai::read(&mut draft, dialect)?,
        Some(Provider::Anthropic) => anthropic::read(&mut draft)?,
        Some(Provider::Google) => google::read(&mut draft)?,
        Some(Provider::Cohere) => cohere::read(&mut draft)?,
        None => return Ok(Vec::new()),
    }
    let images = UsageField::Class(UsageClass::Images);
    if !draft.terms.iter().any(|term| term.field == images) {
        let count = draft.at(IMAGES)?;
        draft.class(UsageClass::Images, &[count], &[])?;
    }
    Ok(draft.terms)
}

/// Whose rules a usage object follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Provider {
    OpenAi(openai::Dialect),
    Anthropic,
    Google,
    Cohere,
}

impl Provider {
    /// The provider of a name as clients write it, capitals and all.
    fn of(name: &str) -> Option<Provider> {
        use openai::Dialect;
        Some(match name.to_ascii_lowercase().as_str() {
            "openai" | "azure" | "azure_openai" => Provider::OpenAi(Dialect::OpenAi),
            "mistral" | "mistralai" => Provider::OpenAi(Dialect::Mistral),
            "xai" => Provider::OpenAi(Dialect::Xai),
            "deepseek" => Provider::OpenAi(Dialect::DeepSeek),
            "groq" => Provider::OpenAi(Dialect::Groq),
            "anthropic" => Provider::Anthropic,
            "google" | "gemini" | "vertex_ai" | "vertexai" => Provider::Google,
            "cohere" => Provider::Cohere,
            _ => return None,
        })
    }
}

/// A count as JSON writes it: a whole number from 0 to [`COUNT_MAX`], `5.0` and `5e0` among them.
#[must_use]
pub fn count(text: &[u8]) -> Option<i64> {
    let limit = i128::from(COUNT_MAX).checked_add(1)?.checked_mul(money::ONE)?;
    let number = money::parse_scaled(std::str::from_utf8(text).ok()?, limit).ok()?;
    let whole = number.raw.checked_div(money::ONE).filter(|_| !number.rounded)?;
    let is_whole = number.raw >= 0 && whole.checked_mul(money::ONE) == Some(number.raw);
    i64::try_from(whole).ok().filter(|_| is_whole)
}

/// What one call used, by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LlmUsage {
    counts: [i64; UsageClass::ALL.len()],
}

impl LlmUsage {
    /// Adds up the terms that [`derive`] gave for `members`.
    #[must_use]
    pub fn of(members: &[Member<'_>], terms: &[Term]) -> LlmUsage {
        let mut usage = LlmUsage::default();
        for term in terms {
            let UsageField::Class(class) = term.field else { continue };
            let number = members.get(term.member).and_then(|member| count(member.text));
            let number = number.unwrap_or(0);
            if let Some(sum) = usage.counts.get_mut(usize::from(class as u8)) {
                *sum = sum.saturating_add(if term.less { number.saturating_neg() } else { number });
            }
        }
        usage
    }

    /// How much of a class; 0 for none.
    #[must_use]
    pub fn get(&self, class: UsageClass) -> i64 {
        self.counts.get(usize::from(class as u8)).copied().unwrap_or(0)
    }
}
