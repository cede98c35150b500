import { InputError } from '../../rewriter/errors.js';
import type { AttentionSite, Site } from '../../rewriter/site.js';
import { CAUSAL, checkSettings, fusionAttributes, type Settings } from '../attributes.js';
import { OLDEST_OPSET } from '../graph-builder.js';
import {
  type Acceptance,
  type AttributeDefinition,
  type Attributes,
  acceptedUnless,
  type OperatorDefinition,
} from '../operator.js';
import { elementwiseFunctionBody, INPUT_NAMES, OP_TYPE, OUTPUT_NAMES } from './function-body.js';
import { attributesOf, MOST_ORDER, orderProblem, parametersOf } from './parameters.js';

const ID = 'elementwise-attention';

const ATTRIBUTES: readonly AttributeDefinition[] = [
  {
    name: 'order',
    type: 'int',
    least: 0,
    most: MOST_ORDER,
    description: 'even order of the Taylor polynomial of exp(2 q k); 0: the exponential itself',
  },
  CAUSAL,
];

/** Order on softmax sites of models to be retrained, the smallest. */
const DEFAULT_ORDER = 2;

/** Element-wise attention (operator specification, section 4). */
export const elementwiseAttention: OperatorDefinition = {
  id: ID,
  opType: OP_TYPE,
  summary: 'each channel attends by itself, weighted by exp(-(q - k)^2) or a series of it, in linear time',
  fidelity: { elementwise: 'exact', softmax: 'needs-trained-weights' },
  layout: 'BN(HD)',
  inputs: INPUT_NAMES.map((name, n) => ({ name, optional: n >= INPUT_NAMES.indexOf('key_mask') })),
  outputs: OUTPUT_NAMES.map((name, n) => ({ name, optional: n > 0 })),
  attributes: ATTRIBUTES,
  presets: { default: {} },
  defaultMinLength: 0,
  oldestOpset: OLDEST_OPSET,
  accepts,
  resolve,
  functionBody: (attributes, connected, model) =>
    elementwiseFunctionBody(parametersOf(attributes), connected, model),
};

function accepts(site: Site): Acceptance {
  const reason = site.computation === 'softmax' ? refusalOfSoftmax(site) : refusalOfOrder(site.parameters);
  return acceptedUnless(ID, reason);
}

function refusalOfOrder({ order }: Attributes): string | null {
  return orderProblem(Number(order));
}

/** What element-wise attention cannot be trained into. */
function refusalOfSoftmax({ queryHeads, kvHeads, headDim, valueDim, kind }: AttentionSite): string | null {
  if (queryHeads === null || queryHeads !== kvHeads || headDim === null || headDim !== valueDim) {
    return 'query, key and value do not have the same channels';
  }
  return kind === 'self' ? null : `it takes no ${kind} attention in place of softmax`;
}

/** @throws InputError for an odd order too, with the reason */
function resolve(site: Site, settings: Settings): Attributes {
  const order = Number(settings.order ?? DEFAULT_ORDER);
  const problem = orderProblem(order);
  if (problem !== null) throw new InputError(`${ID}: ${problem}`, { remedy: 'Use 0 or an even order.' });
  if (site.computation !== 'softmax') return fusionAttributes(elementwiseAttention, site, settings);
  checkSettings(elementwiseAttention, settings);
  if (settings.causal !== undefined && settings.causal !== Number(site.causal)) {
    throw new InputError(`${ID} on ${site.id}: the site is ${site.causal ? 'causal' : 'not causal'}`, {
      remedy: 'Leave "causal" out: it follows from the site.',
    });
  }
  return attributesOf({ order, causal: site.causal });
}
