/** Tools that are declared on the way, within system messages (Kimi K3's; serving-and-agent.md §3.5). K2's template shows
 *  them where they stand, in a turn as that of the first tools. */
import { type ToolSpec, ToolSpecSchema } from "../../chat/index.ts";
import { invalid } from "../errors.ts";
import { checkTools, fieldLimits } from "../fields.ts";

const toolName = /^[a-zA-Z_][a-zA-Z0-9_-]{0,63}$/;

/** The tools that raw messages declare. Throws 400 that names the place. */
export function checkDynamicTools(messages: unknown, global: readonly ToolSpec[]): ToolSpec[] {
  const declared: ToolSpec[] = [];
  const names = new Set(global.map((tool) => tool.function?.name));
  for (const [i, message] of (Array.isArray(messages) ? messages : []).entries()) {
    const { role, tools, content } = (message ?? {}) as Record<string, unknown>;
    if (tools == null) continue;
    const at = `messages[${i}].tools`;
    if (role !== "system" && role !== "developer") throw invalid(at, "only a system message declares tools");
    if (!Array.isArray(tools)) throw invalid(at, "a list of tools");
    if (Array.isArray(content) ? content.length : content != null && content !== "")
      throw invalid(`messages[${i}].content`, "a message that declares tools says nothing else");
    for (const [j, tool] of tools.entries()) {
      const read = ToolSpecSchema.safeParse(tool);
      if (!read.success) throw invalid(`${at}[${j}]`, read.error.issues[0]!.message);
      const name = read.data.function?.name ?? "";
      if (!toolName.test(name))
        throw invalid(`${at}[${j}].function.name`, "letters, digits, _ and -, a letter or _ first, at most 64");
      if (names.has(name)) throw invalid(`${at}[${j}].function.name`, `a second tool ${JSON.stringify(name)}`);
      names.add(name);
    }
    checkTools(tools as ToolSpec[], at);
    declared.push(...(tools as ToolSpec[]));
  }
  if (declared.length && declared.length + global.length > fieldLimits.tools)
    throw invalid("messages", `more than ${fieldLimits.tools} tools with those of messages`);
  return declared;
}
