// What people do with the official Anthropic client for Node.
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: process.env.BASE_URL, apiKey: process.env.KEY });
const messages = [{ role: "user", content: "Tell me something." }];
const told = await client.messages.create({ model: "claude", max_tokens: 64, messages });
if (!told.content.length) throw new Error("no content");
await client.messages.stream({ model: "claude", max_tokens: 64, messages }).finalMessage();
console.log(process.version);
