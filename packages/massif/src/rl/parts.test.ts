import { describe, expect, test } from "vitest";
import { Curriculum, type TaskSource } from "./curriculum.ts";
import { CollapseGuard } from "./guard.ts";
import { lengthRewards, rewardsOf, totalOf } from "./rewards.ts";
import { passAtK, passHatK } from "./statistics.ts";

describe("rewards", () => {
  test("length: λ = ½ − (len − min)/(max − min), never above 0 for a wrong answer (K1.5)", () => {
    const answers = [
      { length: 10, success: true },
      { length: 20, success: true },
      { length: 10, success: false },
      { length: 15, success: false },
      { length: 20, success: false },
    ];
    expect(lengthRewards(answers)).toEqual([0.5, -0.5, 0, 0, -0.5]);
    expect(lengthRewards(answers.map((a) => ({ ...a, length: 7 })))).toEqual([0, 0, 0, 0, 0]);
  });
  test("each component apart; those that weigh nothing are not there", () => {
    const answers = [
      { outcome: 1, length: 10, truncated: false },
      { outcome: 0, length: 30, truncated: true },
    ];
    expect(rewardsOf(answers, { budgetPenalty: 0, lengthWeight: 0, criticWeight: 0 })).toEqual([
      { outcome: 1 },
      { outcome: 0 },
    ]);
    const all = rewardsOf(answers, { budgetPenalty: 0.25, lengthWeight: 0.1, criticWeight: 0 });
    expect(all).toEqual([
      { outcome: 1, budget: 0, length: 0.05 },
      { outcome: 0, budget: -0.25, length: -0.05 },
    ]);
    const [ranked] = rewardsOf([{ ...answers[0]!, rank: 0.5 }], {
      budgetPenalty: 0,
      lengthWeight: 0,
      criticWeight: 0.4,
    });
    expect(ranked).toEqual({ outcome: 1, critic: 0.2 });
    expect(all.map(totalOf)).toEqual([1.05, expect.closeTo(-0.3, 12)]);
  });
});

test("pass@k and pass^k against counting all subsets", () => {
  // 2 of 4 right, k = 2: of 6 pairs 1 has no right one, 1 has both.
  expect(passAtK(2, 4, 2)).toBeCloseTo(5 / 6, 12);
  expect(passHatK(2, 4, 2)).toBeCloseTo(1 / 6, 12);
  expect([passAtK(0, 4, 4), passAtK(1, 4, 4), passHatK(3, 4, 4), passHatK(4, 4, 4)]).toEqual([0, 1, 0, 1]);
});

describe("curriculum", () => {
  // The type of a task is its seed's last bit: half easy, half hard.
  const sources: TaskSource[] = [
    { name: "w", weight: 1, typeOf: (seed) => (seed % 2 ? "easy" : "hard") },
    { name: "rare", weight: 0.25, typeOf: () => "only" },
  ];
  const make = (priority: number) => new Curriculum(sources, { seed: 3, priority, memory: 0.5 });
  const teach = (curriculum: Curriculum) => {
    curriculum.saw({ source: 0, seed: 1, type: "easy" }, 1);
    curriculum.saw({ source: 0, seed: 2, type: "hard" }, 0.25);
    curriculum.saw({ source: 1, seed: 2, type: "only" }, 0.75);
  };
  const shares = (curriculum: Curriculum, n = 2000) => {
    const types = Array.from({ length: n }, () => curriculum.next().type);
    return (type: string) => types.filter((t) => t === type).length / n;
  };
  test("by 1 − success of a type: 0.75 to 0.25, and what is solved is not drawn", () => {
    const curriculum = make(1);
    teach(curriculum);
    const share = shares(curriculum);
    // Three standard errors of a share of 2,000 draws are 0.03.
    expect(share("hard")).toBeCloseTo(0.75, 1);
    expect(share("only")).toBeCloseTo(0.25, 1);
    expect(share("easy")).toBe(0);
  });
  test("without priority as the worlds draw them, by weight", () => {
    const curriculum = make(0);
    teach(curriculum);
    expect(shares(curriculum)("only")).toBeCloseTo(0.2, 1);
  });
  test("a rate forgets; a saved state draws the same tasks", () => {
    const curriculum = make(0.5);
    teach(curriculum);
    curriculum.saw({ source: 0, seed: 4, type: "hard" }, 0.75);
    expect(curriculum.rates).toEqual({ "w/easy": 1, "w/hard": 0.5, "rare/only": 0.75 });
    const other = make(0.5);
    other.state = JSON.parse(JSON.stringify(curriculum.state));
    const ten = (c: Curriculum) => Array.from({ length: 10 }, () => c.next());
    expect(ten(other)).toEqual(ten(curriculum));
  });
});

describe("collapse", () => {
  const make = () => new CollapseGuard({ fall: 0.3, patience: 3 });
  test("a side that falls far below its best and stays is a lock-in, whatever the mean does", () => {
    const guard = make();
    for (let i = 0; i < 5; i++) expect(guard.judge({ act: 0.4, refuse: 0.8 })).toBeUndefined();
    // Always act: the mean rises, refusals are gone.
    const said = Array.from({ length: 8 }, () => guard.judge({ act: 1, refuse: 0 }));
    expect(said.find(Boolean)).toMatch(/^success of tasks to refuse fell from 0\.80 to 0\.\d\d and stayed$/);
    // 0.8 · 0.7² is the first rate that is 0.3 below; the third such step in a row is called.
    expect(said.findIndex(Boolean)).toBe(3);
    expect(guard.calm).toBe(false);
  });
  test("a noisy step, and a side without tasks, are none", () => {
    const guard = make();
    for (const refuse of [0.5, 0.6, 0.1, 0.6, 0.2, 0.7]) {
      expect(guard.judge({ refuse })).toBeUndefined();
      expect(guard.judge({ act: 0.5 })).toBeUndefined();
    }
    expect(guard.calm).toBe(true);
  });
  test("a resumed guard judges as the uninterrupted one", () => {
    const [one, two] = [make(), make()];
    for (let i = 0; i < 5; i++) one.judge({ act: 0.9 });
    two.state = JSON.parse(JSON.stringify(one.state));
    for (let i = 0; i < 6; i++) expect(two.judge({ act: 0.1 })).toBe(one.judge({ act: 0.1 }));
  });
});
