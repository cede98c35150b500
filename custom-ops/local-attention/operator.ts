import { type AttentionSite, isAttention, type Site } from '../../rewriter/site.js';
import { CAUSAL_OFFSET, fusionAttributes, SCALE, type Settings } from '../attributes.js';
import { OLDEST_OPSET } from '../graph-builder.js';
import {
  type Acceptance,
  type AttributeDefinition,
  type Attributes,
  acceptedUnless,
  type OperatorDefinition,
} from '../operator.js';
import { siteParameters } from '../softmax-site.js';
import { INPUT_NAMES, localFunctionBody, OP_TYPE } from './function-body.js';
import { attributesOf, parametersOf } from './parameters.js';

const ATTRIBUTES: readonly AttributeDefinition[] = [
  SCALE,
  {
    name: 'window_left',
    type: 'int',
    least: -1,
    description: 'how many keys before its position a row sees; -1: all',
    fromSite: true,
  },
  {
    name: 'window_right',
    type: 'int',
    least: -1,
    description: 'how many keys after its position a row sees; -1: all',
    fromSite: true,
  },
  CAUSAL_OFFSET,
];

/** Softmax attention within a window of distances, in linear time (README). */
export const localAttention: OperatorDefinition = {
  id: 'local-attention',
  opType: OP_TYPE,
  summary: 'attention within a sliding window, exactly, without the products outside it',
  fidelity: { softmax: 'exact' },
  layout: 'BHND',
  inputs: INPUT_NAMES.map(name => ({ name, optional: name === 'key_mask' })),
  outputs: [
    { name: 'output', optional: false },
    { name: 'lse', optional: true },
  ],
  attributes: ATTRIBUTES,
  presets: { default: {} },
  defaultMinLength: 0,
  oldestOpset: OLDEST_OPSET,
  accepts,
  resolve,
  functionBody: (attributes, connected, model) =>
    localFunctionBody(parametersOf(attributes), connected, model),
};

function accepts(site: Site): Acceptance {
  return acceptedUnless(
    localAttention.id,
    isAttention(site) ? refusal(site) : 'it computes softmax attention',
  );
}

function refusal({ window, operatorScale }: AttentionSite): string | null {
  if (window === null) return 'its keys are not limited to a sliding window';
  if (operatorScale === null) return 'the scale of its scores is not constant';
  return null;
}

function resolve(site: Site, settings: Settings): Attributes {
  if (!isAttention(site) || site.window === null) throw new RangeError(`site ${site.id} has no window`);
  const { scale, causalOffset } = siteParameters(site);
  const parameters = attributesOf({ ...site.window, scale, offset: causalOffset });
  return fusionAttributes(localAttention, { id: site.id, parameters }, settings);
}
