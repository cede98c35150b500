import { DataType, type FunctionSpec } from '../../rewriter/onnx/spec.js';
import { GraphBuilder, type Value } from '../graph-builder.js';
import { type BodyContext, DOMAIN } from '../operator.js';
import { atLeastOne, HIDDEN, joinedChunks, keyBias, type SoftmaxPart, softmaxPart } from '../softmax-part.js';
import type { LocalParameters } from './parameters.js';

export const OP_TYPE = 'LocalAttention';

/** Inputs of the operator, in order. */
export const INPUT_NAMES = ['query', 'key', 'value', 'key_mask'] as const;

/** Fewest and most rows whose scores exist at once. */
const [FEWEST_ROWS, MOST_ROWS] = [64, 256];

/**
 * The operator in standard ONNX operators. Rows are taken in chunks about as long as the window, and a chunk
 * meets the keys that any of its rows sees: twice the products of the definition for short windows, fewer for
 * long ones. Working memory beyond inputs and output is one chunk's.
 * @param connected names of the inputs, and of the optional outputs, that the node connects: a body has no output
 *   that its node lacks
 */
export function localFunctionBody(
  parameters: LocalParameters,
  connected: readonly string[],
  { opset, elementType }: BodyContext,
): FunctionSpec {
  const b = new GraphBuilder(opset);
  // The element type is the node's: UNDEFINED stands for it until the cast.
  const input = (name: (typeof INPUT_NAMES)[number]): Value => ({ name, type: DataType.UNDEFINED });
  const keyMask = connected.includes('key_mask') ? { name: 'key_mask', type: DataType.BOOL } : null;
  const visible = keyMask && b.unsqueeze(keyMask, 1, 3);
  // Even a weight of zero would spread what is not finite.
  const shown = (value: Value) => {
    const wide = b.cast(value, DataType.FLOAT);
    return visible ? b.where(visible, wide, 0) : wide;
  };
  const query = input('query');
  const { output, lse } = attention(
    b,
    { query: b.cast(query, DataType.FLOAT), key: shown(input('key')), value: shown(input('value')), keyMask },
    parameters,
  );
  const outputs = ['output', ...(connected.includes('lse') ? ['lse'] : [])];
  b.output(b.castLike(output, query, elementType), 'output');
  if (connected.includes('lse')) b.output(b.castLike(lse, query, elementType), 'lse');
  return {
    domain: DOMAIN,
    name: OP_TYPE,
    inputs: INPUT_NAMES.slice(0, keyMask ? 4 : 3),
    outputs,
    opsetImports: { '': opset },
    nodes: b.nodes,
  };
}

interface FloatInputs {
  readonly query: Value;
  readonly key: Value;
  readonly value: Value;
  readonly keyMask: Value | null;
}

/** @returns [B,H,N,E] and [B,H,N] */
function attention(
  b: GraphBuilder,
  { query, key, value, keyMask }: FloatInputs,
  { scale, left, right, offset }: LocalParameters,
): SoftmaxPart {
  const [batch, heads, queries, headDim] = [0, 1, 2, 3].map(axis => b.dim(query, axis)) as [
    Value,
    Value,
    Value,
    Value,
  ];
  const [kvHeads, keys, valueDim] = [b.dim(key, 1), b.dim(key, 2), b.dim(value, 3)];
  const [kvParts, share] = [b.mul(batch, kvHeads), b.div(heads, kvHeads)];
  // Reshaping cannot tell an empty axis: sequences get at least one element, a row cut off or a hidden key.
  const length = b.max(keys, 1);
  const inParts = (x: Value, size: Value) =>
    b.reshape(atLeastOne(b, x, 4, 2, keys, 0), [kvParts, 1, length, size]);
  const columns = b.transpose(inParts(key, headDim), [0, 1, 3, 2]);
  const values = inParts(value, valueDim);
  const bias = keyMask && keyBias(b, keyMask, { batch, kvHeads, keys });

  const rows = b.min(b.max(queries, 1), chunkRows(left, right));
  const chunks = b.ceilDiv(b.max(queries, 1), rows);
  const scaled = b.mul(query, scale ?? b.div(1, b.sqrt(b.cast(headDim, DataType.FLOAT))));
  const padded = b.pad(scaled, 4, 2, 0, b.sub(b.mul(chunks, rows), queries));
  const grid = b.reshape(padded, [kvParts, share, b.mul(chunks, rows), headDim]);
  const origin = offset === null ? b.sub(keys, queries) : b.ints([offset]);

  const { stacked } = b.loop(chunks, [], (inner, iteration) => {
    const start = inner.mul(iteration, rows);
    const first = inner.add(start, origin);
    const positions = inner.reshape(inner.add(inner.range(rows), first), [rows, 1]);
    const last = inner.sub(inner.add(first, rows), 1);
    const from = left === null ? b.ints([0]) : inner.sub(first, left);
    const to = right === null ? length : inner.add(last, right + 1);
    const begin = inner.min(inner.max(from, 0), inner.sub(length, 1));
    const end = inner.max(inner.min(to, length), inner.add(begin, 1));
    const chunk = inner.slice(grid, 2, start, inner.add(start, rows));
    let logits = inner.matMul(chunk, inner.slice(columns, 3, begin, end));
    if (bias) logits = inner.add(logits, inner.slice(bias, 3, begin, end));
    const seen = band(inner, positions, inner.add(inner.range(inner.sub(end, begin)), begin), left, right);
    if (seen) logits = inner.add(logits, inner.where(seen, 0, inner.constant(HIDDEN, DataType.FLOAT)));
    const part = softmaxPart(inner, logits, inner.slice(values, 2, begin, end));
    return { state: [], stacked: [part.output, part.lse] };
  });

  const [output, lse] = stacked as [Value, Value];
  return joinedChunks(b, { output, lse }, { batch, heads, queries, keys, valueDim });
}

function chunkRows(left: number | null, right: number | null): number {
  const reach = left === null || right === null ? MOST_ROWS : left + right;
  return Math.min(Math.max(2 ** Math.ceil(Math.log2(reach + 1)), FEWEST_ROWS), MOST_ROWS);
}

/** Which of the keys at `columns` [n] rows at `positions` [rows,1] see; null where they see all. */
function band(
  b: GraphBuilder,
  positions: Value,
  columns: Value,
  left: number | null,
  right: number | null,
): Value | null {
  const sides = [
    ...(left === null ? [] : [b.lessOrEqual(b.sub(positions, left), columns)]),
    ...(right === null ? [] : [b.lessOrEqual(columns, b.add(positions, right))]),
  ];
  return sides.length === 2 ? b.and(sides[0]!, sides[1]!) : (sides[0] ?? null);
}
