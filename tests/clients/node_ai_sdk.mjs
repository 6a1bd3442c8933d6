// Vercel's AI SDK: `node_ai_sdk.mjs URL KEY MODEL`, with its packages in the folder it runs in.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.cwd()}/`);
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");
const { generateObject, generateText, jsonSchema, streamText, tool } = await load("ai");
const [url, apiKey, name] = process.argv.slice(2);
const provider = createOpenAICompatible({
  name: "mint", baseURL: `${url}/v1`, apiKey, supportsStructuredOutputs: true,
});
const prompt = "Say in one word which is warmer today: Rome or Oslo?";
const schema = jsonSchema({
  type: "object",
  properties: { city: { type: "string", enum: ["Rome", "Oslo"] } },
  required: ["city"],
  additionalProperties: false,
});
const asked = { model: provider(name), prompt, maxOutputTokens: 60, temperature: 0, maxRetries: 0 };

const whole = (await generateText(asked)).text;
let streamed = "";
for await (const part of streamText(asked).textStream) streamed += part;
const tools = { weather: tool({ description: "Weather of a city", inputSchema: schema }) };
const called = await generateText({ ...asked, tools, toolChoice: "required" });
const made = await generateObject({ ...asked, schema });
const cities = { "a tool": called.toolCalls[0].input.city, "a schema": made.object.city };
console.log(JSON.stringify({ texts: [whole, streamed], cities }));
