import { DataType } from '../../../rewriter/onnx/spec.js';
import type { GraphBuilder, Value } from '../../graph-builder.js';
import type { MultipoleParameters } from '../parameters.js';
import { type BodyInputs, HIDDEN, type Sizes } from './sizes.js';

/** Softmax attention over some of a row's keys: normalised output [...,E] and log of the denominator [...,1]. */
export interface SoftmaxPart {
  readonly output: Value;
  readonly lse: Value;
}

/**
 * Softmax over logits [...,n] and its product with values [...,n,E]. The log-sum-exp comes from the largest
 * logit and the largest probability, which saves keeping sums that Softmax does not return.
 */
export function softmaxPart(b: GraphBuilder, logits: Value, values: Value): SoftmaxPart {
  const probabilities = b.softmax(logits);
  return { output: b.matMul(probabilities, values), lse: logSumExp(b, logits, probabilities) };
}

export function logSumExp(b: GraphBuilder, logits: Value, probabilities: Value): Value {
  return b.sub(b.reduceMax(logits, -1), b.log(b.reduceMax(probabilities, -1)));
}

/** Queries [...,D] times the scale, with a last column of ones that meets the bias column of the keys. */
export function scaledQueries(b: GraphBuilder, query: Value, scale: Value, shape: readonly Value[]): Value {
  return b.concat([b.mul(query, scale), b.full([...shape, b.ints([1])], 1, DataType.FLOAT)], -1);
}

/** Keys [parts,n,D] with their bias [parts,n] as a last column. */
export function biasedKeys(b: GraphBuilder, key: Value, bias: Value): Value {
  return b.concat([key, b.unsqueeze(bias, 2)], 2);
}

/**
 * X(q): each row segment against its own segment of keys and its window, from row segment `from` on.
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
  const { parts, kvParts, share, headDim, valueDim, rowSegments } = sizes;
  const before = window * segment;
  const span = causal ? window + 1 : 2 * window + 1;
  const after = b.sub(b.mul(b.add(sizes.gridSegments, causal ? 0 : window), segment), b.dim(inputs.key, 1));
  const values = b.pad(inputs.value, 3, 1, before, after);
  const keys = biasedKeys(
    b,
    b.pad(inputs.key, 3, 1, before, after),
    b.pad(inputs.keyBias, 2, 1, before, after, HIDDEN),
  );
  const future = causal ? causalBias(b, segment, before, span * segment) : null;
  const { stacked } = b.loop(b.sub(rowSegments, from), [], (inner, iteration) => {
    const start = inner.mul(inner.add(iteration, from), segment);
    const rows = inner.slice(grid, 1, start, inner.add(start, segment));
    const query = scaledQueries(inner, rows, sizes.scale, [parts, inner.ints([segment])]);
    const end = inner.add(start, span * segment);
    const nearKeys = inner.transpose(inner.unsqueeze(inner.slice(keys, 1, start, end), 1), [0, 1, 3, 2]);
    const nearValues = inner.unsqueeze(inner.slice(values, 1, start, end), 1);
    const perKey = inner.reshape(query, [kvParts, share, segment, inner.add(headDim, 1)]);
    const products = inner.matMul(perKey, nearKeys);
    const part = softmaxPart(inner, future ? inner.add(products, future) : products, nearValues);
    return {
      state: [],
      stacked: [
        inner.reshape(part.output, [parts, segment, valueDim]),
        inner.reshape(part.lse, [parts, segment, 1]),
      ],
    };
  });
  const absent = b.sub(sizes.gridSegments, rowSegments);
  const whole = (x: Value, width: Value, value: number) =>
    b.reshape(b.transpose(b.pad(x, 4, 0, from, absent, value), [1, 0, 2, 3]), [parts, -1, width]);
  return { output: whole(stacked[0]!, valueDim, 0), lse: whole(stacked[1]!, b.ints([1]), HIDDEN) };
}

/** 0 where key n of the window comes no later than row o of the own segment, which starts at `before`. */
function causalBias(b: GraphBuilder, rows: number, before: number, keys: number): Value {
  const last = b.reshape(b.add(b.range(rows), before), [rows, 1]);
  return b.where(b.lessOrEqual(b.range(keys), last), 0, b.constant(HIDDEN, DataType.FLOAT));
}
