import type { AddedNodes } from './added-nodes.js';
import type { Graph } from './graph/graph.js';
import { elementBits } from './onnx/element-size.js';
import { type AttributeSpec, type DataType, DataType as Type } from './onnx/spec.js';
import type { AttentionSite, KeysAndValues, OperatorCache, RotaryPositions } from './site.js';

/**
 * Nodes for what attention operators do besides attention: they join keys and values to a cache, and rotate query
 * and key by their positions. Caches are [B,G,P,D]; sizes and positions are int64.
 */

/** Values that the nodes of one graph share, by what they hold. */
export type SharedValues = Map<string, string>;

export type CachedSite = AttentionSite & { readonly cache: OperatorCache };

/** Where batch rows of different lengths, each at the start of its row of the cache, have their new keys. */
export interface Places {
  /** Number of new keys [1]; as a scalar in `steps`. */
  readonly rows: string;
  /** Keys of the longest row [1], the new ones included, and without them. */
  readonly total: string;
  readonly before: string;
  /** The last key of each batch row [B]. */
  readonly last: string;
  /** Where the new keys of each batch row begin [B]. A prompt as long as the longest row starts anew. */
  readonly start: string;
  /** 0, 1, ... for each new key [N]. */
  readonly steps: string;
  /** Whether a prompt starts anew, bool [1]. */
  readonly isFirst: string;
}

/**
 * Query or key [B,N,H*D] rotated by its positions. The operator itself is used, whose kernels are those of the
 * attention operators that rotate inside, so that results are equal.
 */
export function rotated(
  nodes: AddedNodes,
  value: string,
  role: string,
  heads: number,
  { rotary, cache, query }: CachedSite & { readonly rotary: RotaryPositions },
  shared: SharedValues,
): string {
  const positions = once(shared, `positions ${rotary.positions} ${cache.lengths?.last}`, () =>
    positionIds(nodes, rotary, placesOf(nodes, cache, query.value, shared)),
  );
  const output = nodes.freshValue(`${role}_rotated`);
  nodes.push(role, {
    opType: 'RotaryEmbedding',
    domain: 'com.microsoft',
    inputs: [value, positions, rotary.cosines, rotary.sines],
    outputs: [output],
    attributes: {
      interleaved: int(rotary.interleaved ? 1 : 0),
      num_heads: int(heads),
      rotary_embedding_dim: int(rotary.channels ?? 0),
    },
  });
  return output;
}

function positionIds(nodes: AddedNodes, { positions }: RotaryPositions, places: Places): string {
  if (positions === null) {
    const starts = nodes.reshape(places.start, 'starts', [-1, 1]);
    return nodes.add('Add', 'positions', [starts, places.steps]);
  }
  const flat = nodes.reshape(positions, 'all_positions', [-1]);
  const first = nodes.add('Gather', 'first_position', [flat, nodes.integers('zero', [0])]);
  const counted = nodes.add('Add', 'counted_positions', [first, places.steps]);
  return nodes.add('Where', 'positions', [places.isFirst, counted, positions]);
}

/**
 * New keys and values [B,G,N,D] behind those of earlier steps, under the names that the operator gave them.
 * @param fresh values laid out as the cache is
 * @param graph where the site is
 */
export function joinedCache(
  nodes: AddedNodes,
  site: CachedSite,
  fresh: KeysAndValues<string>,
  graph: Graph,
  shared: SharedValues,
): KeysAndValues<string> {
  const { cache, query } = site;
  if (cache.stacked) return stackedCache(nodes, cache, fresh);
  const { past, present, lengths } = cache;
  const names = {
    key: present.key ?? nodes.freshValue('keys'),
    value: present.value ?? nodes.freshValue('values'),
  };
  if (past === null) {
    for (const role of ROLES) nodes.add('Identity', role, [fresh[role]], {}, names[role]);
    return names;
  }
  if (lengths === null) {
    joinAtEnd(nodes, past, fresh, names);
    return names;
  }
  const places = placesOf(nodes, cache, query.value, shared);
  const held = lengthHeld(nodes, past.key, graph, shared);
  const types = { key: site.key.dataType, value: site.value.dataType };
  const kvHeads = site.kvHeads!;
  byEvenness(nodes, 'cache', site, names, graph, shared, {
    even: (inner, joined) => joinAtEnd(inner, past, fresh, joined),
    ragged: (inner, joined) => joinByRow(inner, { past, fresh, joined, types, kvHeads, held, places }),
  });
  return names;
}

export const ROLES = ['key', 'value'] as const;

/** Makes keys and values under the names that it is given. */
type MakeKeysAndValues = (nodes: AddedNodes, names: KeysAndValues<string>) => void;

