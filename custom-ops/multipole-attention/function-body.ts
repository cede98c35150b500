import { DataType, type FunctionSpec } from '../../rewriter/onnx/spec.js';
import { GraphBuilder, type Value } from '../graph-builder.js';
import { type BodyContext, DOMAIN } from '../operator.js';
import { atLeastOne, HIDDEN, type SoftmaxPart, VISIBLE_ABOVE } from '../softmax-part.js';
import { exactField } from './body/exact.js';
import { multipoleField, type Trace } from './body/multipole.js';
import { type BodyInputs, bodySizes, type Sizes } from './body/sizes.js';
import type { MultipoleParameters } from './parameters.js';

export const OP_TYPE = 'MultipoleAttention';

/** Inputs of the operator, in order. */
export const INPUT_NAMES = ['query', 'key', 'value', 'key_mask', 'past_query'] as const;

/** Outputs of a test build after `output` and `lse`: see {@link Trace}. */
export const TRACE_NAMES = ['key_clusters', 'query_centroids', 'row_clusters', 'selected'] as const;

/**
 * The operator in standard ONNX operators. Working memory grows as N (D + E) + S (D + E) (queries and
 * clusters): the only products of rows and keys are of one row segment or one tile at a time.
 * @param connected names of the inputs, and of the optional outputs, that the node connects: a body has no
 *   output that its node lacks
 * @param traced a test build: also returns the discrete choices, in TRACE_NAMES; needs rows, keys, and no
 *   exact heads
 */
export function multipoleFunctionBody(
  parameters: MultipoleParameters,
  connected: readonly string[],
  { opset, elementType }: BodyContext,
  traced = false,
): FunctionSpec {
  const last = INPUT_NAMES.findLastIndex(name => connected.includes(name));
  const inputs = INPUT_NAMES.slice(0, last + 1);
  const b = new GraphBuilder(opset);
  const input = (name: (typeof INPUT_NAMES)[number], type: DataType): Value | null =>
    connected.includes(name) ? { name, type } : null;
  // The element type is the node's: UNDEFINED stands for it until the cast.
  const query = input('query', DataType.UNDEFINED)!;
  const keyMask = input('key_mask', DataType.BOOL);
  const visible = keyMask && b.unsqueeze(b.unsqueeze(keyMask, 1), 3);
  const widen = (value: Value | null) => value && b.cast(value, DataType.FLOAT);
  // Even a weight of zero would spread what is not finite.
  const shown = (value: Value) => (visible ? b.where(visible, value, 0) : value);
  const result = attention(
    b,
    {
      query: widen(query)!,
      key: shown(widen(input('key', DataType.UNDEFINED))!),
      value: shown(widen(input('value', DataType.UNDEFINED))!),
      keyMask,
      pastQuery: widen(input('past_query', DataType.UNDEFINED)),
    },
    parameters,
    traced,
  );
  const narrow = (value: Value) => b.castLike(value, query, elementType);
  b.output(narrow(result.output), 'output');
  if (connected.includes('lse')) b.output(narrow(result.lse), 'lse');
  if (result.trace) {
    const { keyClusters, queryCentroids, rowClusters, selected } = result.trace;
    [keyClusters, queryCentroids, rowClusters, selected].forEach((value, n) => {
      b.output(value, TRACE_NAMES[n]!);
    });
  }
  return {
    domain: DOMAIN,
    name: OP_TYPE,
    inputs,
    outputs: ['output', ...(connected.includes('lse') ? ['lse'] : []), ...(result.trace ? TRACE_NAMES : [])],
    opsetImports: { '': opset },
    nodes: b.nodes,
  };
}

interface FloatInputs {
  readonly query: Value;
  readonly key: Value;
  readonly value: Value;
  readonly keyMask: Value | null;
  readonly pastQuery: Value | null;
}

/** Output [B,H,N,E] and lse [B,H,N], in float32. */
interface Attention extends SoftmaxPart {
  readonly trace: Trace | null;
}

function attention(
  b: GraphBuilder,
  inputs: FloatInputs,
  parameters: MultipoleParameters,
  traced: boolean,
): Attention {
  const { retrieve, exactBelow, exactBelowRows } = parameters;
  const exactHeads = Array.from(retrieve.keys()).filter(h => retrieve[h]! < 0);
  if (exactHeads.length === retrieve.length) return wholeHeads(b, inputs, parameters, true, false);
  if (exactHeads.length > 0) return mixedHeads(b, inputs, parameters, exactHeads);
  if (traced) return wholeHeads(b, inputs, parameters, false, true);
  // What has no rows or no keys takes the exact way too, which alone provides for it.
  const rows = b.dim(inputs.query, 2);
  const short = b.less(
    b.dim(inputs.key, 2),
    b.where(
      b.less(rows, Math.max(exactBelowRows, 1)),
      Number.MAX_SAFE_INTEGER,
      b.ints([Math.max(exactBelow, 1)]),
    ),
  );
  const branch = (exact: boolean) => (inner: GraphBuilder) => {
    const { output, lse } = wholeHeads(inner, inputs, parameters, exact, false);
    return [output, lse];
  };
  const [output, lse] = b.ifElse(short, branch(true), branch(false));
  return { output: output!, lse: lse!, trace: null };
}

