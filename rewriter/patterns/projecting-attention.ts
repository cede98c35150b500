import type { Node } from '../graph/node.js';
import { contribLogits } from '../masks/contrib-logits.js';
import { PLAIN } from '../probe/laboratory.js';
import type { Attention, FormCache, FormContext, Miss, SourceForm } from './source-form.js';
import { takenOperands } from './taken-operands.js';

/** com.microsoft Attention: projects its input [B,N,X] to query, key and value inside the operator. */
export const projectingAttention: SourceForm = {
  name: 'ms-attention',
  anchors: ['com.microsoft::Attention'],
  recognize,
};

function recognize(node: Node, { laboratory }: FormContext): Attention | Miss {
  const [input, weights, bias, mask, , attentionBias] = node.inputs;
  const output = node.outputs[0];
  const miss = (reason: string): Miss => ({ node, reason, near: true, nodes: [node] });
  if (input == null || weights == null || output == null) return miss('it lacks an input or its output');
  const heads = node.int('num_heads', 1);
  const width = laboratory.trials[0]!.probe(PLAIN).sample(weights).dims[1]! / 3;
  const [queryWidth = width, , valueWidth = width] = node.ints('qkv_hidden_sizes') ?? [];
  const headDim = queryWidth / heads;
  const scores = { mask: mask ?? null, bias: attentionBias ?? null, headDim: () => headDim };
  const logits = contribLogits(node, scores, laboratory);
  if (typeof logits === 'string') return miss(logits);
  const operand = (start: number, size: number) => ({
    value: input,
    projection: { weights: weights.name, bias: bias?.name ?? null, columns: [start, start + size] as const },
  });
  return {
    operands: takenOperands(
      {
        query: operand(0, queryWidth),
        key: operand(queryWidth, queryWidth),
        value: operand(2 * queryWidth, valueWidth),
      },
      { query: heads, kv: heads },
      laboratory,
    ),
    output,
    result: { heads },
    productFactor: 1,
    logits,
    emptyRow: { infinite: 'nan', equal: 'mean' },
    rotary: null,
    cache: stackedCache(node),
    sink: null,
    named: node,
    interior: [],
    nodes: new Set([node]),
    refusals: [
      ...(node.int('do_rotary', 0) === 1 ? ['it applies rotary positions inside the operator'] : []),
      ...(node.int('past_present_share_buffer', 0) === 1
        ? [
            'it writes its keys into a buffer of fixed length: build the model without past_present_share_buffer',
          ]
        : []),
    ],
  };
}

/** Keys and values of earlier steps, and those of all, are one value each. */
function stackedCache(node: Node): FormCache | null {
  const past = node.inputs[4] ?? null;
  const present = node.outputs[1] ?? null;
  if (past === null && present === null) return null;
  return {
    past: past && { key: past, value: past },
    present: { key: present, value: present },
    stacked: true,
    lengths: null,
  };
}
