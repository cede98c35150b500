import { DataType } from '../../../rewriter/onnx/spec.js';
import type { Dim, GraphBuilder, Value } from '../../graph-builder.js';
import { HIDDEN, softmaxPart, VISIBLE_ABOVE } from '../../softmax-part.js';
import type { FieldResult } from './multipole.js';
import { logits } from './near-field.js';
import type { BodyInputs, Sizes } from './sizes.js';

/** Rows whose logits over all keys exist at once. */
const BLOCK_ROWS = 256;

/** Exact attention of the present rows. */
export function exactField(
  b: GraphBuilder,
  inputs: BodyInputs,
  past: Value,
  sizes: Sizes,
  causal: boolean,
): FieldResult {
  const { parts, valueDim } = sizes;
  const queries = b.sub(sizes.rows, past);
  const blocks = b.max(b.ceilDiv(queries, BLOCK_ROWS), 1);
  const rows = b.slice(inputs.query, 1, past, b.dim(inputs.query, 1));
  const padded = b.pad(rows, 3, 1, 0, b.sub(b.mul(blocks, BLOCK_ROWS), b.dim(rows, 1)));
  const values = b.unsqueeze(inputs.value, 1);
  const firstPosition = b.add(sizes.offset, past);
  const { stacked } = b.loop(blocks, [], (inner, iteration) => {
    const start = inner.mul(iteration, BLOCK_ROWS);
    const block = inner.slice(padded, 1, start, inner.add(start, BLOCK_ROWS));
    let products = logits(inner, block, BLOCK_ROWS, inputs.key, inputs.keyBias, sizes);
    if (causal) {
      const position = inner.add(inner.range(BLOCK_ROWS), inner.add(start, firstPosition));
      const key = inner.range(inner.dim(inputs.key, 1));
      const seen = inner.lessOrEqual(key, inner.reshape(position, [BLOCK_ROWS, 1]));
      products = inner.add(products, inner.where(seen, 0, inner.constant(HIDDEN, DataType.FLOAT)));
    }
    const part = softmaxPart(inner, products, values);
    return {
      state: [],
      stacked: [
        inner.reshape(part.output, [parts, BLOCK_ROWS, valueDim]),
        inner.reshape(part.lse, [parts, BLOCK_ROWS, 1]),
      ],
    };
  });
  const whole = (x: Value, width: Dim) => b.reshape(b.transpose(x, [1, 0, 2, 3]), [parts, -1, width]);
  const lse = whole(stacked[1]!, 1);
  return {
    output: b.where(b.greater(lse, VISIBLE_ABOVE), whole(stacked[0]!, valueDim), 0),
    lse,
    first: b.ints([0]),
    last: queries,
    trace: null,
  };
}
