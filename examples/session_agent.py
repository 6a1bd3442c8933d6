"""An agent that a job trains: it runs anywhere, with an ordinary client of OpenAI's API.

Start a job whose environment are agents, then as many agents as you like, with a key of scope train:

    mint policy create parrot --base smollm2
    mint job create parrot --env session --steps 20
    python examples/session_agent.py JOB https://mint.example KEY
"""

import random
import sys
from typing import Any

import httpx
import openai


def run(episode: dict[str, Any]) -> float:
    """Run an episode, and return its reward; the seed makes it the task of all episodes of its group."""
    word = "".join(random.Random(episode["seed"]).choices("abcdefgh", k=4))
    client = openai.OpenAI(base_url=episode["base_url"], api_key=episode["api_key"])
    answer = client.chat.completions.create(
        model=episode["model"], messages=[{"role": "user", "content": f"Say {word}: "}]
    )
    said = answer.choices[0].message.content or ""
    return sum(letter in said for letter in word) / len(word)


def main(job: str, address: str, key: str) -> None:
    """Run the episodes of a job until its end."""
    with httpx.Client(base_url=f"{address}/mint/v1/", headers={"x-api-key": key}, timeout=90) as mint:
        while not (claim := asked(mint, f"jobs/{job}/episodes", {"n": 4}))["is_ended"]:
            for episode in claim["episodes"]:
                asked(mint, f"episodes/{episode['episode']}/reward", {"reward": run(episode)})
    print(claim["state"], claim["reason"])


def asked(mint: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    """Return MinT's answer."""
    return mint.post(path, json=body).raise_for_status().json()


if __name__ == "__main__":
    main(*sys.argv[1:])
