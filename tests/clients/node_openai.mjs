// OpenAI's client for Node: `node_openai.mjs URL KEY MODEL`, with OpenAI's package in the folder it runs in.
import { createRequire } from "node:module";

const OpenAI = createRequire(`${process.cwd()}/`)("openai").default;
const [url, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
const ASKED = "Say in one word which is warmer today: Rome or Oslo?";
const schema = {
  type: "object",
  properties: { city: { type: "string", enum: ["Rome", "Oslo"] } },
  required: ["city"],
  additionalProperties: false,
};
const asked = { model, messages: [{ role: "user", content: ASKED }], max_tokens: 60, temperature: 0 };

const whole = (await client.chat.completions.create(asked)).choices[0].message.content;
let streamed = "";
for await (const part of await client.chat.completions.create({ ...asked, stream: true })) {
  streamed += part.choices[0]?.delta?.content ?? "";
}
const called = await client.chat.completions.create({
  ...asked,
  tools: [{ type: "function", function: { name: "weather", parameters: schema } }],
  tool_choice: "required",
});
const parsed = await client.chat.completions.create({
  ...asked,
  response_format: { type: "json_schema", json_schema: { name: "answer", schema } },
});
const response = await client.responses.create({ model, input: ASKED, max_output_tokens: 60, temperature: 0 });
const cities = {
  "a tool": JSON.parse(called.choices[0].message.tool_calls[0].function.arguments).city,
  "a schema": JSON.parse(parsed.choices[0].message.content).city,
};
console.log(JSON.stringify({ texts: [whole, streamed, response.output_text], cities }));
