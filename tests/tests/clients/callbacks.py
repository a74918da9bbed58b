"""LiteLLM's callbacks: completions that no provider is asked for, reported by LiteLLM itself."""

import sys

import litellm

callback, subject = sys.argv[1:]
litellm.success_callback = []
litellm.callbacks = [callback]

reported = litellm.completion(
    model="gpt-4o",
    messages=[{"role": "user", "content": "Say hello"}],
    mock_response="Hello there, this is a reply.",
    user=subject,
    # What LiteLLM's proxy adds to a request.
    proxy_server_request={"body": {"user": subject}},
    metadata={"user_api_key_user_id": subject},
)
usage = reported["usage"]
print(usage["prompt_tokens"], usage["completion_tokens"])
