import { InputError } from '../../rewriter/errors.js';
import type { AttentionSite, Site } from '../../rewriter/site.js';
import { CAUSAL, CAUSAL_OFFSET, checkSettings, SCALE } from '../attributes.js';
import { OLDEST_OPSET } from '../graph-builder.js';
import type {
  Acceptance,
  AttributeDefinition,
  Attributes,
  AttributeValue,
  OperatorDefinition,
} from '../operator.js';
import { siteParameters, softmaxRefusal } from '../softmax-site.js';
import { INPUT_NAMES, multipoleFunctionBody, OP_TYPE } from './function-body.js';
import {
  attributesOf,
  defaultParameters,
  type MultipoleParameters,
  PAPER_PARAMETERS,
  parametersOf,
  withDefaults,
} from './parameters.js';

const ATTRIBUTES: readonly AttributeDefinition[] = [
  SCALE,
  CAUSAL,
  CAUSAL_OFFSET,
  {
    name: 'exact_below',
    type: 'int',
    least: 0,
    description: 'exact attention when there are fewer keys than this',
  },
  {
    name: 'exact_below_rows',
    type: 'int',
    least: 0,
    description: 'exact attention when there are fewer queries than this, as in steps of decoding',
  },
  {
    name: 'segment',
    type: 'int',
    least: 0,
    description: 'keys per segment; 0: one segment over all keys, as in the paper',
  },
  {
    name: 'window',
    type: 'int',
    least: 0,
    description: "segments attended exactly on each side of a query's own (causal: before it)",
  },
  { name: 'key_clusters', type: 'int', least: 1, description: 'key clusters per segment' },
  {
    name: 'key_grouping',
    type: 'string',
    oneOf: ['kmeans', 'contiguous'],
    description: 'how a segment is cut into clusters: by k-means, or into runs of neighbors',
  },
  { name: 'query_clusters', type: 'int', least: 1, description: 'query clusters per head' },
  { name: 'iterations', type: 'int', least: 1, description: 'iterations of k-means' },
  {
    name: 'order',
    type: 'int',
    least: 0,
    most: 2,
    description: 'order of the multipole expansion: 0 monopole, 1 dipole, 2 second order',
  },
  {
    name: 'contracted',
    type: 'int',
    least: 0,
    most: 1,
    description: '1: the dipole as one matrix per query cluster (segment 0, retrieve 0)',
  },
  {
    name: 'retrieve',
    type: 'ints',
    least: -1,
    description:
      'most clusters attended exactly per pool (dyadic: as many keys as they have), one number or one per query head; -1: exact attention',
  },
  {
    name: 'retrieve_mass',
    type: 'float',
    least: 0,
    description:
      'above 0: clusters attended exactly until less than this mass is left, instead of `retrieve` and `retrieve_error`',
  },
  {
    name: 'retrieve_error',
    type: 'float',
    least: 0,
    description:
      'above 0: clusters are chosen by the share of attention that their summaries are expected to miss, and only where it reaches this; 0: the `retrieve` clusters of largest mass',
  },
  {
    name: 'selection',
    type: 'string',
    oneOf: ['tile', 'sliding', 'cluster'],
    description:
      'which queries choose together; with causal, tile and cluster let a choice see later tokens of its pool',
  },
  { name: 'group', type: 'int', least: 1, description: 'queries per pool' },
  {
    name: 'hierarchy',
    type: 'string',
    oneOf: ['flat', 'dyadic'],
    description: 'dyadic: segments double in length with distance',
  },
];

/**
 * Shortest sequence at which the function body beats exported attention in stock ONNX Runtime (README, "From
 * which length on").
 */
const MIN_LENGTH = 3072;

/**
 * Fewest rows that pay for summaries of all keys where keys of earlier steps are there already (README, "Caches").
 */
const FEWEST_ROWS = 512;

/** Coarser summaries, and twice the expected error that they may have (README, "Which settings"). */
const FAST: Attributes = { query_clusters: 16, retrieve_error: 0.001 };

