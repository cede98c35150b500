import type { Graph } from '../graph/graph.js';
import type { Value } from '../graph/value.js';
import { DataType } from '../onnx/spec.js';
import type { Feed } from '../probe/feed.js';
import type { Trial } from '../probe/laboratory.js';
import type { Sample } from '../probe/sample.js';
import type { KeyMask } from '../site.js';
import type { MaskRule } from './mask-rule.js';
import type { Table } from './table.js';

/** The keys of absent tokens are hidden from every query. */
export const keyPadding: MaskRule = { kind: 'key-padding', holds: facts => facts.padding };

/** Which keys the absent tokens of one feed hide. */
export interface PaddedKeys {
  readonly trial: Trial;
  readonly feed: Feed;
  /** Batch row and key; whether the key is hidden from the queries that could see it otherwise. */
  readonly keys: readonly { readonly b: number; readonly j: number; readonly hidden: boolean }[];
}

/**
 * Compares a table with one of absent tokens, place by place. Null when what is hidden is not the same for all
 * queries and heads, or a key becomes visible.
 */
export function paddedKeys(present: Table, absent: Table): PaddedKeys['keys'] | null {
  const keys = new Map<number, { b: number; j: number; hidden: boolean }>();
  for (const [e, { b, j, hidden }] of absent.entries.entries()) {
    if (present.entries[e]!.hidden) {
      if (!hidden) return null;
      continue;
    }
    const key = b * present.extent.columns + j;
    const known = keys.get(key);
    if (known === undefined) keys.set(key, { b, j, hidden });
    else if (known.hidden !== hidden) return null;
  }
  return [...keys.values()];
}

/**
 * The value of `slice`, [B,S] or with a length for each batch row, that tells hidden keys from visible ones in all
 * trials and feeds: a graph input where there is one, else the one furthest upstream.
 */
export function findKeyMask(
  slice: ReadonlySet<Value>,
  graph: Graph,
  padded: readonly PaddedKeys[],
  extents: ReadonlyMap<Trial, { readonly batch: number; readonly columns: number }>,
): KeyMask | null {
  let best: { value: Value; mask: KeyMask } | null = null;
  for (const value of slice) {
    if (!isVisibleFrom(value, graph) || best?.value.fed === true) continue;
    for (const visible of ['nonzero', 'zero', 'count', 'last'] as const) {
      const mask = matchKeyMask(value, visible, padded, extents);
      if (mask !== null) best = { value, mask };
    }
  }
  return best?.mask ?? null;
}

function isVisibleFrom(value: Value, graph: Graph): boolean {
  for (let scope: Graph | null = graph; scope !== null; scope = scope.parent)
    if (value.graph === scope) return true;
  return false;
}

/** Which keys a value would hide as a mask; null where it has not the shape or type for that. */
function hiddenBy(
  { dims, dataType, at }: Sample,
  visible: KeyMask['visible'],
  batch: number,
  columns: number,
): ((b: number, j: number) => boolean) | null {
  if (dims[0] !== batch) return null;
  const byRow = dims.length === 1 || (dims.length === 2 && dims[1] === 1);
  switch (visible) {
    case 'count':
      return byRow && isLength(dataType) ? (b, j) => j >= at(b) : null;
    case 'last':
      return byRow && isLength(dataType) ? (b, j) => j > at(b) : null;
    default:
      return dims.length === 2 && dims[1] === columns
        ? (b, j) => (at(b * columns + j) === 0) !== (visible === 'zero')
        : null;
  }
}

function isLength(dataType: DataType): boolean {
  return dataType === DataType.INT64 || dataType === DataType.INT32;
}

function matchKeyMask(
  value: Value,
  visible: KeyMask['visible'],
  padded: readonly PaddedKeys[],
  extents: ReadonlyMap<Trial, { readonly batch: number; readonly columns: number }>,
): KeyMask | null {
  let dataType: KeyMask['dataType'] | null = null;
  for (const { trial, feed, keys } of padded) {
    const sample = trial.probe(feed).tryToSample(value);
    const { batch, columns } = extents.get(trial)!;
    const isHidden = sample && hiddenBy(sample, visible, batch, columns);
    if (!isHidden || keys.some(({ b, j, hidden }) => isHidden(b, j) !== hidden)) return null;
    dataType = sample.dataType;
  }
  return dataType === null ? null : { value: value.name, dataType, visible };
}
