/** The mountain. */
import { h } from "preact";

export const Mark = () =>
  h(
    "svg",
    { class: "mark", viewBox: "0 0 32 20", "aria-hidden": true },
    h("path", { d: "M1 19 11 2l5 8.500 3.500-5L31 19z" }),
    h("path", { class: "snow", d: "m11 2 3.300 5.600-2.500 2-2-1.700-2.500.8z" }),
  );
