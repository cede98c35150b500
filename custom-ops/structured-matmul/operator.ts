import { asFusion, fusionAttributes } from '../attributes.js';
import { OLDEST_OPSET } from '../graph-builder.js';
import { type AttributeDefinition, acceptedUnless, type OperatorDefinition } from '../operator.js';
import { INPUT_NAMES, OP_TYPE, structuredMatMulBody } from './function-body.js';
import { STRUCTURE_KINDS, structureOf, structureProblem } from './parameters.js';

const ID = 'structured-matmul';

const ATTRIBUTES: readonly AttributeDefinition[] = [
  { name: 'kind', type: 'string', oneOf: STRUCTURE_KINDS, description: 'what the factors make up' },
  { name: 'in_features', type: 'int', least: 1, description: 'size of the last axis of x' },
  { name: 'out_features', type: 'int', least: 1, description: 'size of the last axis of the output' },
  {
    name: 'input_pieces',
    type: 'ints',
    least: 1,
    description: 'by level: pieces of the input, each with a block of the right factor',
  },
  {
    name: 'output_pieces',
    type: 'ints',
    least: 1,
    description: 'by level: pieces of the output, each with a block of the left factor',
  },
  {
    name: 'ranks',
    type: 'ints',
    least: 1,
    description: 'by level: rank of a block, or of what joins an input and an output piece where permuted',
  },
  {
    name: 'permuted',
    type: 'ints',
    least: 0,
    most: 1,
    description: 'by level, 1: every output piece takes from every input piece',
  },
  { name: 'level_scale', type: 'floats', description: 'by level: factor of what the level adds' },
];

/** Products with structured matrices (operator specification, section 3). */
export const structuredMatMul: OperatorDefinition = {
  id: ID,
  opType: OP_TYPE,
  summary:
    'a linear layer whose weight is given by factors: low-rank, Kronecker, Monarch, tensor train, butterfly',
  fidelity: { 'structured-matmul': 'exact' },
  layout: 'BN(HD)',
  inputs: INPUT_NAMES.map((name, n) => ({ name, optional: n > 1 })),
  outputs: [{ name: 'output', optional: false }],
  attributes: ATTRIBUTES,
  presets: { default: {} },
  defaultMinLength: 0,
  oldestOpset: OLDEST_OPSET,
  accepts: site => acceptedUnless(ID, structureProblem(structureOf(asFusion(site).parameters))),
  resolve: (site, settings) => fusionAttributes(structuredMatMul, asFusion(site), settings),
  functionBody: (attributes, _connected, model) => structuredMatMulBody(structureOf(attributes), model),
};
