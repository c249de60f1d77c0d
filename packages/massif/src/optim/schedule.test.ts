import { expect, test } from "vitest";
import { ScheduleConfig, wsd } from "./schedule.ts";

const config = { warmupSteps: 4, decayFraction: 0.4, finalRatio: 0.1 };

test("warm-up, a constant stretch, and a cosine down to the final ratio, in literals", () => {
  const rates = Array.from({ length: 20 }, (_, step) => wsd(step, 20, config));
  expect(rates.slice(0, 12)).toEqual([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
  // Eight steps of decay: 0.1 + 0.45 (1 + cos(π n / 8)), n = 1 … 8.
  const cosine = [0.9657457895, 0.8681980515, 0.7222075445, 0.55, 0.3777924555, 0.2318019485, 0.1342542105, 0.1];
  for (const [i, rate] of cosine.entries()) expect(rates[12 + i]).toBeCloseTo(rate, 9);
});

test("without warm-up or decay it is constant, and after the last step it stays at the final ratio", () => {
  expect(wsd(0, 10, { warmupSteps: 0, decayFraction: 0, finalRatio: 0.1 })).toBe(1);
  expect(wsd(9, 10, { warmupSteps: 0, decayFraction: 0, finalRatio: 0.1 })).toBe(1);
  expect(wsd(25, 20, config)).toBeCloseTo(0.1, 15);
});

test("all decay from the first step", () => {
  const rates = [0, 1, 2, 3].map((step) => wsd(step, 4, { warmupSteps: 0, decayFraction: 1, finalRatio: 0 }));
  for (const [i, rate] of [0.8535533906, 0.5, 0.1464466094, 0].entries()) expect(rates[i]).toBeCloseTo(rate, 9);
});

test("the defaults are K2's shape", () => {
  expect(ScheduleConfig.parse({})).toEqual({ warmupSteps: 20, decayFraction: 0.35, finalRatio: 0.1 });
});