/** Keys and values made in one way where all batch rows are full, in another where they differ in length. */
export function byEvenness(
  nodes: AddedNodes,
  role: string,
  { cache, key, value, query }: CachedSite,
  names: KeysAndValues<string>,
  graph: Graph,
  shared: SharedValues,
  make: Readonly<Record<'even' | 'ragged', MakeKeysAndValues>>,
): void {
  const held = lengthHeld(nodes, cache.past!.key, graph, shared);
  const isEven = once(shared, `even ${cache.lengths!.last} ${held}`, () =>
    isFull(nodes, placesOf(nodes, cache, query.value, shared), held),
  );
  const types = { key: key.dataType, value: value.dataType };
  const branch = (name: keyof typeof make): AttributeSpec => {
    const inner = nodes.within(name);
    const made = { key: inner.freshValue('keys'), value: inner.freshValue('values') };
    make[name](inner, made);
    const outputs = ROLES.map(one => ({ name: made[one], dataType: types[one] }));
    return { type: 'graph', value: { name, nodes: inner.list, inputs: [], outputs } };
  };
  nodes.push(role, {
    opType: 'If',
    inputs: [isEven],
    outputs: [names.key, names.value],
    attributes: { then_branch: branch('even'), else_branch: branch('ragged') },
  });
}

/** Number of keys that a cache of earlier steps has room for [1]. */
function lengthHeld(nodes: AddedNodes, past: string, graph: Graph, shared: SharedValues): string {
  const length = graph.resolve(past)?.declared?.dims?.[2] ?? past;
  return once(shared, `length of the cache ${length}`, () => sizeOf(nodes, past, 2, 'held'));
}

/** New keys behind all old ones. */
function joinAtEnd(
  nodes: AddedNodes,
  past: KeysAndValues<string>,
  fresh: KeysAndValues<string>,
  names: KeysAndValues<string>,
): void {
  for (const role of ROLES) {
    nodes.add('Concat', role, [past[role], fresh[role]], { axis: int(2) }, names[role]);
  }
}

/**
 * New keys behind the ones that their batch row has, and zeros behind them. The first nodes fail for caches longer
 * than their longest row, as those are that operators write in place, and for pieces of a prompt that do not follow
 * on the longest row: attention is told one number of keys for all rows.
 */
function joinByRow(
  nodes: AddedNodes,
  {
    past,
    fresh,
    joined,
    types,
    kvHeads,
    held,
    places,
  }: {
    readonly past: KeysAndValues<string>;
    readonly fresh: KeysAndValues<string>;
    readonly joined: KeysAndValues<string>;
    readonly types: KeysAndValues<DataType>;
    readonly kvHeads: number;
    readonly held: string;
    readonly places: Places;
  },
): void {
  const { rows, total, before, start } = places;
  const last = nodes.add('Sub', 'last_step', [rows, nodes.integers('one', [1])]);
  const farthest = nodes.add('ReduceMax', 'farthest_start', [start]);
  const missing = nodes.add('Mul', 'missing', [nodes.add('Sub', 'gap', [before, farthest]), last]);
  const length = nodes.add('Max', 'length', [nodes.add('Add', 'covered', [total, missing]), held]);
  const counted = range(nodes, 'counted', total);
  const position = nodes.add('Reshape', 'cache_of_this_length_is_not_supported', [counted, length]);
  const starts = nodes.reshape(start, 'row_starts', [-1, 1]);
  const step = nodes.add('Sub', 'step', [position, starts]);
  const zero = nodes.integers('zero', [0]);
  const isOld = nodes.add('Less', 'is_old', [step, zero]);
  const clipped = nodes.add('Min', 'clipped', [step, last]);
  const behind = nodes.add('Add', 'behind', [clipped, held]);
  const source = nodes.add('Where', 'source', [isOld, position, behind]);
  const byHead = forHeads(nodes, source, kvHeads);
  const isHeld = nodes.reshape(nodes.add('Less', 'is_held', [step, rows]), 'is_held_column', [0, 1, -1, 1]);
  for (const role of ROLES) {
    const all = nodes.add('Concat', `${role}_all`, [past[role], fresh[role]], { axis: int(2) });
    const placed = keysAt(nodes, `${role}_placed`, all, byHead);
    const nothing = nodes.constant(`${role}_nothing`, {
      dataType: types[role],
      dims: [1],
      data: new Uint8Array(elementBits(types[role])! / 8),
    });
    nodes.add('Where', role, [isHeld, placed, nothing], {}, joined[role]);
  }
}

/** Places of keys by batch row [B,n] for all heads, as {@link keysAt} takes them. */
export function forHeads(nodes: AddedNodes, places: string, kvHeads: number): string {
  const column = nodes.reshape(places, 'places_column', [0, 1, -1, 1]);
  return nodes.add('Expand', 'places_by_head', [column, nodes.integers('heads', [1, kvHeads, 1, 1])]);
}

