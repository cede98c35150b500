import type { Value } from '../graph/value.js';
import { type Laboratory, PLAIN } from '../probe/laboratory.js';
import type { Projection } from '../site.js';
import type { ProjectedOperands } from './source-form.js';

/** A value as an operator takes it, [B,N,X] or [B,H,N,D], with what the operator does to it first. */
export interface TakenValue {
  readonly value: Value;
  readonly projection: Projection | null;
}

/**
 * Query, key and value exactly as an operator takes them, for operators that go on to do more with them than to
 * compute attention: what they join to a cache or rotate has to have the operator's heads and scale.
 * @param heads of queries, and of keys and values, where the operands are packed [B,N,H*D]
 */
export function takenOperands(
  operands: Readonly<Record<'query' | 'key' | 'value', TakenValue>>,
  heads: { readonly query: number; readonly kv: number },
  laboratory: Laboratory,
): ProjectedOperands {
  const dimsOf = ({ value }: TakenValue) => laboratory.trials[0]!.probe(PLAIN).sample(value).dims;
  const sizesOf = (operand: TakenValue, packedHeads: number) => {
    const dims = dimsOf(operand);
    if (dims.length === 4) return { layout: 'BHND', heads: dims[1]!, headDim: dims[3]! } as const;
    const columns = operand.projection?.columns;
    const width = columns ? columns[1] - columns[0] : dims.at(-1)!;
    return { layout: 'BN(HD)', heads: packedHeads, headDim: width / packedHeads } as const;
  };
  const query = sizesOf(operands.query, heads.query);
  const key = sizesOf(operands.key, heads.kv);
  const value = sizesOf(operands.value, heads.kv);
  return {
    kind: 'projected',
    query: { ...operands.query, layout: query.layout },
    key: { ...operands.key, layout: key.layout },
    value: { ...operands.value, layout: value.layout },
    queryHeads: query.heads,
    kvHeads: key.heads,
    headDim: query.headDim,
    valueDim: value.headDim,
  };
}
