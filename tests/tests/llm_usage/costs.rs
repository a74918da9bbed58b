//! What a call costs, class by class, for five providers: each number is worked by hand beside it, at a price
//! per million tokens or for one thing.

use anyhow::{Context as _, Result};
use domain::llm_usage::UsageClass;
use serde_json::{Value, json};

use super::{lines, world::World};

/// Whose prices are used, and when.
const PERIOD: &str = "from=2026-06-01T00:00:00Z&to=2026-07-01T00:00:00Z";

/// A call, and of each class that it used how much that was and what it costs.
struct Call {
    provider: &'static str,
    model: &'static str,
    /// Members of `data` beside provider and model.
    data: Value,
    costs: &'static [(&'static str, &'static str, &'static str)],
}

fn call(
    provider: &'static str,
    model: &'static str,
    data: Value,
    costs: &'static [(&'static str, &'static str, &'static str)],
) -> Call {
    Call { provider, model, data, costs }
}

/// Prices per million tokens that the list which comes with Weir does not have.
fn of_tokens() -> Value {
    json!([
        {"provider": "openai", "model": "gpt-4o-audio-preview",
            "prices": {"input": "2.5", "output": "10", "audio_input": "40", "audio_output": "80"}},
        {"provider": "openai", "model": "gpt-image-1",
            "prices": {"input": "5", "output": "40", "image_input": "10", "image_output": "40"}},
        {"provider": "anthropic", "model": "claude-sonnet-4-5", "prices": {"cache_write_1h": "6"}},
        {"provider": "anthropic", "model": "claude-haiku-4-5", "prices": {"input": "1"},
            "tiers": [{"above": 200_000, "prices": {"input": "2", "cache_read": "0.2", "output": "7.5"}}]},
        {"provider": "google", "model": "gemini-2.5-flash-preview-tts", "prices": {"audio_output": "10"}},
        {"provider": "cohere", "model": "embed-v4.0", "prices": {"input": "0.12"}},
        {"provider": "cohere", "model": "command-a-03-2025", "prices": {"input": "2.5"},
            "tiers": [{"above": 128_000, "prices": {"input": "5", "output": "15"}}]},
        {"provider": "mistral", "model": "mistral-large-latest", "prices": {"cache_read": "0.05"},
            "tiers": [{"above": 128_000, "prices": {"input": "1", "output": "3"}}]},
        {"provider": "mistral", "model": "voxtral-small-latest",
            "prices": {"input": "0.1", "output": "0.3", "audio_input": "4"}},
    ])
}

/// Prices of one image, call or search, which it has none of.
fn of_things() -> Value {
    json!([
        {"provider": "openai", "model": "dall-e-3", "prices": {"images": "0.04"}},
        {"provider": "anthropic", "model": "claude-sonnet-4-5", "prices": {"tool_calls": "0.01"}},
        {"provider": "google", "model": "imagen-4", "prices": {"images": "0.04"}},
        {"provider": "cohere", "model": "embed-v4.0", "prices": {"images": "0.0001"}},
        {"provider": "cohere", "model": "rerank-v3.5", "prices": {"search_units": "0.002"}},
        {"provider": "mistral", "model": "mistral-medium-2505", "prices": {"images": "0.1"}},
    ])
}

/// Input and output of batch calls, which no price list tells apart: half of the list's prices.
const BATCH: [(&str, &str, &str, &str); 5] = [
    ("openai", "gpt-4.1-mini", "0.2", "0.8"),
    ("anthropic", "claude-opus-4-5", "2.5", "12.5"),
    ("google", "gemini-2.5-flash-lite", "0.05", "0.2"),
    ("cohere", "command-r-08-2024", "0.075", "0.3"),
    ("mistral", "mistral-small-latest", "0.075", "0.3"),
];