/** The keys or values at these places of [B,G,P,D], by batch row and head. */
export function keysAt(
  nodes: AddedNodes,
  role: string,
  keys: string,
  places: string,
  output?: string,
): string {
  return nodes.add('GatherND', role, [keys, places], { batch_dims: int(2) }, output);
}

/** One value [2,B,G,P,D] holds keys and values, of earlier steps and of all. */
function stackedCache(
  nodes: AddedNodes,
  { past, present }: OperatorCache,
  fresh: KeysAndValues<string>,
): KeysAndValues<string> {
  const joined = past === null ? fresh : { key: nodes.freshValue('keys'), value: nodes.freshValue('values') };
  if (past !== null) {
    const parts = { key: part(nodes, past.key, 'key', 0), value: part(nodes, past.value, 'value', 1) };
    joinAtEnd(nodes, parts, fresh, joined);
  }
  if (present.key !== null) {
    const both = ROLES.map(role => {
      const shape = nodes.add('Shape', `${role}_shape`, [joined[role]]);
      const one = nodes.integers(`one_${role}`, [1]);
      const stacked = nodes.add('Concat', `${role}_stacked_shape`, [one, shape], { axis: int(0) });
      return nodes.add('Reshape', `${role}_stacked`, [joined[role], stacked]);
    });
    nodes.add('Concat', 'present', both, { axis: int(0) }, present.key);
  }
  return joined;
}

function part(nodes: AddedNodes, stacked: string, role: string, index: number): string {
  return nodes.add('Gather', `past_${role}`, [stacked, nodes.integer(`past_${role}_index`, index)]);
}

/**
 * @param query value [B,N,...] of as many rows as there are new keys
 */
export function placesOf(
  nodes: AddedNodes,
  { lengths }: OperatorCache,
  query: string,
  shared: SharedValues,
): Places {
  if (lengths === null) throw new RangeError('positions count on from the lengths of a cache');
  const { last, total } = lengths;
  const made = (role: string, make: () => string) => once(shared, `${role} ${last} ${total}`, make);
  const int64 = { to: int(Type.INT64) };
  const rows = made('rows', () => sizeOf(nodes, query, 1, 'rows'));
  const longest = made('total', () =>
    nodes.reshape(nodes.add('Cast', 'total_int64', [total], int64), 'total', [1]),
  );
  const before = made('before', () => nodes.add('Sub', 'before', [longest, rows]));
  const isFirst = made('is first', () =>
    nodes.add('Equal', 'is_first_prompt', [before, nodes.integers('none', [0])]),
  );
  const lastKeys = made('last', () =>
    nodes.reshape(nodes.add('Cast', 'last_int64', [last], int64), 'last_keys', [-1]),
  );
  const start = made('start', () => {
    const added = nodes.add('Sub', 'rows_less_one', [rows, nodes.integers('one', [1])]);
    const behind = nodes.add('Sub', 'start_behind', [lastKeys, added]);
    return nodes.add('Where', 'start', [isFirst, nodes.integers('beginning', [0]), behind]);
  });
  const steps = made('steps', () => range(nodes, 'steps', rows));
  return { rows, total: longest, before, last: lastKeys, start, steps, isFirst };
}

/** Whether every batch row has all keys that the cache has room for, so that new ones go behind it: a bool. */
function isFull(nodes: AddedNodes, { before, start }: Places, held: string): string {
  const starts = nodes.add('Concat', 'all_starts', [before, start], { axis: int(0) });
  const gaps = nodes.add('Abs', 'gaps', [nodes.add('Sub', 'differences', [starts, held])]);
  const largest = nodes.add('ReduceMax', 'largest_gap', [gaps], { keepdims: int(0) });
  return nodes.add('Equal', 'is_even', [largest, nodes.integer('no_gap', 0)]);
}

/** 0, 1, ... up to a number [1]. */
export function range(nodes: AddedNodes, role: string, count: string): string {
  const limit = nodes.reshape(count, `${role}_limit`, []);
  const [start, step] = [nodes.integer(`${role}_start`, 0), nodes.integer(`${role}_step`, 1)];
  return nodes.add('Range', role, [start, limit, step]);
}

/** Size of an axis [1]. */
export function sizeOf(nodes: AddedNodes, value: string, axis: number, role: string): string {
  const shape = nodes.add('Shape', `${role}_shape`, [value]);
  return nodes.add('Gather', role, [shape, nodes.integers(`${role}_axis`, [axis])]);
}

/** The value that is shared under a key, made when it is first asked for. */
export function once(shared: SharedValues, key: string, make: () => string): string {
  const known = shared.get(key);
  if (known !== undefined) return known;
  const made = make();
  shared.set(key, made);
  return made;
}

function int(value: number): AttributeSpec {
  return { type: 'int', value };
}
