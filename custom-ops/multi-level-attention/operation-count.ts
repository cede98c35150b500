import { blockLength, type MultiLevelParameters } from './parameters.js';

/** Multiply-adds of one head's attention over `length` tokens, all keys visible, and what its cache holds. */
export interface OperationCount {
  /** Products of queries and keys: sum over levels of rank * pairs in one block. */
  readonly scores: number;
  /** Products of weights and values. */
  readonly values: number;
  /** The same of standard attention: T^2 (D + E). */
  readonly standard: number;
}

/** Counts by blocks, whatever their number: ragged last blocks count as what they hold. */
export function operationCount(
  parameters: MultiLevelParameters,
  length: number,
  valueDim: number,
): OperationCount {
  const { ranks } = parameters;
  const pairs = (level: number): number => {
    const block = Math.min(blockLength(parameters, level), length);
    const whole = Math.floor(length / Math.max(block, 1));
    const rest = length - whole * block;
    return whole * block * block + rest * rest;
  };
  const scores = ranks.reduce((sum, rank, level) => sum + rank * pairs(level), 0);
  const headDim = ranks.reduce((sum, rank) => sum + rank, 0);
  const values = length * length * valueDim;
  return { scores, values, standard: length * length * headDim + values };
}
