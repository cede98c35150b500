import { InputError } from '../../rewriter/errors.js';
import { DataType } from '../../rewriter/onnx/spec.js';
import { type AttentionSite, type FusionSite, isAttention, type Site } from '../../rewriter/site.js';
import {
  CAUSAL,
  CAUSAL_OFFSET,
  checkSettings,
  fusionAttributes,
  SCALE,
  type Settings,
} from '../attributes.js';
import { OLDEST_OPSET } from '../graph-builder.js';
import {
  type Acceptance,
  type AttributeDefinition,
  type Attributes,
  acceptedUnless,
  type OperatorDefinition,
} from '../operator.js';
import { siteParameters, softmaxRefusal } from '../softmax-site.js';
import { scoreRotation } from './calibration.js';
import { INPUT_NAMES, multiLevelFunctionBody, OP_TYPE, OUTPUT_NAMES } from './function-body.js';
import {
  attributesOf,
  MOST_LEVELS,
  type MultiLevelParameters,
  parametersOf,
  softmaxParameters,
} from './parameters.js';

/** Types of query and key that a rotation is written in. */
const ROTATABLE: ReadonlySet<DataType> = new Set([DataType.FLOAT, DataType.FLOAT16]);

const ATTRIBUTES: readonly AttributeDefinition[] = [
  SCALE,
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
  fidelity: { 'multi-level': 'exact', softmax: 'approximates-softmax' },
  layout: 'BHND',
  inputs: INPUT_NAMES.map((name, n) => ({ name, optional: n >= INPUT_NAMES.indexOf('key_mask') })),
  outputs: OUTPUT_NAMES.map((name, n) => ({ name, optional: n > 0 })),
  attributes: ATTRIBUTES,
  presets: { default: {} },
  defaultMinLength: 0,
  oldestOpset: OLDEST_OPSET,
  accepts,
  resolve: (site, settings) =>
    isAttention(site)
      ? resolveSoftmax(site, settings)
      : fusionAttributes(multiLevelAttention, site, settings),
  rotationFor: scoreRotation,
  functionBody: (attributes, connected, model) =>
    multiLevelFunctionBody(parametersOf(attributes), connected, model),
};

function accepts(site: Site): Acceptance {
  return acceptedUnless(
    multiLevelAttention.id,
    isAttention(site) ? refusalOfSoftmax(site) : refusalOfLevels(site),
  );
}

function refusalOfLevels({ parameters }: FusionSite): string | null {
  const levels = (parameters.ranks as readonly number[]).length;
  return levels > MOST_LEVELS ? `its scores have ${levels} levels, more than ${MOST_LEVELS}` : null;
}

function refusalOfSoftmax(site: AttentionSite): string | null {
  const { headDim, queryHeads, kvHeads, kind, query, key } = site;
  if (kind === 'cross') return 'queries and keys of different sequences have no distance';
  if (kind === 'cached') return 'all keys of its cache would be rotated in every step';
  if (headDim === null || headDim < 2 || queryHeads === null || kvHeads === null) {
    return 'the graph does not tell heads and head size, or heads have a single dimension';
  }
  const rotatable = [query, key].every(({ dataType }) => ROTATABLE.has(dataType));
  if (!rotatable) return 'its query and key are neither float32 nor float16';
  if (site.nodes.some(({ graph }) => graph.owner !== null || graph.isFunction)) {
    return 'it is inside a subgraph or function, where it cannot be calibrated';
  }
  if (query.projection !== null || key.projection !== null) {
    return 'its query and key are made inside an operator, where they cannot be calibrated';
  }
  return softmaxRefusal('it', site);
}

/**
 * Level 1 has the dimensions that far scores keep. Near scores are the model's own, so nothing may scale or divide
 * them by level.
 */
function resolveSoftmax(site: AttentionSite, settings: Settings): Attributes {
  checkSettings(multiLevelAttention, settings);
  const headDim = site.headDim!;
  const ranks = (settings.ranks ?? softmaxParameters(headDim).ranks) as readonly number[];
  const attributes = {
    ...attributesOf({
      ...softmaxParameters(headDim),
      ...siteParameters(site),
      ranks,
      levelScale: ranks.map(() => 1),
    }),
    ...settings,
  };
  const problem = conflict(parametersOf(attributes), site);
  if (problem) throw new InputError(`${multiLevelAttention.id} on ${site.id}: ${problem.what}`, problem);
  return attributes;
}

/** Values that each are right and do not fit the site, or make more of it than an approximation. */
function conflict(
  { ranks, causal, levelScale, divide }: MultiLevelParameters,
  site: AttentionSite,
): { readonly what: string; readonly remedy: string } | null {
  const sum = ranks.reduce((total, rank) => total + rank, 0);
  if (sum !== site.headDim || ranks.length > MOST_LEVELS) {
    return {
      what: `ranks ${ranks.join(',')} add up to ${sum}, and its heads have ${site.headDim} dimensions`,
      remedy: `Give up to ${MOST_LEVELS} numbers that add up to ${site.headDim}.`,
    };
  }
  if (causal !== site.causal) {
    return {
      what: `the site is ${site.causal ? 'causal' : 'not causal'}`,
      remedy: 'Leave "causal" out: it follows from the site.',
    };
  }
  if (divide !== 'none' || levelScale.length !== ranks.length || levelScale.some(factor => factor !== 1)) {
    return {
      what: 'the scores of near tokens would not be those of softmax attention',
      remedy: 'Leave "level_scale" and "divide" out.',
    };
  }
  return null;
}
