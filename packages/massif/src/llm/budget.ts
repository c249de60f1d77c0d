/** A limit on what models may use. One budget may bound many models, and many requests at once. */
import { LlmError } from "./errors.ts";
import type { LanguageModel, ModelEvent, Usage } from "./model.ts";
import type { ChatRequest } from "./request.ts";
import { estimateUsage } from "./scripted.ts";

/** A currency's units a million tokens. */
export interface Prices {
  prompt: number;
  completion: number;
  /** Default: as `prompt`. */
  cached?: number;
}

export interface Limits {
  requests?: number;
  /** Prompt and completion together. */
  tokens?: number;
  /** In the currency of the prices. */
  cost?: number;
}

export class Budget {
  readonly limits: Readonly<Limits>;
  readonly spent: Required<Limits> = { requests: 0, tokens: 0, cost: 0 };

  constructor(limits: Limits) {
    this.limits = limits;
  }

  /** Counts a request. Throws `llm.budget`, and counts nothing, once a limit is reached. */
  begin(): void {
    for (const kind of ["requests", "tokens", "cost"] as const) {
      const limit = this.limits[kind];
      if (limit === undefined || this.spent[kind] < limit) continue;
      throw new LlmError("llm.budget", {
        found: `the budget of ${limit} ${kind} is used up (${this.spent[kind]})`,
        fix: `raise the limit of ${kind}, or stop here`,
      });
    }
    this.spent.requests++;
  }

  add({ promptTokens, completionTokens, cachedTokens = 0 }: Usage, prices?: Prices): void {
    this.spent.tokens += promptTokens + completionTokens;
    if (!prices) return;
    const { prompt, completion, cached = prompt } = prices;
    const fresh = promptTokens - cachedTokens;
    this.spent.cost += (fresh * prompt + cachedTokens * cached + completionTokens * completion) / 1e6;
  }
}

/** A model within a budget. What a request uses is known when it ends, so requests under way may pass a limit by what
 *  they use. Where a model does not count, or was left early, four bytes count as a token. */
export class BudgetedModel implements LanguageModel {
  readonly name: string;
  readonly #model: LanguageModel;
  readonly #budget: Budget;
  readonly #prices: Prices | undefined;

  constructor(model: LanguageModel, budget: Budget, prices?: Prices) {
    this.name = model.name;
    this.#model = model;
    this.#budget = budget;
    this.#prices = prices;
  }

  async *stream(request: ChatRequest): AsyncGenerator<ModelEvent, void, undefined> {
    this.#budget.begin();
    let usage: Usage | undefined;
    const said: ModelEvent[] = [];
    try {
      for await (const event of this.#model.stream(request)) {
        said.push(event);
        if (event.type === "usage") usage = event.usage;
        if (event.type === "finish") {
          this.#budget.add((usage ??= estimateUsage(request, said)), this.#prices);
          said.length = 0;
        }
        yield event;
      }
    } finally {
      // Left early, or failed after it had begun: what was said was paid for.
      if (said.length) this.#budget.add(usage ?? estimateUsage(request, said), this.#prices);
    }
  }
}
