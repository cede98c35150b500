import type { AttentionSite } from '../../rewriter/site.js';
import type { Attributes } from '../operator.js';
import { type Operations, perHeadNumbers, type TuningSettings, type TuningSpace } from '../tuning-space.js';
import { type OperationCount, operationCount } from './operation-count.js';
import { multipoleAttention } from './operator.js';
import { parametersOf } from './parameters.js';

/** Segments to begin with, with 32 keys a cluster: short ones need neighbors, so that every row has some. */
const SEGMENTS = [
  { segment: 128, window: 1, key_clusters: 4 },
  { segment: 256, window: 0, key_clusters: 8 },
  { segment: 512, window: 0, key_clusters: 16 },
] as const;

/** What is worth trying for each attribute, in the order of its steps. */
const LADDERS = {
  segment: [64, 128, 256, 512],
  window: [0, 1, 2],
  key_clusters: [1, 2, 4, 8, 16, 32],
  query_clusters: [1, 4, 8, 16, 32, 64],
  iterations: [1, 2, 3],
} as const;

const RETRIEVED = [0, 4, 8, 16, 32, 64] as const;
/**
 * Expected errors from which on clusters are retrieved, at most as many as the most of RETRIEVED. At equal loss that
 * takes a fraction of the keys of any fixed number (README, "Why expected error").
 */
const ERRORS = [0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016] as const;
const BY_ERROR = { retrieve: 64, retrieve_error: 0.002 } as const;
const GROUPINGS = ['contiguous', 'kmeans'] as const;
/** Neighboring queries that choose together. */
const GROUPS = { causal: [8, 16, 32], acausal: [32, 64, 128] } as const;

/** Multipole attention from almost only near keys to more than its defaults, strictly causal on causal sites. */
export const multipoleTuningSpace: TuningSpace = {
  operator: multipoleAttention,
  exact: { retrieve: -1 },
  perHead: { name: 'retrieve', levels: RETRIEVED },
  candidates,
  neighbors,
  operations,
};

function candidates(site: AttentionSite): readonly TuningSettings[] {
  const [short, middle, long] = SEGMENTS;
  return [
    ...SEGMENTS.flatMap(segments =>
      [{ retrieve: 0 }, { retrieve: 8 }, BY_ERROR].map(choice => ({
        ...segments,
        query_clusters: 16,
        ...choice,
      })),
    ),
    { ...short, query_clusters: 16, retrieve: 64, retrieve_error: 0.008 },
    { ...short, query_clusters: 4, retrieve: 0, iterations: 1 },
    { segment: 64, window: 1, key_clusters: 2, query_clusters: 4, retrieve: 0, iterations: 1 },
    { ...short, query_clusters: 16, retrieve: 8, key_grouping: 'kmeans' },
    { ...long, query_clusters: 16, retrieve: 0, key_grouping: 'kmeans' },
    { ...middle, query_clusters: 16, retrieve: 0, hierarchy: 'dyadic' },
    { ...multipoleAttention.presets.fast },
    {},
    ...(site.causal ? [] : [{ ...multipoleAttention.presets.paper }]),
  ];
}

function neighbors(site: AttentionSite, settings: TuningSettings): readonly TuningSettings[] {
  const now = multipoleAttention.resolve(site, settings);
  const ladders = Object.entries(LADDERS).map(
    ([name, ladder]) => [name, ladder as readonly number[]] as const,
  );
  const steps: TuningSettings[] = ladders.flatMap(([name, ladder]) =>
    stepsOn(ladder, now[name] as number).map(value => ({ [name]: value })),
  );
  for (const key_grouping of GROUPINGS) if (key_grouping !== now.key_grouping) steps.push({ key_grouping });
  if (perHeadNumbers(now.retrieve, 1).some(count => count > 0)) {
    const groups = GROUPS[site.causal ? 'causal' : 'acausal'];
    steps.push(...stepsOn(groups, now.group as number).map(group => ({ group })));
    const error = now.retrieve_error as number;
    steps.push(
      ...(error > 0 ? stepsOn(ERRORS, error).map(retrieve_error => ({ retrieve_error })) : [BY_ERROR]),
    );
  } else if (now.segment !== 0) {
    steps.push({ hierarchy: now.hierarchy === 'flat' ? 'dyadic' : 'flat' });
  }
  return steps.map(step => ({ ...settings, ...step }));
}

/** The values next to `value` on both sides. */
function stepsOn(ladder: readonly number[], value: number): number[] {
  const below = ladder.findLast(step => step < value);
  const above = ladder.find(step => step > value);
  return [below, above].filter(step => step !== undefined);
}

function operations(attributes: Attributes, heads: number, length: number): Operations {
  const parameters = parametersOf(attributes);
  const numbers = perHeadNumbers(parameters.retrieve, heads);
  const counts = new Map(
    [...new Set(numbers)].map(count => [count, operationCount(parameters, count, length)]),
  );
  const total = (of: (count: OperationCount) => number | null) =>
    numbers.reduce<number | null>((sum, count) => {
      const own = of(counts.get(count)!);
      return sum === null || own === null ? null : sum + own;
    }, 0);
  return {
    exact: total(count => count.exact)!,
    chosen: total(count => count.multipole),
    least: total(count => count.least),
  };
}
