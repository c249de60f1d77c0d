/** Colours of the style sheet as a canvas needs them: a custom property holds `light-dark(…)`, an element's colour is one. */
let probe: HTMLElement | undefined;
const known = new Map<string, string>();

export function inkOf(property: string): string {
  let ink = known.get(property);
  if (ink) return ink;
  if (!probe?.isConnected) {
    probe = document.createElement("span");
    probe.hidden = true;
    document.documentElement.append(probe);
  }
  probe.style.color = `var(${property})`;
  ink = getComputedStyle(probe).color;
  known.set(property, ink);
  return ink;
}

/** The page's colours have changed. */
export const forgetInks = (): void => known.clear();
