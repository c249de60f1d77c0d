/** Server-sent events to a client: what comes together goes together, a slow reader slows its own stream only, a quiet one
 *  is kept alive, one that is gone ends it. */
import { ApiError } from "./errors.ts";

interface SseOptions {
  /** Milliseconds of quiet after which a comment is sent. */
  keepAlive: number;
  /** Milliseconds after which a reader that takes nothing is given up. */
  stall: number;
  headers?: Record<string, string>;
  /** The frames that tell an error after the first byte. */
  onError(error: unknown): string;
  /** Called when nobody reads any more. */
  onGone(reason: unknown): void;
}

/** Code units that wait for a reader before the model is no longer asked for more. */
const HIGH_WATER = 1 << 16;

export const frame = (data: unknown, event?: string): string =>
  `${event ? `event: ${event}\n` : ""}data: ${typeof data === "string" ? data : JSON.stringify(data)}\n\n`;

/**
 * A response that streams frames. It begins when the first frame is there, so that a refusal still is an HTTP status; or
 * after `keepAlive` without one, so that a client in a long queue sees the server live.
 */
export async function sseResponse(frames: AsyncGenerator<string, void>, options: SseOptions): Promise<Response> {
  const first = frames.next();
  let timer: NodeJS.Timeout | undefined;
  const patience = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, options.keepAlive);
  });
  try {
    await Promise.race([first, patience]);
  } finally {
    clearTimeout(timer);
  }
  return new Response(streamOf(first, frames, options), {
    headers: {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache, no-transform",
      "x-accel-buffering": "no",
      ...options.headers,
    },
  });
}

function streamOf(
  first: Promise<IteratorResult<string, void>>,
  frames: AsyncGenerator<string, void>,
  { keepAlive, stall, onError, onGone }: SseOptions,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let waiting = "";
  let [done, gone] = [false, false];
  let taken = performance.now();
  let [onMore, onTaken]: ((() => void) | undefined)[] = [];
  const wake = () => {
    onMore?.();
    onMore = undefined;
  };
  const leave = (reason: unknown) => {
    if (gone || done) return;
    gone = true;
    clearInterval(timer);
    onGone(reason);
    onTaken?.();
    wake();
  };
  const timer = setInterval(() => {
    if (!waiting) {
      waiting = ": keep-alive\n\n";
      wake();
    } else if (performance.now() - taken > stall) leave(new ApiError(408, "the client stopped reading"));
  }, keepAlive);
  timer.unref();

  const pump = async () => {
    try {
      for (let next = await first; !next.done && !gone; next = await frames.next()) {
        waiting += next.value;
        wake();
        if (waiting.length > HIGH_WATER) {
          await new Promise<void>((resolve) => {
            onTaken = resolve;
          });
        }
      }
    } catch (error) {
      if (!gone) waiting += onError(error);
    } finally {
      if (gone) await frames.return(undefined).catch(() => undefined);
      done = true;
      clearInterval(timer);
      wake();
    }
  };
  void pump();

  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        while (!waiting && !done && !gone) {
          await new Promise<void>((resolve) => {
            onMore = resolve;
          });
        }
        taken = performance.now();
        if (gone) return controller.error(new ApiError(408, "the client stopped reading"));
        if (waiting) controller.enqueue(encoder.encode(waiting));
        waiting = "";
        onTaken?.();
        onTaken = undefined;
        if (done) controller.close();
      },
      cancel: leave,
    },
    { highWaterMark: 0 },
  );
}
