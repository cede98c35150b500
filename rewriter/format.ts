const BYTE_UNITS = ['B', 'kB', 'MB', 'GB', 'TB'];

/** A byte count in decimal units, three significant digits: `19.9 MB`. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < BYTE_UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toPrecision(3)} ${BYTE_UNITS[unit]}`;
}

/** A duration in milliseconds as people read it: `840 ms`, `12.3 s`. */
export function formatDuration(ms: number): string {
  return ms < 1000 ? `${ms.toFixed(ms < 10 ? 1 : 0)} ms` : `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
}

/** An error measure: `0.00123`, `1.2e-9`; a dash where it was not measured. */
export function formatError(value: number | null): string {
  if (value === null) return '–';
  if (value === 0) return '0';
  return value >= 1e-4 && value < 1000 ? value.toPrecision(3) : value.toExponential(1);
}

/** `no sites`, `1 site`, `6 sites`. */
export function plural(count: number, one: string, many: string): string {
  return `${count === 0 ? 'no' : count} ${count === 1 ? one : many}`;
}

const COUNT_UNITS = ['', ' thousand', ' million', ' billion', ' trillion', ' quadrillion'];

/** A large count, three significant digits: `12.3 billion`. */
export function formatCount(count: number): string {
  const unit = Math.min(Math.max(Math.floor(Math.log10(count) / 3), 0), COUNT_UNITS.length - 1);
  return `${(count / 1000 ** unit).toPrecision(3)}${COUNT_UNITS[unit]}`;
}
