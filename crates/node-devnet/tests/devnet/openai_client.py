"""Uses the official OpenAI client against the URL in argv[1] and prints what it saw as one JSON object."""

import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="anything")
question = [{"role": "user", "content": "What is the capital of France?"}]
seen = {"models": [model.id for model in client.models.list()]}

raw = client.chat.completions.with_raw_response.create(model="m", messages=question, max_tokens=8)
seen["chat"] = raw.parse().choices[0].message.content
seen["usage"] = raw.parse().usage.total_tokens
seen["node"] = raw.headers["x-resultity-node"]

parts = client.chat.completions.create(
    model="m@1.0.0",
    messages=question,
    stream=True,
    stream_options={"include_usage": True},
    extra_body={"x-resultity-priority": 3},
    extra_headers={"x-resultity-ttl-ms": "5000"},
)
parts = list(parts)
seen["stream"] = [part.choices[0].delta.content or "" for part in parts if part.choices]
seen["finish_reason"] = [part.choices[0].finish_reason for part in parts if part.choices][-1]
seen["stream_usage"] = parts[-1].usage.total_tokens

seen["completion"] = client.completions.create(model="m", prompt="The capital of France is").choices[0].text
seen["embedding"] = client.embeddings.create(model="e", input="Paris").data[0].embedding

try:
    client.chat.completions.create(model="unknown", messages=question)
except openai.NotFoundError as error:
    seen["unknown_model"] = error.code

try:
    client.completions.create(model="m", prompt="fail")
except openai.InternalServerError as error:
    seen["failure"] = [error.status_code, error.body["message"]]

try:
    list(client.completions.create(model="m", prompt="fail later", stream=True))
except openai.APIError as error:
    seen["failure_in_stream"] = error.message

print(json.dumps(seen))
