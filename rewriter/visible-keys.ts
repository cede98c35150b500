import type { AddedNodes } from './added-nodes.js';
import { DataType } from './onnx/spec.js';
import { once, range, type SharedValues, sizeOf } from './operator-cache.js';
import type { KeyMask } from './site.js';

/** Name of the operator input that takes the keys visible per batch row, bool [B,S]. */
export const KEY_MASK = 'key_mask';

/**
 * The key mask as bool [B,S], true where a key is visible; computed once for all sites that share it.
 * @param key the operator's key, and the axis of its S
 */
export function visibleKeys(
  nodes: AddedNodes,
  mask: KeyMask,
  key: { readonly value: string; readonly axis: number },
  shared: SharedValues,
): string {
  const { value, dataType, visible } = mask;
  // Sites that share lengths may have different numbers of keys.
  if (visible === 'count' || visible === 'last') return firstKeys(nodes, mask, key);
  return once(shared, `keys ${visible} ${value}`, () => {
    const to = { to: { type: 'int', value: DataType.BOOL } } as const;
    const bool = dataType === DataType.BOOL ? value : nodes.add('Cast', `${KEY_MASK}_bool`, [value], to);
    return visible === 'nonzero' ? bool : nodes.add('Not', KEY_MASK, [bool]);
  });
}

/** The keys at the start of each batch row. */
function firstKeys(
  nodes: AddedNodes,
  { value, visible }: KeyMask,
  key: { readonly value: string; readonly axis: number },
): string {
  const to = { to: { type: 'int', value: DataType.INT64 } } as const;
  const numbers = nodes.reshape(nodes.add('Cast', 'lengths_int64', [value], to), 'lengths', [-1, 1]);
  const counts =
    visible === 'count' ? numbers : nodes.add('Add', 'counts', [numbers, nodes.integer('one', 1)]);
  const indices = range(nodes, 'key_indices', sizeOf(nodes, key.value, key.axis, 'keys'));
  return nodes.add('Less', KEY_MASK, [indices, counts]);
}
