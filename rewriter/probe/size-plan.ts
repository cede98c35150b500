import { isFloating } from '../graph/data-type.js';
import type { Graph } from '../graph/graph.js';
import type { Value } from '../graph/value.js';
import { parseExpression, Sizes, symbolsOf } from './sizes.js';

/** Sizes to begin with: pairwise distinct, so that a size names its symbol. */
export interface SizePlan {
  readonly batch: number;
  /** Size of the n-th free dimension that is no batch. */
  readonly other: (n: number) => number;
  /** Whether the cache of earlier steps holds any; merged decoders run with an empty one at first. */
  readonly cache: 'filled' | 'empty';
}

/**
 * Gives every symbol of the graph's inputs a size. What exporters mean by their inputs counts: leading
 * dimensions are one batch, though each input has a symbol of its own for it, and an attention mask covers the
 * tokens and the cache.
 */
export function planSizes(graph: Graph, plan: SizePlan): Sizes {
  const leading = new Set<string>();
  const inner = new Set<string>();
  for (const input of graph.inputs) {
    const batchAxis = isStackedCache(input) ? 1 : 0;
    for (const [axis, symbol] of symbolsOf(input).entries()) {
      if (typeof symbol === 'string') (axis === batchAxis ? leading : inner).add(symbol);
    }
  }
  const sizes = new Map<string, number>();
  let others = 0;
  for (const symbol of [...leading, ...inner]) {
    for (const name of parseExpression(symbol)?.names ?? [symbol]) {
      if (sizes.has(name)) continue;
      const batch = leading.has(name) && !inner.has(name);
      sizes.set(name, batch ? plan.batch : plan.other(others++));
    }
  }
  fillCaches(graph, plan, sizes);
  return new Sizes(sizes);
}

/**
 * An attention mask [batch, total] covers the new tokens and, where there is one, the cache. Exporters give its
 * length a symbol of its own, and nothing in the graph needs to tie it to the others.
 */
function fillCaches(graph: Graph, plan: SizePlan, sizes: Map<string, number>): void {
  const sizeAt = (input: Value | undefined, axis: number) => {
    const dim = input === undefined ? 0 : (symbolsOf(input).at(axis) ?? 0);
    return typeof dim === 'number' ? dim : (sizes.get(dim) ?? 0);
  };
  const caches = graph.inputs.filter(input => isFloatingOfRank(input, 4) || isStackedCache(input));
  if (plan.cache === 'empty') {
    for (const cache of caches) {
      const length = symbolsOf(cache).at(-2);
      if (typeof length === 'string' && sizes.has(length)) sizes.set(length, 0);
    }
  }
  for (const mask of graph.inputs) {
    const prefix = maskPrefix(mask);
    const own = symbolsOf(mask)[1];
    if (prefix === null || typeof own !== 'string' || !sizes.has(own)) continue;
    const shared = graph.inputs.some(input => input !== mask && symbolsOf(input).includes(own));
    const tokens = graph.inputs.find(input => input.name.startsWith(prefix) && isSequence(input));
    if (shared || tokens === undefined) continue;
    sizes.set(own, sizeAt(tokens, 1) + (prefix === '' ? sizeAt(caches[0], -2) : 0));
  }
}

/** What the name of an attention mask [batch, length] starts with, as `encoder_`; null for other inputs. */
function maskPrefix(input: Value): string | null {
  if (input.declared?.dims?.length !== 2) return null;
  return /^(.*?)(?:attention_|padding_|key_)*mask/.exec(input.name)?.[1] ?? null;
}

/** Token ids [batch, sequence] or states [batch, sequence, width]. */
function isSequence(input: Value): boolean {
  if (isFloatingOfRank(input, 3)) return true;
  const ids = /ids|tokens/.test(input.name) && !/position|type|mask/.test(input.name);
  return ids && input.declared?.dims?.length === 2;
}

/** Keys and values of earlier steps in one input [2,B,G,P,D]. */
function isStackedCache(input: Value): boolean {
  return isFloatingOfRank(input, 5) && symbolsOf(input)[0] === 2;
}

function isFloatingOfRank(input: Value, rank: number): boolean {
  const { declared } = input;
  return declared !== null && isFloating(declared.dataType) && declared.dims?.length === rank;
}
