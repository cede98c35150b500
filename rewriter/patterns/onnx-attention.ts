import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import { FusedLogits, type FusedMask } from '../masks/fused-logits.js';
import { headOperand } from '../match/operands.js';
import {
  type Attention,
  cacheOf,
  type FormContext,
  type Miss,
  type SourceForm,
  scoresOutput,
} from './source-form.js';
import { takenOperands } from './taken-operands.js';

/**
 * ai.onnx Attention, opset 23 to 25: inputs [B,H,N,D] or [B,N,H*D], fewer key heads than query heads for
 * grouped queries. The causal diagonal starts at the first key, or after the keys of earlier steps.
 */
export const onnxAttention: SourceForm = { name: 'onnx-attention', anchors: ['Attention'], recognize };

function recognize(node: Node, { laboratory }: FormContext): Attention | Miss {
  const [query, key, value, mask, pastKey, pastValue, lengths] = node.inputs;
  const output = node.outputs[0];
  if (query == null || key == null || value == null || output == null) {
    return { node, reason: 'it lacks an input or its output', near: true, nodes: [node] };
  }
  const queryHeads = node.int('q_num_heads', 1);
  const kvHeads = node.int('kv_num_heads', queryHeads);
  const masks: FusedMask[] = [];
  const hidden = Number.NEGATIVE_INFINITY;
  if (mask != null) masks.push({ value: mask, axes: ['b', 'h', 'i', 'j'], meaning: 'add', hidden });
  if (lengths != null) masks.push({ value: lengths, axes: ['b'], meaning: 'count', hidden });
  const bound = (name: string) => (node.int(name, -1) < 0 ? null : node.int(name, -1));
  const queries = { value: query, heads: queryHeads };
  const whole = (operand: Value) => ({ value: operand, projection: null });
  const cache = cacheOf(node, [pastKey, pastValue]);
  return {
    operands:
      cache === null
        ? {
            kind: 'read',
            query: headOperand(queries, queries),
            key: headOperand({ value: key, heads: kvHeads }, queries),
            value: headOperand({ value, heads: kvHeads }, queries),
          }
        : takenOperands(
            { query: whole(query), key: whole(key), value: whole(value) },
            { query: queryHeads, kv: kvHeads },
            laboratory,
          ),
    output,
    result: { heads: queryHeads },
    productFactor: 1,
    logits: new FusedLogits(node, {
      scale: node.has('scale') ? node.float('scale', 1) : null,
      headDim: probe => {
        const { dims } = probe.sample(query);
        return dims.at(-1)! / (dims.length === 4 ? 1 : queryHeads);
      },
      softcap: node.float('softcap', 0),
      causal: node.int('is_causal', 0) === 1,
      window: { left: bound('left_window_size'), right: bound('right_window_size') },
      offset: (probe, extent, b) => {
        if (pastKey != null) return probe.sample(pastKey).dims[2]!;
        return lengths == null ? 0 : probe.sample(lengths).at(b) - extent.rows;
      },
      masks,
    }),
    // The operator defines rows without a visible key as zeros; runtimes differ for finite masks.
    emptyRow: { infinite: 'zeros', equal: 'unknown' },
    rotary: null,
    cache,
    sink: null,
    named: node,
    interior: scoresOutput(node),
    nodes: new Set([node]),
    refusals: [],
  };
}
