"""Ask every model of a running stack the same question, with the official client.

Start the stack with ``mint up``; then ``python examples/openai_client.py ["14, 19, 24, "]``. MINT_URL is
the stack's address and MINT_API_KEY a key of it; without them the defaults of ``mint up`` are used.
"""

import os
import sys
from pathlib import Path

from openai import OpenAI, OpenAIError


def main() -> None:
    """Say what went wrong in a line."""
    address = os.environ.get("MINT_URL", "http://127.0.0.1:8321")
    try:
        ask(address)
    except OpenAIError as error:
        sys.exit(f"{address}: {error}")


def ask(address: str) -> None:
    """Print who answers what, then one answer as it is generated."""
    file = Path.home() / ".mint/api_key"
    key = os.environ.get("MINT_API_KEY") or (file.read_text().strip() if file.exists() else "")
    if not key:
        sys.exit("no API key: set MINT_API_KEY (mint up prints where it is)")
    client = OpenAI(base_url=f"{address}/v1", api_key=key)
    prompt = sys.argv[1] if len(sys.argv) > 1 else "14, 19, 24, "
    models = [model.id for model in client.models.list()]
    for model in models:
        answer = client.completions.create(model=model, prompt=prompt, max_tokens=4, temperature=0)
        # The digest of the revision that answered, or base:<name>; a name never falls back to the base.
        print(f"{model:24} {answer.choices[0].text!r:16} {answer.system_fingerprint}")
    parts = client.completions.create(
        model=models[-1], prompt=prompt, max_tokens=8, stream=True, stream_options={"include_usage": True}
    )
    for part in parts:
        print(
            part.choices[0].text if part.choices else f"\n{part.usage.total_tokens} tokens",
            end="",
            flush=True,
        )
    print()


if __name__ == "__main__":
    main()
