import { spawnSync } from "node:child_process";
import { afterEach, describe, expect, test } from "vitest";
import { type Tensor, TorchError, torch } from "./index.ts";

const live = () => torch.memory().tensors;
/** Live tensors more than before `fn`, which frees what it is done with. */
function left(fn: () => void): number {
  const before = live();
  fn();
  return live() - before;
}

describe("scopes", () => {
  test("what is made in a scope goes with it, views and results of every kind too", () => {
    const x = torch.ones([2, 2]);
    expect(
      left(() => {
        using _ = torch.scope();
        x.add(1).topk(1);
        x.unbind();
        const y = x.clone().requires_grad_();
        torch.grad(y.sum(), y);
      }),
    ).toBe(0);
    expect(x.live).toBe(true);
  });

  test("they nest: what an inner one keeps moves to the outer", () => {
    const outer = torch.scope();
    const inner = torch.scope();
    const [a, b, c] = [torch.ones([1]), torch.ones([1]), torch.ones([1])];
    expect(inner.keep(a)).toBe(a);
    inner.keep([b]);
    inner.end();
    expect([a.live, b.live, c.live]).toEqual([true, true, false]);
    outer.end();
    expect([a.live, b.live]).toEqual([false, false]);
  });

  test("torch.keep takes a tensor out of all of them", () => {
    const outer = torch.scope();
    const inner = torch.scope();
    const [w, x] = [torch.keep(torch.ones([1])), torch.ones([1])];
    inner.end();
    outer.end();
    expect([w.live, x.live]).toEqual([true, false]);
    w.dispose();
  });

  test("an outer scope that ends first ends the inner ones; ending twice does nothing", () => {
    const outer = torch.scope();
    const inner = torch.scope();
    const a = torch.ones([1]);
    outer.end();
    expect(a.live).toBe(false);
    const b = torch.ones([1]);
    inner.end();
    outer.end();
    expect(b.live).toBe(true);
    b.dispose();
  });

  test("a tensor disposed of inside, and a scope left by an error", () => {
    expect(
      left(() => {
        expect(() => {
          using _ = torch.scope();
          const x = torch.ones([2]);
          x.dispose();
          x.dispose();
          torch.ones([3]).matmul(torch.ones([2]));
        }).toThrow(TorchError);
      }),
    ).toBe(0);
  });

  test("a slot used again is not the old tensor", () => {
    const old = torch.ones([1]);
    old.dispose();
    using fresh = torch.zeros([1]);
    old.dispose();
    expect([old.live, fresh.live, fresh.item()]).toEqual([false, true, 0]);
  });
});

describe("tidy", () => {
  test("keeps the tensors in what it returns: arrays and plain objects of them, numbers called h too", () => {
    const before = live();
    const made = torch.tidy(() => {
      const x = torch.ones([2]);
      x.add(1);
      return { h: 3, x, list: [x.add(2), { deep: x.add(3) }], nothing: null };
    });
    expect(live() - before).toBe(3);
    expect(made.h).toBe(3);
    expect((made.list[1] as { deep: Tensor }).deep.tolist()).toEqual([4, 4]);
    for (const t of [made.x, made.list[0] as Tensor, (made.list[1] as { deep: Tensor }).deep]) t.dispose();
    expect(torch.tidy(() => torch.ones([2]).sum().item())).toBe(2);
  });

  test("inside a scope, what it returns goes with that scope; with an error, all of it", () => {
    expect(
      left(() => {
        using _ = torch.scope();
        expect(torch.tidy(() => torch.ones([1])).live).toBe(true);
        expect(() => torch.tidy(() => torch.ones([1]).matmul(torch.ones([2])))).toThrow(TorchError);
      }),
    ).toBe(0);
  });

  test("refuses an asynchronous function", () => {
    expect(() => torch.tidy(async () => 1)).toThrow("torch.tidy was given an asynchronous function");
  });
});

describe("memory", () => {
  afterEach(() => torch.trackLeaks(false));

  test("counts tensors, and the bytes of a shared storage once", () => {
    using _ = torch.scope();
    const before = torch.memory();
    const x = torch.zeros([10, 10]);
    x.T;
    x.select(0, 1);
    torch.zeros([3], { dtype: "bfloat16" });
    const after = torch.memory();
    expect([after.tensors - before.tensors, after.bytes - before.bytes]).toEqual([4, 406]);
    expect(after.created).toBeUndefined();
  });

  test("trackLeaks says where each live tensor was made", () => {
    torch.trackLeaks(true);
    function leaky() {
      return [torch.ones([1]).add(1), torch.ones([1])];
    }
    const kept = torch.tidy(leaky);
    const { created } = torch.memory();
    const sites = [...created!].map(([where, n]) => [/leaky/.test(where), /scope\.test\.ts:\d+/.test(where), n]);
    expect(sites).toEqual([
      [true, true, 1],
      [true, true, 1],
    ]);
    expect([...created!.keys()].join()).not.toContain("overloads.ts");
    for (const t of kept) t.dispose();
    expect(torch.memory().created!.size).toBe(0);
  });

  test("1,000 training steps leave as many tensors as they found", () => {
    const w = torch.keep(torch.full([4, 4], 0.1, { dtype: "float32" }).requires_grad_());
    const x = torch.keep(torch.ones([2, 4]));
    const step = () => {
      using _ = torch.scope();
      const [g] = torch.grad(x.matmul(w).tanh().square().sum(), [w]) as [Tensor];
      torch.noGrad(() => w.sub_(g.mul(0.01)));
    };
    step();
    const { tensors, bytes } = torch.memory();
    for (let i = 0; i < 1000; i++) step();
    expect(torch.memory()).toEqual({ tensors, bytes });
  });

  // In a process of its own: what the garbage collector does here depends on what else is alive.
  test("without a scope, an asynchronous loop is freed by the garbage collector", () => {
    const script = `
      import { torch } from ${JSON.stringify(`${import.meta.dirname}/index.ts`)};
      let most = 0;
      for (let i = 0; i < 100_000; i++) {
        torch.zeros([2500]);
        if (i % 100 === 0) await new Promise(setImmediate);
        if (i % 1000 === 0) most = Math.max(most, torch.memory().bytes);
      }
      console.log(most);`;
    const { stdout, stderr } = spawnSync(process.execPath, ["--input-type=module-typescript", "-e", script], {
      encoding: "utf8",
    });
    expect(stderr).toBe("");
    expect(Number(stdout)).toBeGreaterThan(0);
    expect(Number(stdout)).toBeLessThan(500e6); // of 1 GB made; some 70 MB here, when the collector pleases
  });

  test("one thread of a process: another is told so", () => {
    const script = `
      import { Worker, isMainThread } from "node:worker_threads";
      import { torch } from ${JSON.stringify(`${import.meta.dirname}/index.ts`)};
      torch.info();
      const worker = new Worker(\`import(${JSON.stringify(`${import.meta.dirname}/index.ts`)}).then(({ torch }) => torch.info())\`, { eval: true });
      worker.on("error", (error) => console.log(error.code, error.message));`;
    const { stdout } = spawnSync(process.execPath, ["--input-type=module-typescript", "-e", script], {
      encoding: "utf8",
    });
    expect(stdout).toBe("torch.thread libtorch is in use on another thread of this process\n");
  });
});