/** Some heads exact, the others not: each kind by itself, with a copy of the keys per query head. */
function mixedHeads(
  b: GraphBuilder,
  inputs: FloatInputs,
  parameters: MultipoleParameters,
  exactHeads: readonly number[],
): Attention {
  const { retrieve } = parameters;
  const others = Array.from(retrieve.keys()).filter(h => retrieve[h]! >= 0);
  const share = b.div(b.dim(inputs.query, 1), b.dim(inputs.key, 1));
  const part = (heads: readonly number[]) => {
    const query = b.ints(heads);
    const key = b.div(query, share);
    const selected: FloatInputs = {
      query: b.gather(inputs.query, query, 1),
      key: b.gather(inputs.key, key, 1),
      value: b.gather(inputs.value, key, 1),
      keyMask: inputs.keyMask,
      pastQuery: inputs.pastQuery && b.gather(inputs.pastQuery, query, 1),
    };
    return attention(b, selected, { ...parameters, retrieve: heads.map(h => retrieve[h]!) }, false);
  };
  const parts = [part(exactHeads), part(others)];
  const order = [...exactHeads, ...others];
  const place = b.ints(Array.from(order.keys()).map(h => order.indexOf(h)));
  const joined = (of: (result: Attention) => Value) => b.gather(b.concat(parts.map(of), 1), place, 1);
  return { output: joined(({ output }) => output), lse: joined(({ lse }) => lse), trace: null };
}

/** @param exact exact attention, which also takes inputs without rows or keys */
function wholeHeads(
  b: GraphBuilder,
  inputs: FloatInputs,
  parameters: MultipoleParameters,
  exact: boolean,
  traced: boolean,
): Attention {
  const { query, key, value, keyMask, pastQuery } = inputs;
  const past = pastQuery ? b.dim(pastQuery, 2) : b.ints([0]);
  const allQueries = pastQuery ? b.concat([pastQuery, query], 2) : query;
  const rows = b.dim(allQueries, 2);
  const sizes = bodySizes(b, { query: allQueries, key, value, rows, past }, parameters);
  // Rows beyond the last key exist only where the caller places them there.
  const needsBias = exact || keyMask !== null || parameters.causalOffset !== null;
  // Reshaping cannot tell an empty axis: sequences get at least one element, a row cut off or a hidden key.
  const heads = (x: Value, parts: Value, length: Value, size: Value) =>
    exact
      ? b.reshape(atLeastOne(b, x, 4, 2, length, 0), [parts, b.max(length, 1), size])
      : b.reshape(x, [parts, length, size]);
  const merged: BodyInputs = {
    query: heads(allQueries, sizes.parts, rows, sizes.headDim),
    key: heads(key, sizes.kvParts, sizes.keys, sizes.headDim),
    value: heads(value, sizes.kvParts, sizes.keys, sizes.valueDim),
    keyBias: needsBias ? keyBias(b, keyMask, b.dim(key, 0), sizes) : null,
  };
  const result = exact
    ? exactField(b, merged, past, sizes, parameters.causal)
    : multipoleField(b, merged, past, sizes, parameters, traced);
  const batch = b.dim(query, 0);
  const present = (x: Value, width: Value, value: number) => {
    const rowsOfHeads = b.slice(
      b.reshape(x, [batch, b.dim(query, 1), -1, width]),
      2,
      result.first,
      result.last,
    );
    // Causal rows at negative positions see nothing and are not among the rows of the result.
    const absent = b.sub(b.sub(rows, past), b.sub(result.last, result.first));
    return parameters.causal ? b.pad(rowsOfHeads, 4, 2, absent, 0, value) : rowsOfHeads;
  };
  const lse = b.squeeze(present(result.lse, b.ints([1]), HIDDEN), 3);
  return {
    output: present(result.output, sizes.valueDim, 0),
    lse: b.where(b.greater(lse, VISIBLE_ABOVE), lse, Number.NEGATIVE_INFINITY),
    trace: result.trace,
  };
}

/** [B*G,S] or [B*G,1] without keys: 0 for a visible key, HIDDEN for another. */
function keyBias(b: GraphBuilder, keyMask: Value | null, batch: Value, { kvParts, keys }: Sizes): Value {
  const visible = b.constant(0, DataType.FLOAT);
  const bias = keyMask ? b.where(keyMask, visible, HIDDEN) : b.expand(visible, [batch, keys]);
  const perHead = b.unsqueeze(atLeastOne(b, bias, 2, 1, keys, HIDDEN), 1);
  const length = b.max(keys, 1);
  return b.reshape(b.expand(perHead, [batch, b.div(kvParts, batch), length]), [kvParts, length]);
}
