import type { Site } from '../../rewriter/site.js';
import { asFusion, CAUSAL, CAUSAL_OFFSET, fusionAttributes } from '../attributes.js';
import { OLDEST_OPSET } from '../graph-builder.js';
import type { Acceptance, AttributeDefinition, OperatorDefinition } from '../operator.js';
import { INPUT_NAMES, multiLevelFunctionBody, OP_TYPE, OUTPUT_NAMES } from './function-body.js';
import { MOST_LEVELS, parametersOf } from './parameters.js';

const ATTRIBUTES: readonly AttributeDefinition[] = [
  { name: 'scale', type: 'float', description: 'factor on every score; absent: 1 / sqrt(head size)' },
  CAUSAL,
  CAUSAL_OFFSET,
  {
    name: 'ranks',
    type: 'ints',
    least: 1,
    description: `dimensions of each level, the global one first: up to ${MOST_LEVELS} numbers that add up to the head size`,
  },
  {
    name: 'block',
    type: 'int',
    least: 1,
    description: 'tokens in a block of the last level; each level before it has blocks twice as long',
  },
  { name: 'level_scale', type: 'floats', description: 'factor on the scores of each level' },
  {
    name: 'divide',
    type: 'string',
    oneOf: ['none', 'count', 'shared'],
    description: 'what scores are divided by: the number of levels, or of those that two tokens share',
  },
];

/** Distance-dependent multi-level low-rank attention (operator specification, section 2). */
export const multiLevelAttention: OperatorDefinition = {
  id: 'multi-level-attention',
  opType: OP_TYPE,
  summary: 'some dimensions of a head count everywhere, others only between tokens of one block',
  fidelity: { 'multi-level': 'exact' },
  layout: 'BHND',
  inputs: INPUT_NAMES.map((name, n) => ({ name, optional: n >= INPUT_NAMES.indexOf('key_mask') })),
  outputs: OUTPUT_NAMES.map((name, n) => ({ name, optional: n > 0 })),
  attributes: ATTRIBUTES,
  presets: { default: {} },
  defaultMinLength: 0,
  oldestOpset: OLDEST_OPSET,
  accepts,
  resolve: (site, settings) => fusionAttributes(multiLevelAttention, asFusion(site), settings),
  functionBody: (attributes, connected, model) =>
    multiLevelFunctionBody(parametersOf(attributes), connected, model),
};

function accepts(site: Site): Acceptance {
  const levels = (asFusion(site).parameters.ranks as readonly number[]).length;
  if (levels <= MOST_LEVELS) return { ok: true };
  return { ok: false, reason: `its scores have ${levels} levels, more than ${MOST_LEVELS}` };
}
