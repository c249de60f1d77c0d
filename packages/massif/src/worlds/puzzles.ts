/** Verifiable single-turn puzzles, some in the formats of K2's logic data (24 game, sudoku, cryptarithm, Morse, tables). */
import type { Random } from "../common/index.ts";
import { evaluate, solve24 } from "./arithmetic.ts";
import type { Question, Quiz } from "./single-turn.ts";

const WORDS = ["anna", "ben", "carl", "dora", "emma", "frank", "gina", "hugo", "ivan", "jane", "kurt", "lena"];
const exact = (answer: string, wanted: string): string | undefined =>
  answer.toLowerCase().replace(/\.$/, "") === wanted.toLowerCase()
    ? undefined
    : `'${answer.slice(0, 80)}' is not the answer`;

/** Four numbers, each used once, to make 24. Any right expression counts. */
function game24(random: Random): Question {
  let numbers: number[] = [];
  let solution: string | undefined;
  while (!solution) {
    numbers = Array.from({ length: 4 }, () => 1 + random.int(9));
    solution = solve24(numbers);
  }
  const list = numbers.join(", ");
  const wanted = [...numbers].sort((a, b) => a - b).join();
  return {
    key: `24 ${wanted}`,
    wordings: {
      train: [`Make 24 from ${list}, each used once, with + - * / and brackets.`, `Use ${list} once each to get 24.`],
      heldout: [`Which expression of ${list} (all of them, once each) is 24?`],
    },
    solution,
    wrong: (answer) => {
      const found = evaluate(answer.replace(/=\s*24\s*$/, ""));
      if (typeof found === "string") return found;
      if (found.used.sort((a, b) => a - b).join() !== wanted) return `uses ${found.used}, not ${wanted}`;
      return found.value.n === 24 * found.value.d ? undefined : `makes ${found.value.n}/${found.value.d}, not 24`;
    },
  };
}

/** A 4 × 4 sudoku with one solution, six cells or more blank. */
function sudoku(random: Random): Question {
  const symbols = random.shuffle([1, 2, 3, 4]);
  const base = [0, 1, 2, 3, 2, 3, 0, 1, 1, 0, 3, 2, 3, 2, 1, 0].map((i) => symbols[i] ?? 0);
  // Rows within a band, and bands, may be exchanged without breaking the rules.
  const rows = random
    .shuffle([
      [0, 1],
      [2, 3],
    ])
    .flatMap((band) => random.shuffle(band));
  const full = rows.flatMap((r) => base.slice(r * 4, r * 4 + 4));
  const grid = [...full];
  for (const cell of random.shuffle(Array.from({ length: 16 }, (_, i) => i))) {
    const kept = grid[cell] ?? 0;
    grid[cell] = 0;
    if (grid.filter((v) => !v).length > 8 || fillings(grid, 2) !== 1) grid[cell] = kept;
  }
  const show = (cells: number[]) =>
    [0, 4, 8, 12]
      .map((i) =>
        cells
          .slice(i, i + 4)
          .map((v) => v || "_")
          .join(" "),
      )
      .join("\n");
  return {
    key: `sudoku ${grid.join("")}`,
    wordings: {
      train: [
        `Fill in 1 to 4, once in each row, column and 2x2 block:\n${show(grid)}`,
        `Solve this 4x4 sudoku:\n${show(grid)}`,
      ],
      heldout: [`Complete the small sudoku and give all four rows:\n${show(grid)}`],
    },
    solution: show(full),
    wrong: (answer) => (answer.replace(/[^1-4]/g, "") === full.join("") ? undefined : "not the filled grid"),
  };
}

/** How many ways to fill the grid, counted up to `most`. */
function fillings(grid: readonly number[], most: number): number {
  const cell = grid.indexOf(0);
  if (cell < 0) return 1;
  const [row, column] = [Math.floor(cell / 4), cell % 4];
  let count = 0;
  for (let v = 1; v <= 4 && count < most; v++) {
    const clash = grid.some((w, i) => {
      const [r, c] = [Math.floor(i / 4), i % 4];
      return w === v && (r === row || c === column || (r >> 1 === row >> 1 && c >> 1 === column >> 1));
    });
    if (!clash) count += fillings(grid.with(cell, v), most - count);
  }
  return count;
}

/** AB + C = DE with letters for digits; the value of one letter is asked, and only one is possible. */
function cryptarithm(random: Random): Question {
  for (;;) {
    const [a, b] = [10 + random.int(80), 10 + random.int(80)];
    const sum = a + b;
    const digits = [...new Set(`${a}${b}${sum}`)];
    const letters = random.shuffle([..."ABCDEFGHKLMN"]).slice(0, digits.length);
    const word = (n: number) => [...String(n)].map((d) => letters[digits.indexOf(d)]).join("");
    const equation = `${word(a)} + ${word(b)} = ${word(sum)}`;
    const asked = random.int(digits.length);
    if (readings(word(a), word(b), word(sum), letters[asked] ?? "").size !== 1) continue;
    const letter = letters[asked];
    return {
      key: `crypt ${equation} ${letter}`,
      wordings: {
        train: [`Each letter is a digit of its own: ${equation}. Which digit is ${letter}?`],
        heldout: [`In ${equation} different letters stand for different digits. What is ${letter}?`],
      },
      solution: digits[asked] ?? "",
      wrong: (answer) => exact(answer, digits[asked] ?? ""),
    };
  }
}

