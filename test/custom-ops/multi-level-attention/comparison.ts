import assert from 'node:assert/strict';
import type { MultiLevelCache } from '../../../custom-ops/multi-level-attention/reference.js';

export { assertSame } from '../multipole-attention/comparison.js';

/** Caches hold what they were given, so they are equal to the last bit. */
export function assertSameCache(actual: MultiLevelCache, expected: MultiLevelCache): void {
  assert.deepEqual(actual.value.dims, expected.value.dims);
  assert.deepEqual(actual.value.data, expected.value.data);
  expected.keys.forEach((level, l) => {
    assert.deepEqual(actual.keys[l]!.dims, level.dims, `keys of level ${l + 1}`);
    assert.deepEqual(actual.keys[l]!.data, level.data, `keys of level ${l + 1}`);
  });
}

/** Numbers that the keys of a cache take per batch row and key head. */
export function keyNumbers({ keys }: MultiLevelCache): number {
  return keys.reduce((sum, { dims }) => sum + dims[2]! * dims[3]!, 0);
}
