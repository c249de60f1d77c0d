/** Runs long work that ends itself decently on SIGINT or SIGTERM; a second signal (a second later) ends it at once. */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  let since = 0;
  const stop = (name: NodeJS.Signals) => {
    if (!controller.signal.aborted) {
      since = Date.now();
      controller.abort();
      process.stderr.write(`\n${name}: finishing the step and writing a checkpoint (again to leave at once)\n`);
    } else if (Date.now() - since > 1000) process.exit(130); // a terminal's group signal may come twice
  };
  process.on("SIGINT", stop).on("SIGTERM", stop);
  try {
    return await work(controller.signal);
  } finally {
    process.off("SIGINT", stop).off("SIGTERM", stop);
  }
}
