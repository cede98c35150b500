/** Elements that no other one beats in both `time` and `cost`, least time first. */
export function paretoBy<T>(
  elements: readonly T[],
  time: (element: T) => number,
  cost: (element: T) => number,
): T[] {
  const sorted = [...elements].sort((a, b) => time(a) - time(b) || cost(a) - cost(b));
  let least = Number.POSITIVE_INFINITY;
  return sorted.filter(element => {
    if (cost(element) >= least) return false;
    least = cost(element);
    return true;
  });
}
