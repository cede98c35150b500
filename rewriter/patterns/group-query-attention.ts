import type { Node } from '../graph/node.js';
import { FusedLogits, type FusedMask } from '../masks/fused-logits.js';
import { headOperand } from '../match/operands.js';
import { PLAIN } from '../probe/laboratory.js';
import type { Attention, FormContext, Miss, SourceForm } from './source-form.js';

/**
 * com.microsoft GroupQueryAttention: causal decoder attention with a cache, [B,N,H*D] queries, fewer key heads,
 * and often rotary positions inside the operator.
 */
export const groupQueryAttention: SourceForm = {
  name: 'ms-group-query-attention',
  anchors: ['com.microsoft::GroupQueryAttention'],
  recognize,
};

function recognize(node: Node, { laboratory }: FormContext): Attention | Miss {
  const [query, key, value, pastKey, , lastKeys] = node.inputs;
  const bias = node.inputs[10];
  const output = node.outputs[0];
  if (query == null || output == null || lastKeys == null) {
    return { node, reason: 'it lacks an input or its output', near: true, nodes: [node] };
  }
  const queryHeads = node.int('num_heads', 1);
  const kvHeads = node.int('kv_num_heads', 1);
  const packed = key == null || value == null;
  const hidden = laboratory.trials[0]!.probe(PLAIN).sample(query).dims.at(-1)!;
  const headDim = hidden / (packed ? queryHeads + 2 * kvHeads : queryHeads);
  const scale = node.float('scale', 0);
  const window = node.int('local_window_size', -1);
  const away = Number.NEGATIVE_INFINITY;
  const masks: FusedMask[] = [{ value: lastKeys, axes: ['b'], meaning: 'last', hidden: away }];
  if (bias != null) masks.push({ value: bias, axes: ['b', 'h', 'i', 'j'], meaning: 'add', hidden: away });
  const whole = { value: query, projection: null };
  const queries = { value: query, heads: queryHeads };
  return {
    operands: packed
      ? {
          kind: 'projected',
          query: whole,
          key: whole,
          value: whole,
          queryHeads,
          kvHeads,
          headDim,
          valueDim: headDim,
        }
      : {
          kind: 'read',
          query: headOperand(queries, queries),
          key: headOperand({ value: key, heads: kvHeads }, queries),
          value: headOperand({ value, heads: kvHeads }, queries),
        },
    output,
    result: { heads: queryHeads },
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
    pastKey: pastKey ?? null,
    named: node,
    interior: [],
    nodes: new Set([node]),
    refusals: refusalsOf(node, packed),
  };
}

function refusalsOf(node: Node, packed: boolean): string[] {
  const refusals = ['it keeps its own cache and counts visible keys by batch row'];
  if (packed) refusals.push('it takes query, key and value packed into one tensor');
  if (node.int('do_rotary', 0) === 1) refusals.push('it applies rotary positions inside the operator');
  if (node.int('smooth_softmax', 0) === 1 || node.inputs[11] != null)
    refusals.push('its softmax has an extra term');
  if (node.inputs[14] != null) refusals.push('it normalizes query and key inside the operator');
  return refusals;
}
