import type { AddedNodes } from './added-nodes.js';
import type { Graph } from './graph/graph.js';
import {
  byEvenness,
  type CachedSite,
  forHeads,
  keysAt,
  once,
  placesOf,
  ROLES,
  range,
  type SharedValues,
} from './operator-cache.js';
import type { KeysAndValues } from './site.js';

/** Keys and values [B,G,M,D] with a mask bool [B,M], true where a key is visible. */
export interface NearKeys extends KeysAndValues<string> {
  readonly keyMask: string;
}

/**
 * The keys that a window shows to new rows, of a cache whose batch rows may differ in length: as many for each batch
 * row, so that its newest key is the last one and tokens of all of them are equally far apart.
 * @param joined old and new keys and values [B,G,S,D]
 * @param left keys that a row sees before its position
 * @param graph where the site is
 */
export function nearKeys(
  nodes: AddedNodes,
  site: CachedSite,
  joined: KeysAndValues<string>,
  left: number,
  graph: Graph,
  shared: SharedValues,
): NearKeys {
  const { cache, query, kvHeads } = site;
  const places = placesOf(nodes, cache, query.value, shared);
  const { rows, total } = places;
  const made = (role: string, make: () => string) =>
    once(shared, `${role} of window ${left} ${places.last} ${total}`, make);
  const count = made('number of keys', () => {
    const reach = nodes.add('Add', 'reach', [rows, nodes.integers('left', [left])]);
    return nodes.add('Min', 'near', [reach, total]);
  });
  // Negative where a batch row has fewer keys.
  const positions = made('positions', () => {
    const end = nodes.add('Add', 'end', [places.start, rows]);
    const first = nodes.reshape(nodes.add('Sub', 'first_near', [end, count]), 'first_near_column', [-1, 1]);
    return nodes.add('Add', 'near_positions', [first, range(nodes, 'near_steps', count)]);
  });
  const keyMask = made('key mask', () => {
    const exists = nodes.add('Greater', 'exists', [positions, nodes.integer('none', -1)]);
    const last = nodes.reshape(places.last, 'last_column', [-1, 1]);
    const isLater = nodes.add('Greater', 'is_later', [positions, last]);
    return nodes.add('And', 'near_keys_visible', [exists, nodes.add('Not', 'is_written', [isLater])]);
  });
  const names = { key: nodes.freshValue('near_keys'), value: nodes.freshValue('near_values') };
  byEvenness(nodes, 'near', site, names, graph, shared, {
    even: (inner, near) => {
      const bounds = [inner.add('Sub', 'begin', [total, count]), total, inner.integers('axis', [2])];
      for (const role of ROLES) inner.add('Slice', role, [joined[role], ...bounds], {}, near[role]);
    },
    ragged: (inner, near) => {
      const existing = inner.add('Max', 'existing', [positions, inner.integer('zero', 0)]);
      const byHead = forHeads(inner, existing, kvHeads!);
      for (const role of ROLES) keysAt(inner, role, joined[role], byHead, near[role]);
    },
  });
  return { ...names, keyMask };
}
