import { DataType } from '../../../rewriter/onnx/spec.js';
import type { Dim, GraphBuilder, Value } from '../../graph-builder.js';
import { HIDDEN, type SoftmaxPart, softmaxPart } from '../../softmax-part.js';
import type { MultipoleParameters } from '../parameters.js';
import type { BodyInputs, Sizes } from './sizes.js';

/** x [...,D] with a last column of ones, which meets a column of biases on the other side of a product. */
export function withOnes(b: GraphBuilder, x: Value, shape: readonly Dim[]): Value {
  return b.concat([x, b.full([...shape, 1], 1, DataType.FLOAT)], -1);
}

/** scale * rows . keys + bias of the keys: rows [parts,n,D], keys [kvParts,m,D], bias [kvParts,m] or none. */
export function logits(
  b: GraphBuilder,
  rows: Value,
  count: Dim,
  keys: Value,
  bias: Value | null,
  { parts, kvParts, share, headDim, scale }: Sizes,
): Value {
  const scaled = b.mul(rows, scale);
  const width = bias ? b.add(headDim, 1) : headDim;
  const queries = b.reshape(bias ? withOnes(b, scaled, [parts, count]) : scaled, [
    kvParts,
    share,
    count,
    width,
  ]);
  const biased = bias ? b.concat([keys, b.unsqueeze(bias, 2)], 2) : keys;
  return b.matMul(queries, b.transpose(b.unsqueeze(biased, 1), [0, 1, 3, 2]));
}

/**
 * X(q): each row segment against its own segment of keys and its window, from row segment `from` on. What a
 * causal row segment computes has one shape wherever the keys end.
 * @returns parts of all rows of the grid, [B*H,rows,E] and 1; HIDDEN where nothing was computed
 */
export function nearField(
  b: GraphBuilder,
  inputs: BodyInputs,
  grid: Value,
  sizes: Sizes,
  parameters: MultipoleParameters,
  from: Value,
): SoftmaxPart {
  const { segment, window, causal } = parameters;
  const { parts, valueDim, rowSegments } = sizes;
  const future = causal ? causalBias(b, segment, window) : null;
  const { stacked } = b.loop(b.sub(rowSegments, from), [], (inner, iteration) => {
    const own = inner.add(iteration, from);
    const first = inner.max(inner.sub(own, window), 0);
    const start = inner.mul(first, segment);
    const end = inner.mul(inner.add(own, causal ? 1 : window + 1), segment);
    const keyCount = inner.dim(inputs.key, 1);
    const missing = inner.max(inner.sub(end, inner.max(keyCount, start)), 0);
    const near = (x: Value, rank: number, fill: number) => {
      const present = inner.slice(x, 1, start, end);
      return causal ? inner.pad(present, rank, 1, 0, missing, fill) : present;
    };
    const position = inner.mul(own, segment);
    const rows = inner.slice(grid, 1, position, inner.add(position, segment));
    const bias = inputs.keyBias && near(inputs.keyBias, 2, HIDDEN);
    let products = logits(inner, rows, segment, near(inputs.key, 3, 0), bias, sizes);
    if (future) {
      const before = inner.mul(inner.max(inner.sub(window, own), 0), segment);
      const visible = inner.slice(future, 1, before, (window + 1) * segment);
      products = inner.add(products, visible);
    }
    const part = softmaxPart(inner, products, inner.unsqueeze(near(inputs.value, 3, 0), 1));
    return {
      state: [],
      stacked: [
        inner.reshape(part.output, [parts, segment, valueDim]),
        inner.reshape(part.lse, [parts, segment, 1]),
      ],
    };
  });
  const absent = b.sub(sizes.gridSegments, rowSegments);
  const whole = (x: Value, width: Dim, value: number) =>
    b.reshape(b.transpose(b.pad(x, 4, 0, from, absent, value), [1, 0, 2, 3]), [parts, -1, width]);
  return { output: whole(stacked[0]!, valueDim, 0), lse: whole(stacked[1]!, 1, HIDDEN) };
}

/** [segment, (window+1)*segment]: 0 where the key comes no later than the row of the last of the segments. */
function causalBias(b: GraphBuilder, segment: number, window: number): Value {
  const last = b.reshape(b.add(b.range(segment), window * segment), [segment, 1]);
  return b.where(b.lessOrEqual(b.range((window + 1) * segment), last), 0, b.constant(HIDDEN, DataType.FLOAT));
}
