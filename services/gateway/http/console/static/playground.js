// Sends one prompt to each model and streams the answers next to each other.
const form = document.getElementById("ask");
const place = document.getElementById("answers");
const plain = new Set(JSON.parse(form.dataset.plain));

function element(name, text, parent) {
  const made = document.createElement(name);
  made.textContent = text;
  parent.append(made);
  return made;
}

async function ask(model, fields) {
  const panel = element("article", "", place);
  element("h2", model, panel);
  const facts = element("p", "Waiting for the first token", panel);
  facts.className = "hint";
  const text = element("pre", "", panel);
  text.className = "text";
  const begun = performance.now();
  let first = 0, tokens = 0, sum = 0;
  const isPlain = plain.has(model), prompt = fields.get("prompt");
  const asked = isPlain ? { prompt, logprobs: 1 } : { messages: [{ role: "user", content: prompt }], logprobs: true };
  const answer = await fetch(isPlain ? "/v1/completions" : "/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json", "x-mint-form": document.body.dataset.formToken },
    body: JSON.stringify({
      model, stream: true, max_tokens: Number(fields.get("max_tokens")), temperature: Number(fields.get("temperature")), ...asked,
    }),
  });
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    facts.className = "problem";
    facts.textContent = told.error?.message ?? `Status ${answer.status}`;
    return;
  }
  const header = (name) => answer.headers.get(name) ?? "–";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    rest += value;
    const frames = rest.split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      const data = frame.replace(/^data: /, "");
      if (data === "[DONE]" || !data.startsWith("{")) continue;
      const chunk = JSON.parse(data);
      if (chunk.error) { facts.className = "problem"; facts.textContent = chunk.error.message; return; }
      const choice = chunk.choices?.[0];
      if (!choice) continue;
      const logprobs = choice.logprobs?.token_logprobs ?? choice.logprobs?.content?.map((one) => one.logprob) ?? [];
      for (const one of logprobs) { tokens += 1; sum += one; }
      const part = choice.text ?? choice.delta?.content;
      if (part) { first ||= performance.now() - begun; text.append(part); }
    }
  }
  const revision = header("x-mint-revision");
  const mean = tokens ? (sum / tokens).toFixed(3) : "–";
  facts.textContent = `First token after ${first.toFixed(0)} ms, ${tokens} tokens, mean log-probability ${mean}, from ${header("x-mint-tier")} on ${header("x-mint-engine")}`;
  const link = element("a", `Revision ${revision.replace("sha256:", "").slice(0, 12)}`, panel);
  link.href = `/console/find?q=${encodeURIComponent(revision)}`;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  place.replaceChildren();
  const fields = new FormData(form);
  const models = fields.get("models").split(",").map((name) => name.trim()).filter(Boolean).slice(0, 4);
  for (const model of models) ask(model, fields);
});
