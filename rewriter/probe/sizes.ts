import { isFloating } from '../graph/data-type.js';
import type { Graph } from '../graph/graph.js';
import type { Value } from '../graph/value.js';

/** Sizes of sample batches and of other free dimensions: pairwise distinct, so that a size names its symbol. */
export interface SizePlan {
  readonly batch: number;
  /** Size of the n-th free dimension that is no batch. */
  readonly other: (n: number) => number;
}

/**
 * Sizes for the free dimensions of a graph's inputs. Inputs share the batch: exporters give it a symbol per
 * input. Sizes that turn out to have to agree are made to agree by `rebind`.
 */
export class Sizes {
  private readonly sizes = new Map<string, number>();
  private readonly batchSymbols: ReadonlySet<string>;

  /** @param cache whether the cache of earlier steps holds any; merged decoders run with an empty one at first */
  constructor(graph: Graph, plan: SizePlan, cache: 'filled' | 'empty') {
    const leading = new Set<string>();
    const inner = new Set<string>();
    for (const input of graph.inputs) {
      this.symbolsOf(input).forEach((symbol, axis) => {
        if (typeof symbol === 'string') (axis === 0 ? leading : inner).add(symbol);
      });
    }
    this.batchSymbols = new Set([...leading].filter(symbol => !inner.has(symbol)));
    let count = 0;
    const bind = (symbol: string) => {
      if (!this.sizes.has(symbol)) {
        this.sizes.set(symbol, this.batchSymbols.has(symbol) ? plan.batch : plan.other(count++));
      }
    };
    for (const symbol of [...leading, ...inner]) {
      const expression = parseExpression(symbol);
      if (expression === null) bind(symbol);
      else for (const name of expression.names) bind(name);
    }
    this.coverCache(graph, cache);
  }

  /**
   * An attention mask [batch, total] covers the new tokens and, where there is one, the cache; exporters give
   * its length a symbol of its own, and nothing in the graph needs to tie it to the others.
   */
  private coverCache(graph: Graph, cache: 'filled' | 'empty'): void {
    const caches = graph.inputs.filter(input => isFloatingOfRank(input, 4));
    if (cache === 'empty') {
      for (const input of caches) {
        const length = this.symbolsOf(input).at(-2);
        if (typeof length === 'string' && this.sizes.has(length)) this.sizes.set(length, 0);
      }
    }
    const cached = caches.length === 0 ? 0 : this.sizeAt(caches[0]!, -2);
    for (const mask of graph.inputs) {
      const prefix = maskPrefix(mask);
      const own = this.symbolsOf(mask)[1];
      if (prefix === null || typeof own !== 'string' || !this.sizes.has(own)) continue;
      const shared = graph.inputs.some(input => input !== mask && this.symbolsOf(input).includes(own));
      const tokens = graph.inputs.find(input => input.name.startsWith(prefix) && isSequence(input));
      if (shared || tokens === undefined) continue;
      this.sizes.set(own, this.sizeAt(tokens, 1) + (prefix === '' ? cached : 0));
    }
  }

  private sizeAt(input: Value, axis: number): number {
    const dim = this.symbolsOf(input).at(axis) ?? 0;
    return typeof dim === 'number' ? dim : (this.size(dim) ?? 0);
  }

  /** Number of free sizes. */
  get free(): number {
    return this.sizes.size;
  }

  /** Shape of a graph input; null when its rank is unknown. */
  dimsOf(input: Value): number[] | null {
    if (input.declared?.dims == null) return null;
    return this.symbolsOf(input).map(dim => (typeof dim === 'number' ? dim : this.size(dim)!));
  }

  /** Size of a symbol or of a sum or product of symbols; null when one of them belongs to no input. */
  size(symbol: string): number | null {
    const known = this.sizes.get(symbol);
    if (known !== undefined) return known;
    return parseExpression(symbol)?.evaluate(name => this.sizes.get(name) ?? null) ?? null;
  }

  /** Gives the symbols of one size another size; false when no symbol has that size. */
  rebind(from: number, to: number): boolean {
    const symbols = [...this.sizes].filter(([, size]) => size === from);
    for (const [symbol] of symbols) this.sizes.set(symbol, to);
    return symbols.length > 0;
  }

  /** Dimensions of an input, the unnamed ones under a name of their own. */
  private symbolsOf(input: Value): (number | string)[] {
    return (input.declared?.dims ?? []).map((dim, axis) => dim ?? `${input.name}[${axis}]`);
  }
}

/** What the name of an attention mask [batch, length] starts with, as `encoder_`; null for other inputs. */
function maskPrefix(input: Value): string | null {
  if (input.declared?.dims?.length !== 2) return null;
  return /^(.*?)(?:attention_|padding_|key_)*mask/.exec(input.name)?.[1] ?? null;
}

/** Token ids [batch, sequence] or states [batch, sequence, width], other than an encoder's. */
function isSequence(input: Value): boolean {
  const rank = input.declared?.dims?.length;
  return (
    isFloatingOfRank(input, 3) ||
    (rank === 2 && /ids|tokens/.test(input.name) && !/position|type/.test(input.name))
  );
}

function isFloatingOfRank(input: Value, rank: number): boolean {
  const { declared } = input;
  return declared !== null && isFloating(declared.dataType) && declared.dims?.length === rank;
}

interface Expression {
  readonly names: readonly string[];
  evaluate(size: (name: string) => number | null): number | null;
}

/** Sums and products of symbols and numbers, as exporters name computed dimensions; null for a plain symbol. */
function parseExpression(text: string): Expression | null {
  if (!/^[\w.\s]+([+*][\w.\s]+)+$/.test(text)) return null;
  const terms = text.split('+').map(term => term.split('*').map(factor => factor.trim()));
  const names = terms.flat().filter(factor => !/^\d+$/.test(factor));
  return {
    names,
    evaluate: size => {
      let sum = 0;
      for (const factors of terms) {
        let product = 1;
        for (const factor of factors) {
          const value = /^\d+$/.test(factor) ? Number(factor) : size(factor);
          if (value === null) return null;
          product *= value;
        }
        sum += product;
      }
      return sum;
    },
  };
}
