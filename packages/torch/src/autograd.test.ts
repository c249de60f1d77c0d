import { describe, expect, test } from "vitest";
import { type Tensor, TorchError, torch } from "./index.ts";

const leaf = (data: number[]): Tensor => torch.tensor(data, { dtype: "float64", requiresGrad: true });

describe("grad", () => {
  test("of a scalar, of several outputs, with gradients given", () => {
    const [x, y] = [leaf([1, 2]), leaf([3, 4])];
    const both = torch.grad(x.mul(y).sum(), [x, y]);
    expect(both.map((g) => g.tolist())).toEqual([
      [3, 4],
      [1, 2],
    ]);
    expect(
      torch.grad(x.square(), x, { gradOutputs: [torch.tensor([1, 10], { dtype: "float64" })] })[0]!.tolist(),
    ).toEqual([2, 40]);
    expect(torch.grad([x.sum(), x.square().sum()], [x])[0]!.tolist()).toEqual([3, 5]);
    expect(x.grad).toBe(null);
  });

  test("second order with createGraph: d²(x³)/dx² = 6x", () => {
    const x = leaf([2, 3]);
    const [first] = torch.grad(x.pow(3).sum(), x, { createGraph: true });
    expect(first!.tolist()).toEqual([12, 27]);
    expect(torch.grad(first!.sum(), x)[0]!.tolist()).toEqual([12, 18]);
  });

  test("an input that is not used: an error, or null with allowUnused", () => {
    const [x, y] = [leaf([1]), leaf([1])];
    expect(torch.grad(x.sum(), [x, y], { allowUnused: true })[1]).toBe(null);
    expect(() => torch.grad(x.sum(), [x, y])).toThrow("appears to not have been used in the graph");
  });

  test("a graph goes with its first backward, unless retained", () => {
    const x = leaf([1, 2]);
    const y = x.square().sum();
    expect(torch.grad(y, x, { retainGraph: true })[0]!.tolist()).toEqual([2, 4]);
    expect(torch.grad(y, x)[0]!.tolist()).toEqual([2, 4]);
    expect(() => torch.grad(y, x)).toThrow("Trying to backward through the graph a second time");
  });

  test("what was saved and then overwritten is noticed, by set too", () => {
    const x = leaf([1, 2]);
    const y = x.mul(1);
    const z = y.square().sum();
    torch.noGrad(() => y.set(new Float64Array([5, 5])));
    expect(() => torch.grad(z, x)).toThrow("has been modified by an inplace operation");
  });
});

describe("backward", () => {
  test("accumulates into the leaves; grad can be set and cleared", () => {
    const x = leaf([1, 2]);
    x.square().sum().backward();
    x.square().sum().backward();
    expect(x.grad!.tolist()).toEqual([4, 8]);
    x.grad = null;
    x.mul(3).backward(torch.tensor([1, 2], { dtype: "float64" }));
    expect(x.grad!.tolist()).toEqual([3, 6]);
    x.grad = torch.zeros([2], { dtype: "float64" });
    x.sum().backward();
    expect(x.grad.tolist()).toEqual([1, 1]);
    expect(() => {
      x.grad = torch.zeros([3], { dtype: "float64" });
    }).toThrow("the gradient is CPUDoubleType [3], the tensor CPUDoubleType [2]");
  });

  test("leaves and their tensors", () => {
    const x = leaf([1]);
    const y = x.mul(2);
    expect([x.isLeaf, y.isLeaf, y.requiresGrad, y.detach().requiresGrad]).toEqual([true, false, true, false]);
    x.requiresGrad = false;
    expect(x.mul(2).requiresGrad).toBe(false);
    expect(() => torch.zeros([1], { dtype: "int64" }).requires_grad_()).toThrow(TorchError);
  });

  test("an error inside the backward comes with ATen's text and a code", () => {
    const error = (() => {
      try {
        leaf([1, 2]).square().backward();
      } catch (e) {
        return e;
      }
    })();
    expect(error).toBeInstanceOf(TorchError);
    expect(error).toMatchObject({
      code: "torch.aten",
      message: "grad can be implicitly created only for scalar outputs",
    });
  });
});

