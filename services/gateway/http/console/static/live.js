// Follows the tenant's event stream; after a lost connection it goes on behind the last event that it read.
const told = document.getElementById("live");
const rows = document.querySelector("[data-live-events]");
const job = document.querySelector("[data-live-job]")?.dataset.liveJob;
const MOST = 500, SOONEST = 1000, LATEST = 30000, CALM = 300, OFTEN = 2000;
const STEPS = ["revision.exported", "wave.cancelled", "training.failed", "job.finished"];
let cursor = "", wait = SOONEST, asked = 0, shown = 0;

function note(envelope) {
  if (rows) {
    const row = rows.insertRow(0);
    const time = new Date(envelope.time * 1000).toISOString();
    for (const text of [time.slice(11, 19), envelope.type, JSON.stringify(envelope.data)]) row.insertCell().textContent = text;
    while (rows.rows.length > MOST) rows.deleteRow(-1);
  }
  if (job && JSON.stringify(envelope.data).includes(job)) refresh();
}

function refresh() {
  if (asked) return;
  asked = setTimeout(() => {
    asked = 0;
    shown = Date.now();
    document.body.dispatchEvent(new CustomEvent("mint:step"));
  }, Math.max(CALM, OFTEN - (Date.now() - shown)));
}

async function read() {
  const query = new URLSearchParams(job ? STEPS.map((type) => ["type", type]) : []);
  if (cursor) query.set("after", cursor);
  const answer = await fetch(`/mint/v1/events?${query}`, { headers: { accept: "text/event-stream" } });
  if (answer.status === 410) { cursor = ""; refresh(); throw new Error("the place is no longer stored"); }
  if (answer.status === 401) { location.reload(); return; }
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  told.textContent = "Live";
  wait = SOONEST;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const frames = text.split("\n\n");
    text = frames.pop();
    for (const frame of frames) {
      const fields = Object.fromEntries(frame.split("\n").filter((line) => line.includes(": ")).map((line) => {
        const at = line.indexOf(": ");
        return [line.slice(0, at), line.slice(at + 2)];
      }));
      if (fields.id) cursor = fields.id;
      if (fields.data) note(JSON.parse(fields.data));
    }
  }
}

for (;;) {
  try { await read(); } catch { /* told below, and tried again */ }
  told.textContent = "Connection lost, trying again";
  await new Promise((go) => setTimeout(go, wait));
  wait = Math.min(2 * wait, LATEST);
}
