import { attributesOf, type Structure } from '../../custom-ops/structured-matmul/parameters.js';
import type { Node } from '../graph/node.js';
import { ancestors, descendants } from '../graph/slices.js';
import type { Value } from '../graph/value.js';
import { isMoved } from '../match/weight-chain.js';
import type { Move } from '../site.js';
import type { Fusion } from './source-form.js';

/** A product with a structured matrix as a form found it. */
export interface StructuredProduct {
  /** Node that names the layer. */
  readonly named: Node;
  /** What the matrix is applied to, and what comes of it. */
  readonly x: Value;
  readonly end: Value;
  readonly structure: Structure;
  /** The factors by name of the operator's input. */
  readonly factors: Fusion['operands'];
  /** From the operator's output to `end`. */
  readonly moves: readonly Move[];
  /** Axes of `end`. */
  readonly rank: number;
}

/** The fusion of a product with a structured matrix: everything between `x` and `end` goes. */
export function structuredFusion({
  named,
  x,
  end,
  structure,
  factors,
  moves,
  rank,
}: StructuredProduct): Fusion {
  const computed = descendants(x);
  const inside = [...ancestors(end, value => value !== x)].filter(
    value => computed.has(value) && value !== x,
  );
  return {
    computation: 'structured-matmul',
    operands: { x: { value: x }, ...factors },
    output: { value: end, moves, axes: { batch: 0, sequence: rank - 2 } },
    parameters: attributesOf(structure),
    causal: false,
    keyMask: null,
    emptyRow: 'never',
    kind: 'self',
    named,
    interior: inside
      .filter(value => value !== end && !isMoved(value, x))
      .map(value => ({ value, holds: 'products with a factor' })),
    nodes: new Set(inside.map(({ producer }) => producer!)),
    refusals: [],
  };
}
