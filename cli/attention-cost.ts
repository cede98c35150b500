import { TUNING_SPACES } from '../custom-ops/tuning-spaces.js';
import type { Decision } from '../rewriter/plan.js';
import type { AttentionCost } from '../rewriter/report.js';
import { isAttention } from '../rewriter/site.js';

const LENGTHS = [512, 1024, 2048, 4096, 8192] as const;

/** Multiply-adds of one site and batch row. */
interface SiteCost {
  readonly original: number;
  readonly rewritten: number;
}

/**
 * Multiply-adds of attention before and, at most, after a rewrite, at several lengths, over the sites that can be counted:
 * replaced self-attention of known sizes, by an operator that tells its count.
 * @returns one entry a length; none where no site can be counted
 */
export function attentionCosts(decisions: readonly Decision[]): AttentionCost[] {
  return LENGTHS.flatMap(length => {
    const known = new Map<string, SiteCost | null>();
    const costs = decisions.flatMap(decision => {
      const cost = siteCost(decision, length, known);
      return cost === null ? [] : [cost];
    });
    if (costs.length === 0) return [];
    const sum = (of: (cost: SiteCost) => number) => costs.reduce((total, cost) => total + of(cost), 0);
    return [
      {
        length,
        sites: costs.length,
        original: sum(({ original }) => original),
        rewritten: sum(({ rewritten }) => rewritten),
      },
    ];
  });
}

/** @param known costs at this length by what they depend on: sites of one model are mostly alike */
function siteCost(
  { site, replacement }: Decision,
  length: number,
  known: Map<string, SiteCost | null>,
): SiteCost | null {
  const { queryHeads, headDim, kind } = site;
  const space = TUNING_SPACES.find(({ operator }) => operator === replacement?.operator);
  if (replacement === null || space === undefined || !isAttention(site)) return null;
  if (queryHeads === null || headDim === null || kind !== 'self') return null;
  const key = JSON.stringify([replacement.operator.id, replacement.attributes, queryHeads, headDim]);
  const found = known.get(key);
  if (found !== undefined) return found;
  const { exact, chosen } = space.operations(replacement.attributes, queryHeads, length);
  const cost = chosen === null ? null : { original: headDim * exact, rewritten: headDim * chosen };
  known.set(key, cost);
  return cost;
}
