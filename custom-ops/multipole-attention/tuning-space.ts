import type { AttentionSite } from '../../rewriter/site.js';
import type { Attributes } from '../operator.js';
import { type Operations, perHeadNumbers, type TuningSettings, type TuningSpace } from '../tuning-space.js';
import { operationCount } from './operation-count.js';
import { multipoleAttention } from './operator.js';
import { parametersOf } from './parameters.js';

/** Segments, with as many key clusters as make 32 keys a cluster: a fixed share of the keys is summarized away. */
const SEGMENTS = [
  { segment: 128, key_clusters: 4 },
  { segment: 256, key_clusters: 8 },
  { segment: 512, key_clusters: 16 },
] as const;

/** Query clusters: summaries are made for each, so they are what the far field costs before anything is retrieved. */
const QUERY_CLUSTERS = [4, 16] as const;
const RETRIEVED = [0, 8, 32] as const;

/** Multipole attention from almost only near keys to more than its defaults, strictly causal on causal sites. */
export const multipoleTuningSpace: TuningSpace = {
  operator: multipoleAttention,
  exact: { retrieve: -1 },
  perHead: 'retrieve',
  candidates,
  operations,
};

function candidates(site: AttentionSite): readonly TuningSettings[] {
  const near = site.causal ? {} : { window: 0 };
  return [
    ...SEGMENTS.flatMap(segments =>
      QUERY_CLUSTERS.flatMap(query_clusters =>
        RETRIEVED.map(retrieve => ({ ...segments, query_clusters, retrieve })),
      ),
    ),
    { segment: 128, key_clusters: 4, query_clusters: 4, retrieve: 0, iterations: 1, ...near },
    { segment: 64, key_clusters: 2, query_clusters: 4, retrieve: 0, iterations: 1, ...near },
    { segment: 256, key_clusters: 8, query_clusters: 16, retrieve: 16 },
    { segment: 256, key_clusters: 16, query_clusters: 16, retrieve: 32 },
    {},
    ...(site.causal ? [] : [{ ...multipoleAttention.presets.paper }]),
  ];
}

function operations(attributes: Attributes, heads: number, length: number): Operations {
  const parameters = parametersOf(attributes);
  const byNumber = new Map<number, ReturnType<typeof operationCount>>();
  let exact = 0;
  let chosen: number | null = 0;
  for (const retrieve of perHeadNumbers(parameters.retrieve, heads)) {
    const count = byNumber.get(retrieve) ?? operationCount(parameters, retrieve, length);
    byNumber.set(retrieve, count);
    exact += count.exact;
    chosen = chosen === null || count.multipole === null ? null : chosen + count.multipole;
  }
  return { exact, chosen };
}
