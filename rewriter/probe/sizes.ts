import type { Value } from '../graph/value.js';
import type { SizeConflict } from './sample.js';

/** Dimensions of a graph input, free ones by symbol, the unnamed ones under a name of their own. */
export function symbolsOf(input: Value): (number | string)[] {
  return (input.declared?.dims ?? []).map((dim, axis) => dim ?? `${input.name}[${axis}]`);
}

/** Multiples of a size to try where a number of elements has to be one. */
const MOST_MULTIPLES = 4;

/** Sizes for the free dimensions of a graph's inputs, by symbol. */
export class Sizes {
  constructor(private readonly sizes: ReadonlyMap<string, number>) {}

  /** Number of free sizes. */
  get free(): number {
    return this.sizes.size;
  }

  /** Shape of a graph input; null when its rank is unknown. */
  dimsOf(input: Value): number[] | null {
    if (input.declared?.dims == null) return null;
    return symbolsOf(input).map(dim => (typeof dim === 'number' ? dim : (this.size(dim) ?? 1)));
  }

  /** Size of a symbol or of a sum or product of symbols; null when one of them belongs to no input. */
  size(symbol: string): number | null {
    const known = this.sizes.get(symbol);
    if (known !== undefined) return known;
    return parseExpression(symbol)?.evaluate(name => this.sizes.get(name) ?? null) ?? null;
  }

  /**
   * Sizes that may settle a conflict: those of one size made the other, and those that bring a number of
   * elements from one to the other, as where the exporter wrote a size into the graph.
   */
  *settling({ left, right, need }: SizeConflict): Generator<Sizes> {
    if (need === 'equal') {
      for (const [from, to] of [
        [right, left],
        [left, right],
      ] as const) {
        const symbols = [...this.sizes].filter(([, size]) => size === from);
        if (symbols.length > 0) yield this.with(symbols.map(([symbol]) => [symbol, to] as const));
      }
    }
    const multiples = need === 'equal' ? [1] : Array.from({ length: MOST_MULTIPLES }, (_, i) => i + 1);
    for (const [symbol, size] of this.sizes) {
      for (const multiple of multiples) {
        const scaled = (size * right * multiple) / left;
        if (scaled !== size && Number.isInteger(scaled)) yield this.with([[symbol, scaled]]);
      }
    }
  }

  private with(changes: readonly (readonly [string, number])[]): Sizes {
    return new Sizes(new Map([...this.sizes, ...changes]));
  }
}

interface Expression {
  readonly names: readonly string[];
  evaluate(size: (name: string) => number | null): number | null;
}

/** Sums and products of symbols and numbers, as exporters name computed dimensions; null for a plain symbol. */
export function parseExpression(text: string): Expression | null {
  if (!/^[\w.\s]+([+*][\w.\s]+)+$/.test(text)) return null;
  const terms = text.split('+').map(term => term.split('*').map(factor => factor.trim()));
  const isNumber = (factor: string) => /^\d+$/.test(factor);
  return {
    names: terms.flat().filter(factor => !isNumber(factor)),
    evaluate: size => {
      let sum = 0;
      for (const factors of terms) {
        let product = 1;
        for (const factor of factors) {
          const value = isNumber(factor) ? Number(factor) : size(factor);
          if (value === null) return null;
          product *= value;
        }
        sum += product;
      }
      return sum;
    },
  };
}
