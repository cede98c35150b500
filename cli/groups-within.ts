/** Splits items, in order, into groups that take at most `allowance` each; an item above it is a group of its own. */
export function groupsWithin<T>(allowance: number, items: readonly T[], size: (item: T) => number): T[][] {
  const groups: T[][] = [];
  let used = Number.POSITIVE_INFINITY;
  for (const item of items) {
    used += size(item);
    if (used > allowance) {
      groups.push([]);
      used = size(item);
    }
    groups.at(-1)!.push(item);
  }
  return groups;
}
