import type { AttentionSite } from '../../rewriter/site.js';
import type { Attributes } from '../operator.js';
import type { Operations, TuningSettings, TuningSpace } from '../tuning-space.js';
import { operationCount } from './operation-count.js';
import { multiLevelAttention } from './operator.js';
import { parametersOf } from './parameters.js';

/** Parts of a head that the leading levels have, the global one first, and tokens in a block of the last level. */
const SHAPES = [
  { parts: [1 / 2], block: 1024 },
  { parts: [1 / 4], block: 1024 },
  { parts: [1 / 4], block: 2048 },
  { parts: [1 / 8], block: 2048 },
  { parts: [1 / 4, 1 / 4], block: 512 },
  { parts: [1 / 8, 1 / 8, 1 / 4], block: 256 },
] as const;

const BLOCKS = [128, 256, 512, 1024, 2048, 4096];
/** Of these parts of a head, the rank of the global level is a multiple. */
const STEP = 1 / 16;

/** In place of softmax attention: how many dimensions far scores keep, and how far away that is. */
export const multiLevelTuningSpace: TuningSpace = {
  operator: multiLevelAttention,
  exact: null,
  perHead: null,
  candidates,
  neighbors,
  operations,
};

function candidates({ headDim }: AttentionSite): readonly TuningSettings[] {
  const settings = SHAPES.map(({ parts, block }) => ({ ranks: ranksOf(parts, headDim!), block }));
  return settings.filter(({ ranks }) => ranks !== null) as readonly TuningSettings[];
}

/** Ranks of these parts and one of what is left; null where a level would be empty. */
function ranksOf(parts: readonly number[], headDim: number): readonly number[] | null {
  const leading = parts.map(part => Math.round(part * headDim));
  const ranks = [...leading, headDim - leading.reduce((sum, rank) => sum + rank, 0)];
  return ranks.every(rank => rank > 0) ? ranks : null;
}

function neighbors(site: AttentionSite, settings: TuningSettings): readonly TuningSettings[] {
  const { ranks, block } = parametersOf(multiLevelAttention.resolve(site, settings));
  const at = BLOCKS.indexOf(block);
  const step = Math.max(1, Math.round(STEP * site.headDim!));
  const [global = 0, ...others] = ranks;
  const last = others.at(-1) ?? 0;
  const between = others.slice(0, -1);
  const moved = [-step, step].map(change => ({ block, ranks: [global + change, ...between, last - change] }));
  const steps = [
    ...[BLOCKS[at - 1], BLOCKS[at + 1]].flatMap(other =>
      other === undefined ? [] : [{ ranks, block: other }],
    ),
    ...moved,
  ];
  return steps.filter(step => step.ranks.every(rank => rank > 0));
}

/** As many as standard attention takes, in proportion to all pairs of tokens, and the rotations. */
function operations(attributes: Attributes, heads: number, length: number): Operations {
  const parameters = parametersOf(attributes);
  const headDim = parameters.ranks.reduce((sum, rank) => sum + rank, 0);
  const { scores, values, standard } = operationCount(parameters, length, headDim);
  const exact = heads * (parameters.causal ? length * (length + 1) : 2 * length * length);
  const rotations = heads * 2 * length * headDim;
  return { exact, chosen: (exact * (scores + values)) / standard + rotations };
}