/** The digits that `letter` can be, over all readings of the sum without leading zeros. */
function readings(a: string, b: string, sum: string, letter: string): Set<string> {
  const found = new Set<string>();
  for (let x = 10; x < 100; x++)
    for (let y = 10; y < 100; y++) {
      const text = `${x}${y}${x + y}`;
      const word = a + b + sum;
      if (text.length !== word.length) continue;
      const map = new Map<string, string>();
      for (const [i, l] of [...word].entries()) if (!map.has(l)) map.set(l, text[i] ?? "");
      const fits = [...word].every((l, i) => map.get(l) === text[i]);
      if (fits && new Set(map.values()).size === map.size) found.add(map.get(letter) ?? "");
    }
  return found;
}

const MORSE: Record<string, string> = {
  a: ".-",
  b: "-...",
  c: "-.-.",
  d: "-..",
  e: ".",
  f: "..-.",
  g: "--.",
  h: "....",
  i: "..",
  j: ".---",
  k: "-.-",
  l: ".-..",
  m: "--",
  n: "-.",
  o: "---",
  p: ".--.",
  q: "--.-",
  r: ".-.",
  s: "...",
  t: "-",
  u: "..-",
  v: "...-",
  w: ".--",
  x: "-..-",
  y: "-.--",
  z: "--..",
};

function morse(random: Random): Question {
  const word = Array.from({ length: 3 + random.int(4) }, () => random.pick([..."abcdefghijklmnopqrstuvwxyz"])).join("");
  const code = [...word].map((c) => MORSE[c]).join(" ");
  return {
    key: `morse ${word}`,
    wordings: {
      train: [`Read this Morse code: ${code}`, `Decode: ${code}`],
      heldout: [`Which letters are these in Morse: ${code}`],
    },
    solution: word,
    wrong: (answer) => exact(answer, word),
  };
}

/** Two hops through a table: whose boss sits where? */
function table(random: Random): Question {
  const people = random.shuffle([...WORDS]).slice(0, 6);
  const rooms = random.shuffle(Array.from({ length: 60 }, (_, i) => 10 + i)).slice(0, 6);
  const boss = people.map((_, i) => (i + 1 + random.int(5)) % 6);
  const rows = people.map((p, i) => `${p} | ${rooms[i]} | ${people[boss[i] ?? 0]}`);
  const start = random.int(6);
  const hops = 1 + random.int(3);
  let at = start;
  for (let h = 0; h < hops; h++) at = boss[at] ?? 0;
  const chain = `${"the boss of ".repeat(hops)}${people[start]}`;
  const text = `name | room | boss\n${rows.join("\n")}`;
  return {
    key: `table ${rows.join()} ${start} ${hops}`,
    wordings: {
      train: [`${text}\nIn which room is ${chain}?`],
      heldout: [`${text}\nGive the room number of ${chain}.`],
    },
    solution: String(rooms[at]),
    wrong: (answer) => exact(answer, String(rooms[at])),
  };
}

/** Knights tell the truth, knaves lie; every pair of statements drawn here has one reading. */
function knights(random: Random): Question {
  const names = random.shuffle([...WORDS]).slice(0, 3);
  for (;;) {
    // Speaker i says of person `of[i]` that they are (or are not) a knight.
    const of = names.map((_, i) => (i + 1 + random.int(2)) % 3);
    const says = names.map(() => random.int(2) === 1);
    const right = Array.from({ length: 8 }, (_, m) => m).filter((m) =>
      names.every((_, i) => (((m >> i) & 1) === 1) === ((((m >> (of[i] ?? 0)) & 1) === 1) === says[i])),
    );
    // Such statements come in mirrored pairs unless someone is known; telling one person's kind settles it.
    const known = random.int(3);
    const [one, ...others] = right.filter((m) => (m >> known) & 1);
    if (one === undefined || others.length) continue;
    const told = names.map((n, i) => `${n} says: ${names[of[i] ?? 0]} is a ${says[i] ? "knight" : "knave"}.`).join(" ");
    const text = `Knights tell the truth, knaves lie. ${told} ${names[known]} is a knight.`;
    const solution = names.map((n, i) => `${n} ${(one >> i) & 1 ? "knight" : "knave"}`).join(", ");
    return {
      key: `knights ${told} ${known}`,
      wordings: {
        train: [`${text} Who is what? Answer as: ${names.map((n) => `${n} knight`).join(", ")}.`],
        heldout: [`${text} Tell what each is, in the form: ${names.map((n) => `${n} knave`).join(", ")}.`],
      },
      solution,
      wrong: (answer) => exact(answer, solution),
    };
  }
}

function sorting(random: Random): Question {
  const numbers = Array.from({ length: 5 + random.int(4) }, () => random.int(100));
  const up = random.int(2) === 1;
  const sorted = [...numbers].sort((a, b) => (up ? a - b : b - a)).join(" ");
  const order = up ? "smallest first" : "largest first";
  return {
    key: `sort ${numbers} ${up}`,
    wordings: {
      train: [`Sort, ${order}: ${numbers.join(" ")}`],
      heldout: [`Put these in order (${order}): ${numbers.join(" ")}`],
    },
    solution: sorted,
    wrong: (answer) => exact(answer.replace(/[,\s]+/g, " ").trim(), sorted),
  };
}

function counting(random: Random): Question {
  const letters = Array.from({ length: 8 + random.int(10) }, () => random.pick([..."abcd"]));
  const letter = random.pick(letters);
  const count = String(letters.filter((l) => l === letter).length);
  return {
    key: `count ${letters.join("")} ${letter}`,
    wordings: {
      train: [`How many ${letter} are in ${letters.join("")}?`],
      heldout: [`Count the letter ${letter} in ${letters.join("")}.`],
    },
    solution: count,
    wrong: (answer) => exact(answer, count),
  };
}

export const puzzles: Quiz = {
  name: "puzzles",
  version: 1,
  system: "Answer with the solution alone.",
  kinds: { game24, sudoku, cryptarithm, morse, table, knights, sorting, counting },
};
