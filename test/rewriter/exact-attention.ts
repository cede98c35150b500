import type { OperatorDefinition } from '../../custom-ops/operator.js';
import { DOMAIN } from '../../custom-ops/operator.js';
import type { NodeSpec } from '../../rewriter/onnx/spec.js';
import { floats, node } from './onnx/builders.js';

const constant = (name: string, value: number): NodeSpec =>
  node('Constant', [], [name], { value: { type: 'tensor', value: floats('', [], [value]) } });

/** An operator whose body is plain softmax attention, to test rewriting apart from any approximation. */
export const EXACT_ATTENTION: OperatorDefinition = {
  id: 'exact-attention',
  opType: 'ExactAttention',
  summary: 'Softmax attention',
  fidelity: { softmax: 'exact' },
  layout: 'BHND',
  inputs: [
    { name: 'query', optional: false },
    { name: 'key', optional: false },
    { name: 'value', optional: false },
    { name: 'key_mask', optional: true },
  ],
  outputs: [{ name: 'output', optional: false }],
  attributes: [
    { name: 'scale', type: 'float', description: 'Factor on the scores.' },
    { name: 'label', type: 'string', description: 'Not used by the body.' },
    { name: 'per_head', type: 'ints', description: 'Not used by the body.' },
  ],
  presets: { default: {} },
  defaultMinLength: 0,
  oldestOpset: 13,
  accepts: () => ({ ok: true }),
  resolve: (site, settings) => ({
    scale: (site.computation === 'softmax' ? site.operatorScale : null) ?? 1,
    label: '',
    per_head: [],
    ...settings,
  }),
  functionBody: ({ scale }, connected, { opset }) => {
    const masked = connected.includes('key_mask');
    return {
      domain: DOMAIN,
      name: 'ExactAttention',
      inputs: [...connected],
      outputs: ['output'],
      attributes: ['scale', 'label', 'per_head'],
      opsetImports: { '': opset },
      nodes: [
        constant('factor', scale as number),
        node('Transpose', ['key'], ['key_t'], { perm: { type: 'ints', value: [0, 1, 3, 2] } }),
        node('MatMul', ['query', 'key_t'], ['products']),
        node('Mul', ['products', 'factor'], [masked ? 'unmasked' : 'scores']),
        ...(masked
          ? [
              constant('lowest', -1e30),
              node('Constant', [], ['axes'], { value_ints: { type: 'ints', value: [1, 2] } }),
              node('Unsqueeze', ['key_mask', 'axes'], ['visible']),
              node('Where', ['visible', 'unmasked', 'lowest'], ['scores']),
            ]
          : []),
        node('Softmax', ['scores'], ['weights'], { axis: { type: 'int', value: -1 } }),
        node('MatMul', ['weights', 'value'], ['output']),
      ],
    };
  },
};