/// A meter of each class, the list that comes with Weir, what is ours beside it, and rows of batch calls.
async fn prices(world: &World) -> Result<()> {
    let dimensions = json!({"provider": "$.provider", "model": "$.model", "context": "usage.context",
        "tier": ["$.usage.service_tier", "$.service_tier"]});
    let meters: Vec<Value> = UsageClass::ALL
        .into_iter()
        .map(|class| {
            json!({"key": class.name(), "event_types": ["llm.call"], "aggregation": "sum",
                "value": format!("usage.{}", class.name()), "dimensions": dimensions})
        })
        .collect();
    let catalog = json!({"meters": meters, "cards": []});
    world.put("/v1/catalog", catalog).await?.expect(200)?;
    let imports = "/v1/providers/pricing/imports";
    world.post(imports, json!({"builtin": true})).await?.expect(201)?;
    for (per, models) in [(1_000_000, of_tokens()), (1, of_things())] {
        let list = json!({"source": "ours", "date": "2026-07-02", "currency": "USD", "per": per, "models": models});
        world.post(imports, json!({"list": list, "partial": true})).await?.expect(201)?;
    }
    let card = json!({"card": "costs", "default": true});
    world.post("/v1/providers/pricing/cost-card", card).await?.expect(200)?;
    let card = world.get("/v1/cost-cards/costs").await?.expect(200)?;
    let mut rates = card["versions"][0]["rates"].as_array().context("rates")?.clone();
    for (provider, model, input, output) in BATCH {
        for (meter, price) in [("input", input), ("output", output)] {
            let dimensions = json!({"provider": provider, "model": model, "tier": "batch"});
            rates.push(
                json!({"meter": meter, "dimensions": dimensions, "price": price, "per": 1_000_000}),
            );
        }
    }
    let version = json!({"effective_from": "2026-01-01T00:00:00Z", "rates": rates});
    world.post("/v1/cost-cards/costs/versions", version).await?.expect(201)?;
    Ok(())
}

fn openai() -> Vec<Call> {
    vec![
        // The list: input 2, cached 0.5, output 8.
        call(
            "openai",
            "gpt-4.1",
            json!({"usage": {"prompt_tokens": 10_000, "completion_tokens": 1_000, "total_tokens": 11_000,
                "prompt_tokens_details": {"cached_tokens": 4_000}}}),
            &[
                ("input", "6000", "0.012"),      // 6,000 × 2 / 1,000,000
                ("cache_read", "4000", "0.002"), // 4,000 × 0.5
                ("output", "1000", "0.008"),     // 1,000 × 8
            ],
        ),
        // The list: 1.1 and 4.4; reasoning is billed as output.
        call(
            "openai",
            "o4-mini",
            json!({"usage": {"prompt_tokens": 1_000, "completion_tokens": 700, "total_tokens": 1_700,
                "completion_tokens_details": {"reasoning_tokens": 500}}}),
            &[
                ("input", "1000", "0.0011"),
                ("output", "200", "0.00088"),   // 200 × 4.4
                ("reasoning", "500", "0.0022"), // 500 × 4.4
            ],
        ),
        // Ours: text 2.5 and 10, audio 40 and 80.
        call(
            "openai",
            "gpt-4o-audio-preview",
            json!({"usage": {"prompt_tokens": 1_000, "completion_tokens": 500, "total_tokens": 1_500,
                "prompt_tokens_details": {"audio_tokens": 300}, "completion_tokens_details": {"audio_tokens": 200}}}),
            &[
                ("input", "700", "0.00175"),
                ("audio_input", "300", "0.012"),
                ("output", "300", "0.003"),
                ("audio_output", "200", "0.016"),
            ],
        ),
        // Ours: text 5, images read 10, images written 40.
        call(
            "openai",
            "gpt-image-1",
            json!({"usage": {"input_tokens": 350, "output_tokens": 1_000, "total_tokens": 1_350,
                "input_tokens_details": {"text_tokens": 50, "image_tokens": 300},
                "output_tokens_details": {"text_tokens": 0, "image_tokens": 1_000}}}),
            &[
                ("input", "50", "0.00025"),
                ("image_input", "300", "0.003"),
                ("output", "0", "0"),
                ("image_output", "1000", "0.04"),
            ],
        ),
        // Ours: 0.04 an image.
        call("openai", "dall-e-3", json!({"images": {"count": 3}}), &[("images", "3", "0.12")]),
        // The list: 0.02, under input.
        call(
            "openai",
            "text-embedding-3-small",
            json!({"usage": {"prompt_tokens": 5_000, "total_tokens": 5_000}}),
            &[("embedding", "5000", "0.0001")],
        ),
        // A batch call: 0.2 and 0.8, and the same at once: 0.4 and 1.6 of the list.
        call(
            "openai",
            "gpt-4.1-mini",
            json!({"service_tier": "batch", "usage": {"prompt_tokens": 10_000, "completion_tokens": 1_000}}),
            &[("input", "10000", "0.002"), ("output", "1000", "0.0008")],
        ),
        call(
            "openai",
            "gpt-4.1-mini",
            json!({"service_tier": "default", "usage": {"prompt_tokens": 10_000, "completion_tokens": 1_000}}),
            &[("input", "10000", "0.004"), ("output", "1000", "0.0016")],
        ),
        // The list, of prompts above 272,000 tokens: 5, cached 0.5, output 22.5.
        call(
            "openai",
            "gpt-5.4",
            json!({"usage": {"prompt_tokens": 272_001, "completion_tokens": 100, "total_tokens": 272_101,
                "prompt_tokens_details": {"cached_tokens": 72_001}}}),
            &[
                ("input", "200000", "1"),
                ("cache_read", "72001", "0.0360005"),
                ("output", "100", "0.00225"),
            ],
        ),
    ]
}

