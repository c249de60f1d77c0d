/**
 * A world over the Model Context Protocol, so that any agent can play it: its tools as they are, the user behind the tool
 * `say_to_user`, policy and task as instructions and as the prompt `task`. State, verdict, planner and seed stay here.
 */
import { Server } from "@modelcontextprotocol/sdk/server/index.js";
import {
  CallToolRequestSchema,
  type CallToolResult,
  GetPromptRequestSchema,
  ListPromptsRequestSchema,
  ListToolsRequestSchema,
} from "@modelcontextprotocol/sdk/types.js";
import {
  type AssistantMessage,
  callCount,
  type Message,
  nativeId,
  type Trajectory,
  textOf,
  trajectory,
} from "../chat/index.ts";
import { say, showSplit, versionOf } from "./play.ts";
import type { WorldEnvironment } from "./world-environment.ts";

/** The tool by which an agent speaks to the user; what it says last is its answer. */
export const SAY = "say_to_user";

/** One episode as an MCP server; connect it to a transport. `onEnd` gets the unjudged record once the user has gone. */
export function worldServer(env: WorldEnvironment, seed: number, onEnd: (row: Trajectory) => void = () => {}): Server {
  const { messages, tools } = env.reset(seed);
  const [system, user] = messages.map((m) => textOf(m.content));
  const instructions = `${system}\n\nThe user says: ${user}\nSpeak to the user with ${SAY}; what you say last is your answer.`;
  const server = new Server(
    { name: `massif-${env.world.name}`, version: String(env.world.version) },
    { capabilities: { tools: {}, prompts: {} }, instructions },
  );
  let over = false;

  const act = (action: AssistantMessage): Message | undefined => {
    const { observations, done } = env.step(action);
    messages.push(action, ...observations);
    if (done && !over) {
      over = true;
      onEnd(unjudged(env, messages, tools));
    }
    return observations[0];
  };

  server.setRequestHandler(ListToolsRequestSchema, () => ({
    tools: [
      ...tools.map(({ function: f }) => ({
        name: f?.name ?? "",
        description: f?.description ?? "",
        inputSchema: { ...(f?.parameters as object), type: "object" as const },
      })),
      {
        name: SAY,
        description: "Say something to the user: a question, or your answer.",
        inputSchema: { type: "object" as const, properties: { text: { type: "string" } }, required: ["text"] },
      },
    ],
  }));
  server.setRequestHandler(ListPromptsRequestSchema, () => ({
    prompts: [{ name: "task", description: "What the user of this episode wants" }],
  }));
  server.setRequestHandler(GetPromptRequestSchema, () => ({
    messages: [{ role: "user" as const, content: { type: "text" as const, text: `${system}\n\n${user}` } }],
  }));
  server.setRequestHandler(CallToolRequestSchema, ({ params: { name, arguments: args = {} } }): CallToolResult => {
    if (over) return words("The conversation is over.", true);
    if (name === SAY) {
      if (typeof args.text !== "string")
        return words('{"error":"invalid_arguments","message":"text must be a string"}', true);
      const reply = act(say(args.text));
      return words(reply ? textOf(reply.content) : "(the user has gone)");
    }
    const id = nativeId(name, callCount(messages));
    const call = { id, type: "function" as const, function: { name, arguments: JSON.stringify(args) } };
    const result = textOf(act({ ...say(""), content: null, tool_calls: [call] })?.content ?? null);
    return words(result, result.startsWith('{"error"'));
  });
  return server;
}

const words = (text: string, isError = false): CallToolResult => ({
  content: [{ type: "text", text }],
  ...(isError && { isError }),
});

/** The episode as it went, for `massif verify-trajectory` to judge. */
function unjudged(env: WorldEnvironment, messages: Message[], tools: Trajectory["tools"]): Trajectory {
  const origin = env.origin();
  const { world, seed, split, task } = origin;
  return trajectory({
    messages,
    tools,
    task: { world, version: versionOf(origin), seed, split: showSplit(split), goal: task },
  });
}
