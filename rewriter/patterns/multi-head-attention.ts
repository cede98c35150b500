import type { Node } from '../graph/node.js';
import { contribMasks } from '../masks/contrib-masks.js';
import { FusedLogits } from '../masks/fused-logits.js';
import { headOperand } from '../match/operands.js';
import type { Attention, FormContext, Miss, SourceForm } from './source-form.js';

/** com.microsoft MultiHeadAttention: query, key and value [B,N,H*D], or key and value [B,H,S,D]. */
export const multiHeadAttention: SourceForm = {
  name: 'ms-multi-head-attention',
  anchors: ['com.microsoft::MultiHeadAttention'],
  recognize,
};

function recognize(node: Node, { laboratory }: FormContext): Attention | Miss {
  const [query, key, value, bias, paddingMask, attentionBias, pastKey] = node.inputs;
  const output = node.outputs[0];
  const miss = (reason: string): Miss => ({ node, reason, near: true, nodes: [node] });
  if (query == null || output == null) return miss('it lacks its query or its output');
  if (key == null || value == null || laboratory.rank(key) === 5)
    return miss('query, key and value are packed into one tensor');
  const heads = node.int('num_heads', 1);
  const masks = contribMasks(node, paddingMask ?? null, attentionBias ?? null, laboratory);
  if (typeof masks === 'string') return miss(masks);
  const scale = node.float('scale', 0);
  const queries = { value: query, heads: heads };
  return {
    operands: {
      kind: 'read',
      query: headOperand(queries, queries),
      key: headOperand({ value: key, heads: heads }, queries),
      value: headOperand({ value, heads: heads }, queries),
    },
    output,
    result: { heads },
    productFactor: 1,
    logits: new FusedLogits(node, {
      scale: scale === 0 ? null : scale,
      headDim: probe => probe.sample(query).dims.at(-1)! / heads,
      softcap: 0,
      causal: node.int('unidirectional', 0) === 1,
      window: { left: null, right: null },
      offset: (_, extent) => extent.columns - extent.rows,
      masks,
    }),
    emptyRow: { infinite: 'nan', equal: 'mean' },
    pastKey: pastKey ?? null,
    named: node,
    interior: node.outputs
      .slice(3)
      .flatMap(scores => (scores === null ? [] : [{ value: scores, holds: 'attention scores' }])),
    nodes: new Set([node]),
    refusals: bias == null ? [] : ['it adds the biases of the projections inside the operator'],
  };
}
