/** Numbers as people read them. */

/** 12,300. */
export const whole = (value: number): string => Math.round(value).toLocaleString("en");

/** Without a sign on what rounds to 0. */
export const fixed = (value: number, digits: number): string =>
  (Math.round(value * 10 ** digits) / 10 ** digits + 0).toFixed(digits);

/** As short as it can be read: 1.26, 12,300, 3.4M, 2e-5. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e6) {
    const thousands = Math.floor(Math.log10(size) / 3);
    return `${trim((value / 10 ** (3 * thousands)).toPrecision(3))}${["", "k", "M", "G", "T", "P"][thousands] ?? ""}`;
  }
  if (size >= 999.5) return whole(value);
  if (size >= 1e-3) return trim(value.toPrecision(size >= 1 && size < 10 ? 4 : 3));
  return value.toExponential(1).replace(".0e", "e");
}
const trim = (text: string) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);

/** Seconds as people say them. */
export function duration(seconds: number): string {
  if (seconds < 100) return `${figure(seconds)} s`;
  if (seconds < 6000) return `${figure(seconds / 60)} min`;
  return `${figure(seconds / 3600)} h`;
}

/** A share of 1 with a digit more the smaller it is: 50 %, 2.0 %, 0.03 %. */
export function percent(share: number): string {
  const p = 100 * share;
  return `${p >= 10 ? p.toFixed(0) : p >= 0.1 ? p.toFixed(1) : p.toPrecision(1)} %`;
}
