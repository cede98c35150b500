import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import { parseEinsum } from '../probe/rules/networks.js';

/** Operators that can be the product of two batches of matrices. */
export const PRODUCTS = ['MatMul', 'Einsum', 'com.microsoft::FusedMatMul'] as const;

/** Axes of one factor of a batched matrix product, for a factor of a given rank. */
export interface FactorAxes {
  /** Batch axes, outermost first; null for one of the other factor alone, along which this one is repeated. */
  readonly lead: readonly (number | null)[];
  /** The axis that the result keeps. */
  readonly outer: number;
  /** The axis that is summed over. */
  readonly inner: number;
}

/** result[lead, i, j] = factor * sum over k of left[lead, i, k] * right[lead, k, j]. */
export interface Product {
  readonly left: Value;
  readonly right: Value;
  readonly axes: { left(rank: number): FactorAxes; right(rank: number): FactorAxes };
  /** Axes of the result: batch axes, then where i and j are. */
  result(rank: number): { readonly lead: readonly number[]; readonly rows: number; readonly columns: number };
  readonly factor: number;
}

/** Reads a node as a batched matrix product; null when it contracts anything else. */
export function productOf(node: Node): Product | null {
  const [left, right] = node.inputs;
  if (left == null || right == null) return null;
  if (node.type === 'Einsum') return einsumProduct(node.text('equation', ''), left, right);
  const fused = node.type !== 'MatMul';
  const turned = (name: string) => fused && node.int(name, 0) === 1;
  if (turned('transBatchA') || turned('transBatchB')) return null;
  const [turnLeft, turnRight] = [turned('transA'), turned('transB')];
  return {
    left,
    right,
    axes: {
      left: rank => ({
        lead: range(rank - 2),
        outer: rank - (turnLeft ? 1 : 2),
        inner: rank - (turnLeft ? 2 : 1),
      }),
      right: rank => ({
        lead: range(rank - 2),
        outer: rank - (turnRight ? 2 : 1),
        inner: rank - (turnRight ? 1 : 2),
      }),
    },
    result: rank => ({ lead: range(rank - 2), rows: rank - 2, columns: rank - 1 }),
    factor: fused ? node.float('alpha', 1) : 1,
  };
}

/** The same product with rows and columns swapped: of the transposed right factor with the transposed left one. */
export function transposedProduct({ left, right, axes, result, factor }: Product): Product {
  return {
    left: right,
    right: left,
    axes: { left: axes.right, right: axes.left },
    result: rank => {
      const { lead, rows, columns } = result(rank);
      return { lead, rows: columns, columns: rows };
    },
    factor,
  };
}

function range(count: number): number[] {
  return Array.from({ length: count }, (_, axis) => axis);
}

/**
 * A product of two operands that share one summed letter, each with one letter of its own; the rest is batch. Where one
 * has more letters of its own, as queries have that share the keys of one head, they are batch axes of it alone but for
 * the one beside the other's letter in the result.
 */
function einsumProduct(equation: string, first: Value, second: Value): Product | null {
  const terms = parseEinsum(equation);
  if (terms?.operands.length !== 2) return null;
  const { result } = terms;
  const [a, b] = terms.operands as [string, string];
  const summed = [...a].filter(letter => b.includes(letter) && !result.includes(letter));
  const isLost = (letter: string) => !result.includes(letter) && letter !== summed[0];
  const ownOf = (one: string, other: string) => [...one].filter(letter => !other.includes(letter));
  const [allOfA, allOfB] = [ownOf(a, b), ownOf(b, a)];
  const beside = (own: readonly string[], other: readonly string[]) =>
    own.length === 1 || other.length !== 1
      ? own
      : own.filter(letter => Math.abs(result.indexOf(letter) - result.indexOf(other[0]!)) === 1);
  const [ownA, ownB] = [beside(allOfA, allOfB), beside(allOfB, allOfA)];
  if (summed.length !== 1 || ownA.length !== 1 || ownB.length !== 1) return null;
  const [letterA, letterB] = [ownA[0]!, ownB[0]!];
  const batch = [...result].filter(letter => letter !== letterA && letter !== letterB);
  if (result.length !== batch.length + 2 || [...a, ...b].some(isLost)) return null;
  // The factor whose own letter comes first in the result gives the rows.
  const swapped = result.indexOf(letterA) > result.indexOf(letterB);
  const [leftTerm, rightTerm] = swapped ? [b, a] : [a, b];
  const [rows, columns] = swapped ? [letterB, letterA] : [letterA, letterB];
  const axesOf = (term: string, own: string) => () => ({
    lead: batch.map(letter => (term.includes(letter) ? term.indexOf(letter) : null)),
    outer: term.indexOf(own),
    inner: term.indexOf(summed[0]!),
  });
  return {
    left: swapped ? second : first,
    right: swapped ? first : second,
    axes: { left: axesOf(leftTerm, rows), right: axesOf(rightTerm, columns) },
    result: () => ({
      lead: batch.map(letter => result.indexOf(letter)),
      rows: result.indexOf(rows),
      columns: result.indexOf(columns),
    }),
    factor: 1,
  };
}
