import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import { contribLogits } from '../masks/contrib-logits.js';
import { headOperand } from '../match/operands.js';
import { type Laboratory, PLAIN } from '../probe/laboratory.js';
import type { Probe } from '../probe/probe.js';
import {
  type Attention,
  cacheOf,
  type FormContext,
  type Miss,
  type ProjectedOperands,
  type SourceForm,
  scoresOutput,
} from './source-form.js';
import { takenOperands } from './taken-operands.js';

/** com.microsoft MultiHeadAttention: query, key and value [B,N,H*D], or key and value [B,H,S,D]. */
export const multiHeadAttention: SourceForm = {
  name: 'ms-multi-head-attention',
  anchors: ['com.microsoft::MultiHeadAttention'],
  recognize,
};

function recognize(node: Node, { laboratory }: FormContext): Attention | Miss {
  const [query, key, value, bias, paddingMask, attentionBias, pastKey, pastValue, shared, beams] =
    node.inputs;
  const output = node.outputs[0];
  const miss = (reason: string): Miss => ({ node, reason, near: true, nodes: [node] });
  if (query == null || output == null) return miss('it lacks its query or its output');
  const keyRank = key == null ? 5 : laboratory.rank(key);
  if (key == null || value == null || keyRank === 5)
    return miss('query, key and value are packed into one tensor: optimize the model without packing them');
  if (bias != null && keyRank !== 3) return miss('it adds a bias to keys that come with their heads apart');
  const heads = node.int('num_heads', 1);
  const headDim = (probe: Probe) => probe.sample(query).dims.at(-1)! / heads;
  const scores = { mask: paddingMask ?? null, bias: attentionBias ?? null, headDim };
  const logits = contribLogits(node, scores, laboratory);
  if (typeof logits === 'string') return miss(logits);
  const cache = cacheOf(node, [pastKey, pastValue]);
  const queries = { value: query, heads };
  const read = {
    kind: 'read',
    query: headOperand(queries, queries),
    key: headOperand({ value: key, heads }, queries),
    value: headOperand({ value, heads }, queries),
  } as const;
  return {
    operands:
      bias == null && cache === null ? read : taken({ query, key, value }, bias ?? null, heads, laboratory),
    output,
    result: { heads },
    productFactor: 1,
    logits,
    emptyRow: { infinite: 'nan', equal: 'mean' },
    rotary: null,
    cache,
    sink: null,
    named: node,
    interior: scoresOutput(node),
    nodes: new Set([node]),
    refusals: [
      ...(shared == null
        ? []
        : ['it writes its keys into a buffer of fixed length: export the model for caches that grow']),
      ...(beams == null ? [] : ['its keys are those of several beams']),
    ],
  };
}

/**
 * The biases of the three projections, one behind the other, are added inside the operator; without them the
 * operands are what it takes.
 */
function taken(
  values: Readonly<Record<'query' | 'key' | 'value', Value>>,
  bias: Value | null,
  heads: number,
  laboratory: Laboratory,
): ProjectedOperands {
  const width = (value: Value) => laboratory.trials[0]!.probe(PLAIN).sample(value).dims.at(-1)!;
  const [queryWidth, valueWidth] = [width(values.query), width(values.value)];
  const operand = (value: Value, start: number, size: number) => ({
    value,
    projection: bias && { weights: null, bias: bias.name, columns: [start, start + size] as const },
  });
  return takenOperands(
    {
      query: operand(values.query, 0, queryWidth),
      key: operand(values.key, queryWidth, queryWidth),
      value: operand(values.value, 2 * queryWidth, valueWidth),
    },
    { query: heads, kv: heads },
    laboratory,
  );
}