/** Multipole semantic attention (operator specification, section 1). */
export const multipoleAttention: OperatorDefinition = {
  id: 'multipole-attention',
  opType: OP_TYPE,
  summary: 'near keys exactly, far keys by summaries of clusters, the heaviest clusters exactly again',
  fidelity: { softmax: 'approximates-softmax' },
  layout: 'BHND',
  inputs: INPUT_NAMES.map(name => ({ name, optional: name === 'key_mask' || name === 'past_query' })),
  outputs: [
    { name: 'output', optional: false },
    { name: 'lse', optional: true },
  ],
  attributes: ATTRIBUTES,
  presets: { default: {}, fast: FAST, paper: paperPreset() },
  defaultMinLength: MIN_LENGTH,
  oldestOpset: OLDEST_OPSET,
  accepts,
  resolve,
  functionBody: (attributes, connected, model) =>
    multipoleFunctionBody(parametersOf(attributes), connected, model),
};

/** What the paper's form sets, apart from what depends on the site. */
function paperPreset(): Attributes {
  const { segment, window, key_clusters, key_grouping, query_clusters, iterations, retrieve } =
    attributesOf(PAPER_PARAMETERS);
  return { segment, window, key_clusters, key_grouping, query_clusters, iterations, retrieve } as Attributes;
}

function accepts(site: Site): Acceptance {
  if (site.computation !== 'softmax')
    return { ok: false, reason: 'multipole-attention approximates softmax' };
  const reason = softmaxRefusal('multipole-attention', site);
  return reason === null ? { ok: true } : { ok: false, reason };
}

function resolve(site: Site, settings: Readonly<Record<string, AttributeValue>>): Attributes {
  if (site.computation !== 'softmax') throw new RangeError(`site ${site.id} is not softmax attention`);
  checkSettings(multipoleAttention, settings);
  const retrieve = settings.retrieve;
  const attributes = withDefaults(
    { ...settings, ...(typeof retrieve === 'number' ? { retrieve: [retrieve] } : {}) },
    {
      ...defaultParameters(site.causal),
      ...siteParameters(site),
      exactBelowRows: site.kind === 'cached' ? FEWEST_ROWS : 0,
    },
  );
  const parameters = parametersOf(attributes);
  const problem = conflict(parameters, site);
  if (problem) throw new InputError(`multipole-attention on ${site.id}: ${problem.what}`, problem);
  // A node that chooses no clusters says so: it needs no kernel that could.
  return parameters.retrieve.some(count => count > 0) ? attributes : { ...attributes, retrieve_error: 0 };
}

/** Values that each are right and together are not. */
function conflict(
  parameters: MultipoleParameters,
  site: AttentionSite,
): { readonly what: string; readonly remedy: string } | null {
  const { causal, segment, retrieve, retrieveMass, retrieveError, order, contracted } = parameters;
  if (causal !== site.causal) {
    return {
      what: `the site is ${site.causal ? 'causal' : 'not causal'}`,
      remedy: 'Leave "causal" out: it follows from the site.',
    };
  }
  if (causal && segment === 0) {
    return { what: 'causal attention needs segments', remedy: 'Set segment above 0, for instance 256.' };
  }
  if (retrieve.length !== 1 && retrieve.length !== site.queryHeads) {
    return {
      what: `retrieve has ${retrieve.length} numbers for ${site.queryHeads} query heads`,
      remedy: 'Give one number, or one per query head.',
    };
  }
  if (retrieveMass > 0 && retrieveError > 0) {
    return {
      what: 'retrieve_mass and retrieve_error are two ways to choose clusters',
      remedy: 'Set one of them to 0.',
    };
  }
  if (contracted) {
    const plain = order === 1 && segment === 0 && retrieveMass === 0 && retrieve.every(count => count <= 0);
    if (plain) return null;
    return {
      what: 'the contracted dipole belongs to order 1 with one segment and without retrieval',
      remedy: 'Set order 1, segment 0, retrieve 0 and retrieve_mass 0, or contracted 0.',
    };
  }
  if (order !== 0) {
    return {
      what: `order ${order} has no function body, without which the model would not open elsewhere: it costs more than exact attention`,
      remedy: 'Set order 0, or order 1 with contracted 1, segment 0 and retrieve 0.',
    };
  }
  return null;
}