/// Anthropic reads images as input, and has no audio.
fn anthropic() -> Vec<Call> {
    vec![
        // The list: 3, cached 0.3, written for 5 minutes 3.75, output 15. Ours: written for an hour 6, a search 0.01.
        call(
            "anthropic",
            "claude-sonnet-4-5",
            json!({"usage": {"input_tokens": 100, "cache_read_input_tokens": 10_000, "cache_creation_input_tokens": 3_000,
                "cache_creation": {"ephemeral_5m_input_tokens": 2_000, "ephemeral_1h_input_tokens": 1_000},
                "output_tokens": 800, "output_tokens_details": {"thinking_tokens": 300},
                "server_tool_use": {"web_search_requests": 3}, "service_tier": "standard"}}),
            &[
                ("input", "100", "0.0003"),
                ("cache_read", "10000", "0.003"),
                ("cache_write", "2000", "0.0075"),
                ("cache_write_1h", "1000", "0.006"),
                ("output", "500", "0.0075"),
                ("reasoning", "300", "0.0045"), // 300 × 15
                ("tool_calls", "3", "0.03"),
            ],
        ),
        // A batch call: 2.5 and 12.5.
        call(
            "anthropic",
            "claude-opus-4-5",
            json!({"usage": {"input_tokens": 10_000, "output_tokens": 1_000, "service_tier": "batch"}}),
            &[("input", "10000", "0.025"), ("output", "1000", "0.0125")],
        ),
        // Ours, of prompts above 200,000 tokens, those of the cache among them: 2, 0.2, 7.5.
        call(
            "anthropic",
            "claude-haiku-4-5",
            json!({"usage": {"input_tokens": 100_001, "cache_read_input_tokens": 100_000, "output_tokens": 1_000}}),
            &[
                ("input", "100001", "0.200002"),
                ("cache_read", "100000", "0.02"),
                ("output", "1000", "0.0075"),
            ],
        ),
    ]
}

