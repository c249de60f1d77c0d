/** A tiny model of random weights and its tokenizer, for tests that need an engine: nothing here is learned. */
import OpenAI from "openai";
import { openEngine } from "../engine/index.ts";
import { Model, ModelConfig } from "../model/index.ts";
import { k2Specials, Tokenizer } from "../tokenizer/index.ts";
import { engineBackend } from "./engine.ts";
import { openGateway } from "./gateway/gateway.ts";
import { listen } from "./listen.ts";
import { Service } from "./service.ts";

/** Single bytes, and K2's special tokens. */
export function byteTokenizer(): Tokenizer {
  const tokens = Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte));
  return new Tokenizer({ tokens, specials: k2Specials.map((token, i) => ({ ...token, id: 256 + i })) });
}

/** 32 wide. */
export const tinyModel = (seed = 1, maxPositionEmbeddings = 1024): Model =>
  Model.init(
    ModelConfig.parse({
      ...{ vocabSize: 256 + k2Specials.length, hiddenSize: 32, numHiddenLayers: 2, intermediateSize: 48 },
      ...{ moeIntermediateSize: 16, numAttentionHeads: 2, qLoraRank: 16, kvLoraRank: 16, qkNopeHeadDim: 8 },
      ...{ qkRopeHeadDim: 8, vHeadDim: 8, nRoutedExperts: 4, numExpertsPerTok: 2, maxPositionEmbeddings },
      // Larger than a training's, so that logits are far apart and answers tell weights apart.
      initializerRange: 0.3,
    }),
    seed,
  );

interface Server {
  url: string;
  client: OpenAI;
}

export interface EngineAndGateway extends AsyncDisposable {
  engine: Server;
  gateway: Server;
}

/** Our own engine (`k2`, and `k2-thinking`) as a server, and a gateway whose upstream it is: what gets lost on the way
 *  shows. Its end throws where the engine still holds blocks. */
export async function engineAndGateway(): Promise<EngineAndGateway> {
  const stack = new AsyncDisposableStack();
  const model = stack.adopt(tinyModel(5, 4096), (model) => model.dispose());
  const speculate = { ngram: 3, max: 4 };
  const options = { model, tokenizer: byteTokenizer(), cacheBytes: 8 << 20, exact: true, speculate };
  const engine = stack.use(openEngine(options));
  stack.defer(() => {
    const { held } = engine.metrics().blocks;
    if (held) throw new Error(`${held} blocks are held by nobody`);
  });
  const own = new Service();
  own.add(await engineBackend(engine, { names: ["k2"], template: "instruct", pace: 0 }));
  own.add(await engineBackend(engine, { names: ["k2-thinking"], template: "thinking", pace: 0 }));
  const back = stack.use(await listen({ service: own, grace: 500, debug: true }));
  const service = new Service();
  for (const name of ["k2", "k2-thinking"]) {
    const upstream = { urls: [`${back.url}/v1`], model: name, metrics: service.metrics };
    service.add(stack.use(await openGateway(upstream)).backend);
  }
  const front = stack.use(await listen({ service, grace: 500 }));
  const [onEngine, onGateway] = [back, front].map(({ url }) => ({
    ...{ url, client: new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 }) },
  }));
  return {
    ...{ engine: onEngine!, gateway: onGateway! },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}
