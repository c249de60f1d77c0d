// The values under the pointer, or under the cursor that the arrow keys move.
const tip = document.getElementById("tip");
const figure = (n) => (Math.abs(n) >= 10000 ? Math.round(n).toLocaleString("en") : String(Number(n.toPrecision(4))));

for (const svg of document.querySelectorAll("svg[data-plot]")) {
  const plot = JSON.parse(svg.dataset.plot);
  const { box } = plot;
  const cursor = svg.querySelector(".cursor");
  const xs = plot.steps ?? [...new Set(plot.lines.flatMap((line) => line.points.map(([x]) => x)))].sort((a, b) => a - b);
  const place = (i) =>
    plot.map
      ? box.left + ((i + 0.5) / xs.length) * (box.right - box.left)
      : box.left + ((xs[i] - plot.x0) / (plot.x1 - plot.x0)) * (box.right - box.left);
  let at = 0;
  let row = 0;

  function show() {
    const lines = [`${plot.x} ${figure(xs[at])}`];
    if (plot.map) lines.push(`${plot.row} ${row}: ${figure(plot.map[at][row])} × the mean`);
    for (const { name, points } of plot.lines ?? []) {
      const point = points.find(([x]) => x === xs[at]);
      if (point) lines.push(`${name}: ${figure(point[1])}`);
    }
    tip.textContent = lines.join("\n");
    tip.hidden = false;
    cursor.setAttribute("x1", place(at));
    cursor.setAttribute("x2", place(at));
    cursor.style.visibility = "visible";
    const frame = svg.getBoundingClientRect();
    const x = frame.left + (place(at) / svg.viewBox.baseVal.width) * frame.width;
    const right = x + 14 + tip.offsetWidth < innerWidth;
    tip.style.left = `${Math.max(4, right ? x + 14 : x - 14 - tip.offsetWidth)}px`;
    tip.style.top = `${Math.max(4, frame.top + 10)}px`;
  }
  function hide() {
    tip.hidden = true;
    cursor.style.visibility = "hidden";
  }
  svg.addEventListener("pointermove", (event) => {
    const frame = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / frame.width;
    const x = (event.clientX - frame.left) * scale;
    at = xs.reduce((best, _, i) => (Math.abs(place(i) - x) < Math.abs(place(best) - x) ? i : best), 0);
    if (plot.map) {
      const share = ((event.clientY - frame.top) * scale - box.top) / (box.bottom - box.top);
      row = Math.max(0, Math.min(plot.map[0].length - 1, Math.floor(share * plot.map[0].length)));
    }
    show();
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step || (step[1] && !plot.map)) return;
    event.preventDefault();
    at = Math.max(0, Math.min(xs.length - 1, at + step[0]));
    if (plot.map) row = Math.max(0, Math.min(plot.map[0].length - 1, row + step[1]));
    show();
  });
}
