/** Drawing once a frame, however much has changed. */

export function oncePerFrame(draw: () => void): () => void {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      draw();
    });
  };
}

/** What a page knows: views read `state`, and are drawn anew after every `change`. */
export function store<S extends object>(state: S) {
  let draw: () => void = () => undefined;
  const drawSoon = oncePerFrame(() => draw());
  return {
    onChange(render: () => void): void {
      draw = render;
    },
    change(values: Partial<S> = {}): void {
      Object.assign(state, values);
      drawSoon();
    },
  };
}
