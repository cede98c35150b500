import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import { FusedLogits, type FusedMask } from '../masks/fused-logits.js';
import { type Laboratory, PLAIN } from '../probe/laboratory.js';
import {
  type Attention,
  cacheOf,
  type FormContext,
  type FormPositions,
  type Miss,
  type SourceForm,
  scoresOutput,
} from './source-form.js';
import { takenOperands } from './taken-operands.js';

/**
 * com.microsoft GroupQueryAttention: causal decoder attention with a cache, [B,N,H*D] queries, fewer key heads,
 * often all three operands side by side in one tensor and rotary positions inside the operator. Batch rows begin
 * at the first key of the cache, whatever their lengths.
 */
export const groupQueryAttention: SourceForm = {
  name: 'ms-group-query-attention',
  anchors: ['com.microsoft::GroupQueryAttention'],
  recognize,
};

/** Where GatherND knows batches, by which the caches of rows of different lengths are joined. */
const OLDEST_OPSET = 12;

function recognize(node: Node, { laboratory }: FormContext): Attention | Miss {
  const [query, key, value, pastKey, pastValue, last, total] = node.inputs;
  const bias = node.inputs[10];
  const output = node.outputs[0];
  if (query == null || output == null || last == null || total == null) {
    return { node, reason: 'it lacks an input or its output', near: true, nodes: [node] };
  }
  const heads = { query: node.int('num_heads', 1), kv: node.int('kv_num_heads', 1) };
  const isPacked = key == null || value == null;
  const headDim = widthOf(query, laboratory) / (isPacked ? heads.query + 2 * heads.kv : heads.query);
  const scale = node.float('scale', 0);
  const window = node.int('local_window_size', -1);
  const away = Number.NEGATIVE_INFINITY;
  const masks: FusedMask[] = [{ value: last, axes: ['b'], meaning: 'last', hidden: away }];
  if (bias != null) masks.push({ value: bias, axes: ['b', 'h', 'i', 'j'], meaning: 'add', hidden: away });
  return {
    operands: takenOperands(operandsOf(query, [key, value], heads, headDim), heads, laboratory),
    output,
    result: { heads: heads.query },
    productFactor: 1,
    logits: new FusedLogits(node, {
      scale: scale === 0 ? null : scale,
      headDim: () => headDim,
      softcap: node.float('softcap', 0),
      causal: node.int('causal', 1) === 1,
      // The window counts the query's own key.
      window: { left: window < 0 ? null : window - 1, right: null },
      offset: (_, extent) => extent.columns - extent.rows,
      masks,
    }),
    emptyRow: { infinite: 'unknown', equal: 'unknown' },
    rotary: rotaryOf(node, headDim, laboratory),
    cache: cacheOf(node, [pastKey, pastValue], { last, total }),
    sink: sinkOf(node),
    named: node,
    interior: scoresOutput(node),
    nodes: new Set([node]),
    refusals: refusalsOf(node),
  };
}

/** Query, key and value of their own, or runs of columns of one tensor [B,N,(H+2G)*D]. */
function operandsOf(
  query: Value,
  [key, value]: readonly (Value | null | undefined)[],
  heads: { readonly query: number; readonly kv: number },
  headDim: number,
): Parameters<typeof takenOperands>[0] {
  if (key != null && value != null) {
    const whole = (operand: Value) => ({ value: operand, projection: null });
    return { query: whole(query), key: whole(key), value: whole(value) };
  }
  const columns = (from: number, to: number) => ({
    value: query,
    projection: { weights: null, bias: null, columns: [from * headDim, to * headDim] as const },
  });
  const values = heads.query + heads.kv;
  return {
    query: columns(0, heads.query),
    key: columns(heads.query, values),
    value: columns(values, values + heads.kv),
  };
}

function rotaryOf(node: Node, headDim: number, laboratory: Laboratory): FormPositions | null {
  const cosines = node.inputs[7];
  const sines = node.inputs[8];
  if (node.int('do_rotary', 0) !== 1 || cosines == null || sines == null) return null;
  const rotated = 2 * widthOf(cosines, laboratory);
  return {
    cosines,
    sines,
    channels: rotated === headDim ? null : rotated,
    interleaved: node.int('rotary_interleaved', 0) === 1,
    positions: node.inputs[9] ?? null,
  };
}

function widthOf(value: Value, laboratory: Laboratory): number {
  return laboratory.trials[0]!.probe(PLAIN).sample(value).dims.at(-1)!;
}

/** The logits of its heads' sinks, which take the place of the zeros of a smooth softmax. */
function sinkOf(node: Node): Attention['sink'] {
  const value = node.inputs[11] ?? null;
  return value === null && node.int('smooth_softmax', 0) !== 1 ? null : { value };
}

function refusalsOf(node: Node): string[] {
  const [keyScale, valueScale, queryNorm, keyNorm] = node.inputs.slice(12);
  const refusals: string[] = [];
  if ((node.graph.opsets.get('') ?? OLDEST_OPSET) < OLDEST_OPSET)
    refusals.push(`its cache takes opset ${OLDEST_OPSET} or newer to be joined outside the operator`);
  if (keyScale != null || valueScale != null)
    refusals.push('its cache is quantized: build the model with one of floating-point numbers');
  if (queryNorm != null || keyNorm != null) refusals.push('it normalizes query and key inside the operator');
  if (node.int('sliding_window_cache', 0) === 1)
    refusals.push('its cache holds a sliding window only: build the model without sliding_window_cache');
  return refusals;
}
