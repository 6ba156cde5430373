// SPDX-License-Identifier: Apache-2.0
// Quantities as people read them. Knows no DOM.

const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** 283115520 → "270.0 MiB" */
export function bytes(count) {
  let unit = 0;
  while (count >= 1024 && unit < BYTE_UNITS.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(count) : count.toFixed(1)} ${BYTE_UNITS[unit]}`;
}

/** Decimal, as media are specified: 1.93e9 → "1.93 GB/s" */
export function rate(bytesPerSecond) {
  return bytesPerSecond >= 1e9
    ? `${(bytesPerSecond / 1e9).toFixed(2)} GB/s`
    : `${Math.round(bytesPerSecond / 1e6)} MB/s`;
}

/** Milliseconds → "4.2 ms", "283 ms", "1.84 s" */
export function milliseconds(value) {
  if (value >= 999.5) return `${(value / 1000).toFixed(value < 9995 ? 2 : 1)} s`;
  return value < 9.95 ? `${value.toFixed(1)} ms` : `${Math.round(value)} ms`;
}

/** Seconds → "12 s", "4 min 5 s", "2 h" */
export function seconds(value) {
  const whole = Math.max(0, Math.round(value));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole % 60 ? ` ${whole % 60} s` : ""}`;
  return `${Math.floor(whole / 3600)} h${whole % 3600 >= 60 ? ` ${Math.floor((whole % 3600) / 60)} min` : ""}`;
}

/** Seconds since → "now", "12 s ago", "3 min ago" */
export function ago(value) {
  if (value < 1) return "now";
  if (value < 60) return `${Math.floor(value)} s ago`;
  if (value < 3600) return `${Math.floor(value / 60)} min ago`;
  return value < 86400 ? `${Math.floor(value / 3600)} h ago` : `${Math.floor(value / 86400)} d ago`;
}

/** 1, "model" → "1 model"; 2, "model" → "2 models" */
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