fn google() -> Vec<Call> {
    vec![
        // The list: 0.3, cached 0.03, audio 1, output 2.5, thinking as output.
        call(
            "google",
            "gemini-2.5-flash",
            json!({"usage": {"promptTokenCount": 5_000, "cachedContentTokenCount": 1_000, "candidatesTokenCount": 400,
                "thoughtsTokenCount": 600, "totalTokenCount": 6_000,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 3_000}, {"modality": "AUDIO", "tokenCount": 2_000}]}}),
            &[
                ("input", "2000", "0.0006"), // 5,000 less 1,000 cached and 2,000 of audio
                ("cache_read", "1000", "0.00003"),
                ("audio_input", "2000", "0.002"),
                ("output", "400", "0.001"),
                ("reasoning", "600", "0.0015"),
            ],
        ),
        // The list: 0.3 and 30, which images written cost too.
        call(
            "google",
            "gemini-2.5-flash-image",
            json!({"usage": {"promptTokenCount": 100, "candidatesTokenCount": 1_300, "totalTokenCount": 1_400,
                "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 10}, {"modality": "IMAGE", "tokenCount": 1_290}]}}),
            &[
                ("input", "100", "0.00003"),
                ("output", "10", "0.0003"),
                ("image_output", "1290", "0.0387"),
            ],
        ),
        // The list: 0.5; ours: audio written 10.
        call(
            "google",
            "gemini-2.5-flash-preview-tts",
            json!({"usage": {"promptTokenCount": 200, "candidatesTokenCount": 1_000, "totalTokenCount": 1_200,
                "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 1_000}]}}),
            &[("input", "200", "0.0001"), ("output", "0", "0"), ("audio_output", "1000", "0.01")],
        ),
        // Ours: 0.04 an image.
        call("google", "imagen-4", json!({"images": {"count": 2}}), &[("images", "2", "0.08")]),
        // A batch call: 0.05 and 0.2.
        call(
            "google",
            "gemini-2.5-flash-lite",
            json!({"service_tier": "batch", "usage": {"promptTokenCount": 10_000, "candidatesTokenCount": 1_000,
                "totalTokenCount": 11_000}}),
            &[("input", "10000", "0.0005"), ("output", "1000", "0.0002")],
        ),
        // The list, of prompts above 200,000 tokens: 2.5, cached 0.25, output and thinking 15.
        call(
            "google",
            "gemini-2.5-pro",
            json!({"usage": {"promptTokenCount": 250_000, "cachedContentTokenCount": 50_000, "candidatesTokenCount": 1_000,
                "thoughtsTokenCount": 200, "totalTokenCount": 251_200}}),
            &[
                ("input", "200000", "0.5"),
                ("cache_read", "50000", "0.0125"),
                ("output", "1000", "0.015"),
                ("reasoning", "200", "0.003"),
            ],
        ),
    ]
}

/// Cohere bills input, output, images and searches; who counts reasoning apart sends the neutral record.
fn cohere() -> Vec<Call> {
    vec![
        // The list: 2.5 and 10.
        call(
            "cohere",
            "command-a-03-2025",
            json!({"usage": {"billed_units": {"input_tokens": 1_000, "output_tokens": 500}}}),
            &[("input", "1000", "0.0025"), ("output", "500", "0.005")],
        ),
        // The list: 2.5 and 10, and reasoning as output.
        call(
            "cohere",
            "command-a-reasoning-08-2025",
            json!({"usage": {"input": 100, "output": 50, "reasoning": 200, "total": 350}}),
            &[
                ("input", "100", "0.00025"),
                ("output", "50", "0.0005"),
                ("reasoning", "200", "0.002"),
            ],
        ),
        // Ours: 0.12, and 0.0001 an image.
        call(
            "cohere",
            "embed-v4.0",
            json!({"usage": {"billed_units": {"input_tokens": 5_000, "images": 2}}}),
            &[("embedding", "5000", "0.0006"), ("images", "2", "0.0002")],
        ),
        // Ours: 0.002 a search.
        call(
            "cohere",
            "rerank-v3.5",
            json!({"usage": {"billed_units": {"search_units": 4}}}),
            &[("search_units", "4", "0.008")],
        ),
        // A batch call: 0.075 and 0.3.
        call(
            "cohere",
            "command-r-08-2024",
            json!({"service_tier": "batch", "usage": {"billed_units": {"input_tokens": 10_000, "output_tokens": 1_000}}}),
            &[("input", "10000", "0.00075"), ("output", "1000", "0.0003")],
        ),
        // Ours, of prompts above 128,000 tokens: 5 and 15.
        call(
            "cohere",
            "command-a-03-2025",
            json!({"usage": {"billed_units": {"input_tokens": 128_001, "output_tokens": 1_000}}}),
            &[("input", "128001", "0.640005"), ("output", "1000", "0.015")],
        ),
    ]
}

fn mistral() -> Vec<Call> {
    vec![
        // The list: 0.5 and 1.5; ours: cached 0.05.
        call(
            "mistral",
            "mistral-large-latest",
            json!({"usage": {"prompt_tokens": 2_000, "completion_tokens": 300, "total_tokens": 2_300,
                "prompt_tokens_details": {"cached_tokens": 1_500}}}),
            &[
                ("input", "500", "0.00025"),
                ("cache_read", "1500", "0.000075"),
                ("output", "300", "0.00045"),
            ],
        ),
        // The list: 2 and 5, and reasoning as output.
        call(
            "mistral",
            "magistral-medium-latest",
            json!({"usage": {"prompt_tokens": 1_000, "completion_tokens": 700, "total_tokens": 1_700,
                "completion_tokens_details": {"reasoning_tokens": 600}}}),
            &[
                ("input", "1000", "0.002"),
                ("output", "100", "0.0005"),
                ("reasoning", "600", "0.003"),
            ],
        ),
        // Ours: 0.1, 0.3 and audio 4. The total of 1,620 has 1,500 tokens of audio beside the prompt.
        call(
            "mistral",
            "voxtral-small-latest",
            json!({"usage": {"prompt_tokens": 20, "completion_tokens": 100, "total_tokens": 1_620, "prompt_audio_seconds": 60}}),
            &[
                ("input", "20", "0.000002"),
                ("audio_input", "1500", "0.006"),
                ("output", "100", "0.00003"),
            ],
        ),
        // Ours: 0.1 an image.
        call(
            "mistral",
            "mistral-medium-2505",
            json!({"images": {"count": 1}}),
            &[("images", "1", "0.1")],
        ),
        // The list: 0.1 and 0. It says that it wrote nothing, so its words are a prompt.
        call(
            "mistral",
            "mistral-embed",
            json!({"usage": {"prompt_tokens": 5_000, "completion_tokens": 0, "total_tokens": 5_000}}),
            &[("input", "5000", "0.0005"), ("output", "0", "0")],
        ),
        // A batch call: 0.075 and 0.3.
        call(
            "mistral",
            "mistral-small-latest",
            json!({"service_tier": "batch", "usage": {"prompt_tokens": 10_000, "completion_tokens": 1_000, "total_tokens": 11_000}}),
            &[("input", "10000", "0.00075"), ("output", "1000", "0.0003")],
        ),
        // Ours, of prompts above 128,000 tokens: 1 and 3.
        call(
            "mistral",
            "mistral-large-latest",
            json!({"usage": {"prompt_tokens": 128_001, "completion_tokens": 1_000, "total_tokens": 129_001}}),
            &[("input", "128001", "0.128001"), ("output", "1000", "0.003")],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_class_of_five_providers_has_its_cost() -> Result<()> {
    let world = World::all().await?;
    prices(&world).await?;
    let calls = [openai(), anthropic(), google(), cohere(), mistral()];
    for (number, call) in calls.iter().flatten().enumerate() {
        let mut data = call.data.clone();
        data["provider"] = json!(call.provider);
        data["model"] = json!(call.model);
        let event = json!({"id": number.to_string(), "source": "costs", "type": "llm.call",
            "subject": "team-01", "time": "2026-06-02T00:00:00Z", "data": data});
        // Nothing has a price for the team: what a provider charges is known all the same.
        let (_, found) = lines(&world, &event).await?;
        let found: Value = found
            .iter()
            .map(|(class, line)| {
                (class.clone(), json!([line["quantity"], line["cost"], line["cost_currency"]]))
            })
            .collect();
        let wanted = call.costs.iter();
        let wanted: Value = wanted
            .map(|(class, quantity, cost)| ((*class).to_owned(), json!([quantity, cost, "USD"])))
            .collect();
        assert_eq!(found, wanted, "{event}");
    }
    // Every class was shown.
    for class in UsageClass::ALL {
        let mut shown = calls.iter().flatten().flat_map(|call| call.costs);
        assert!(shown.any(|(name, ..)| *name == class.name()), "{class:?}");
    }
    // The numbers above, added up by provider.
    let wanted = json!({"anthropic": "0.323802", "cohere": "0.675105", "google": "0.66546",
        "mistral": "0.244858", "openai": "1.2689305"});
    let sums = |body: &Value| -> Value {
        let items = body["items"].as_array().into_iter().flatten();
        let sum = |row: &Value| {
            Some((row["group"]["provider"].as_str()?.to_owned(), row["cost"].clone()))
        };
        items.filter_map(sum).collect()
    };
    let path = format!("/v1/analytics/cost?{PERIOD}&group_by=provider");
    world.until(&path, |body| sums(body) == wanted).await?;
    world.stop().await
}
