import { asFusion, CAUSAL, fusionAttributes } from '../attributes.js';
import { OLDEST_OPSET } from '../graph-builder.js';
import { type AttributeDefinition, acceptedUnless, type OperatorDefinition } from '../operator.js';
import { bilinearFunctionBody, INPUT_NAMES, OP_TYPE } from './function-body.js';
import { bilinearProblem, NORMALISATIONS, parametersOf } from './parameters.js';

const ID = 'bilinear-attention';

const ATTRIBUTES: readonly AttributeDefinition[] = [
  {
    name: 'kind',
    type: 'string',
    oneOf: ['block-tensor-train', 'multi-level-low-rank'],
    description: 'how keys are made of tokens, and with levels queries too',
  },
  { name: 'heads', type: 'int', least: 1, description: 'heads, each with a matrix of its own' },
  { name: 'features', type: 'int', least: 1, description: 'channels of a token' },
  {
    name: 'input_pieces',
    type: 'ints',
    least: 1,
    description: 'by level: pieces of a token with weights of their own',
  },
  {
    name: 'output_pieces',
    type: 'ints',
    least: 1,
    description: 'pieces of a transformed key; with levels the same as input_pieces',
  },
  {
    name: 'ranks',
    type: 'ints',
    least: 1,
    description: "by level: dimensions of a piece's image, or of what joins an input and an output piece",
  },
  { name: 'level_scale', type: 'floats', description: 'by level: factor on the product of query and key' },
  {
    name: 'normalisation',
    type: 'string',
    oneOf: NORMALISATIONS,
    description: 'what is done to keys, and with levels to queries, before they are multiplied',
  },
  { name: 'epsilon', type: 'float', least: 0, description: 'added to variances or mean squares' },
  CAUSAL,
];

/** Attention with structured scores on the tokens themselves (operator specification, section 3). */
export const bilinearAttention: OperatorDefinition = {
  id: ID,
  opType: OP_TYPE,
  summary:
    'scores by structured matrices between the tokens themselves: Block Tensor Train or low-rank levels',
  fidelity: { bilinear: 'exact' },
  layout: 'BHND',
  inputs: INPUT_NAMES.map((name, n) => ({ name, optional: n > 1 })),
  outputs: [{ name: 'output', optional: false }],
  attributes: ATTRIBUTES,
  presets: { default: {} },
  defaultMinLength: 0,
  oldestOpset: OLDEST_OPSET,
  accepts: site => acceptedUnless(ID, bilinearProblem(parametersOf(asFusion(site).parameters))),
  resolve: (site, settings) => fusionAttributes(bilinearAttention, asFusion(site), settings),
  functionBody: (attributes, connected, model) =>
    bilinearFunctionBody(parametersOf(attributes), connected, model),
};
