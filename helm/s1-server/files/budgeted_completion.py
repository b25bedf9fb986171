"""One budgeted completion through the gateway: its thinking stays within the budget, and it answers."""

import json
import os
import urllib.request

MAX_THINKING_TOKENS = 64

body = {
    "model": os.environ["MODEL"],
    "messages": [{"role": "user", "content": "How many r in raspberry?"}],
    "max_thinking_tokens": MAX_THINKING_TOKENS,
}
headers = {"content-type": "application/json"}
if os.environ.get("API_KEY"):
    headers["authorization"] = f"Bearer {os.environ['API_KEY'].strip()}"
request = urllib.request.Request(
    os.environ["URL"] + "/v1/chat/completions", json.dumps(body).encode(), headers
)
with urllib.request.urlopen(request, timeout=600) as answer:
    choice = json.load(answer)["choices"][0]
receipt = choice["thinking_budget"]
print(json.dumps(receipt))
assert receipt["thinking_tokens"] <= MAX_THINKING_TOKENS, receipt
assert choice["message"]["content"], choice
