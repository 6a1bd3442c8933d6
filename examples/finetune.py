"""Train `tiny` with OpenAI's client: `python examples/finetune.py supervised`, `dpo` or `reinforcement`."""

import json
import sys
import time
from pathlib import Path

from openai import OpenAI

client, method = OpenAI(), sys.argv[1]  # OPENAI_BASE_URL=$MINT_URL/v1, OPENAI_API_KEY=$MINT_API_KEY
rows = (
    Path(__file__).parent / "reverse"
)  # its README.md tells what they teach, docs/guides/jobs.md the settings
files = [rows / f"{method}{part}.jsonl" for part in ("", "-held-out")]
train, held_out = (client.files.create(file=file, purpose="fine-tune").id for file in files)
settings = {"grader": json.loads((rows / "grader.json").read_text())} if method == "reinforcement" else {}
how = {"method": {"type": method, method: settings}, "extra_body": {"mint": {"learning_rate": 2e-3}}}
job = client.fine_tuning.jobs.create(model="tiny", training_file=train, validation_file=held_out, **how)
told = set()
while job.finished_at is None:
    time.sleep(1)
    job = client.fine_tuning.jobs.retrieve(job.id)
    new = [each for each in client.fine_tuning.jobs.list_events(job.id, limit=100) if each.id not in told]
    print("".join(f"{event.message}\n" for event in reversed(new)), end="", flush=True)
    told.update(event.id for event in new)
asked = {"messages": [{"role": "user", "content": "f abcd="}], "temperature": 0}
print(client.chat.completions.create(model=job.fine_tuned_model, **asked).choices[0].message.content)