describe("grad mode", () => {
  test("noGrad and enableGrad nest, as functions and with using, and come back after an error", () => {
    const x = leaf([1]);
    const recorded = () => x.mul(2).requiresGrad;
    const seen = torch.noGrad(() => [recorded(), torch.enableGrad(recorded), recorded()]);
    expect([...seen, recorded()]).toEqual([false, true, false, true]);
    {
      using _ = torch.noGrad();
      {
        using __ = torch.enableGrad();
        expect(recorded()).toBe(true);
      }
      expect(torch.isGradEnabled()).toBe(false);
    }
    expect(() => torch.noGrad(() => torch.cat([]))).toThrow(TorchError);
    expect(torch.isGradEnabled()).toBe(true);
    expect(() => torch.noGrad(async () => 1)).toThrow("an asynchronous function");
    expect(torch.isGradEnabled()).toBe(true);
  });
});

describe("on a worker thread", () => {
  /** Some milliseconds of work: a chain of matrix products. */
  function chain(seed: number): { loss: Tensor; w: Tensor } {
    torch.manualSeed(seed);
    const w = torch.randn([256, 256]).mul(0.06).requires_grad_();
    let x = torch.randn([256, 256]);
    for (let i = 0; i < 20; i++) x = x.matmul(w).tanh();
    return { loss: x.sum(), w };
  }

  test("bitwise the gradients of the synchronous call, while the event loop goes round", async () => {
    const { loss, w } = chain(1);
    const [sync] = torch.grad(loss, w, { retainGraph: true });
    let turns = 0;
    let done = false;
    const turn = () => {
      turns++;
      if (!done) setImmediate(turn);
    };
    setImmediate(turn);
    const [async] = await torch.gradAsync(loss, w);
    done = true;
    expect(turns).toBeGreaterThan(1);
    expect(async!.bytes()).toEqual(sync!.bytes());
  });

  test("backwardAsync accumulates as backward does", async () => {
    const a = chain(2);
    a.loss.backward();
    const b = chain(2);
    await b.loss.backwardAsync();
    expect(b.w.grad!.bytes()).toEqual(a.w.grad!.bytes());
  });

  test("rejections are TorchErrors", async () => {
    const x = leaf([1, 2]);
    await expect(torch.gradAsync(x.square(), x)).rejects.toMatchObject({
      name: "TorchError",
      code: "torch.aten",
      message: "grad can be implicitly created only for scalar outputs",
    });
    const gone = leaf([1]);
    gone.dispose();
    await expect(torch.gradAsync(gone, gone)).rejects.toMatchObject({ code: "torch.disposed" });
  });

  test("two at once, the tensors freed meanwhile, with either grad mode on this thread", async () => {
    const expected = [3, 4].map((seed) => {
      const { loss, w } = chain(seed);
      return torch.grad(loss, w)[0]!.bytes();
    });
    const running = [3, 4].map((seed) => {
      using _ = torch.scope();
      const { loss, w } = chain(seed);
      return torch.gradAsync(loss, w);
    });
    const off = torch.noGrad();
    const found = await Promise.all(running);
    expect(torch.isGradEnabled()).toBe(false);
    off[Symbol.dispose]();
    expect(found.map(([g]) => g!.bytes())).toEqual(expected);
    expect(found.every(([g]) => !g!.requiresGrad)).toBe(true);
  });

  test("createGraph records on the worker", async () => {
    const x = leaf([2]);
    const [first] = await torch.gradAsync(x.pow(3).sum(), x, { createGraph: true });
    expect((await torch.gradAsync(first!, x))[0]!.tolist()).toEqual([12]);
    const [unused] = await torch.gradAsync(x.sum(), leaf([1]), { allowUnused: true });
    expect(unused).toBe(null);
  });
});
