// What people do with the official OpenAI client for Node.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.BASE_URL}/v1`, apiKey: process.env.KEY });
const messages = [{ role: "user", content: "Tell me something." }];
const { completions } = client.chat;
await completions.create({ model: "mock", messages });
await completions.create({ model: "mock", messages, max_tokens: 20, temperature: 0.3 });
for (const extra of [{}, { stream_options: { include_usage: true } }]) {
  const stream = await completions.create({ model: "mock", messages, stream: true, ...extra });
  for await (const chunk of stream) if (!chunk.choices) throw new Error("no chunk");
}
console.log(process.version);
