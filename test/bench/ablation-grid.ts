import { settingsOf } from '../../cli/settings.js';
import { multipoleAttention } from '../../custom-ops/multipole-attention/operator.js';
import {
  defaultParameters,
  type MultipoleParameters,
  parametersOf,
} from '../../custom-ops/multipole-attention/parameters.js';
import type { AttentionSite } from '../../rewriter/site.js';

/** One way of computing the attention of a model. */
export interface Variant {
  readonly name: string;
  /** By site. */
  readonly parameters: readonly MultipoleParameters[];
}

type Changes = Partial<MultipoleParameters>;

export const exactParameters = (causal: boolean): MultipoleParameters => ({
  ...defaultParameters(causal),
  retrieve: [-1],
});

/**
 * Parameters by name: a preset and changes to it, in the form of the command line.
 * @param text for instance `paper retrieve=8`; the preset may be left out
 */
export function namedParameters(site: AttentionSite, text: string): MultipoleParameters {
  const words = text.split(/\s+/).filter(Boolean);
  const preset = words[0]?.includes('=') === false ? words.shift()! : 'default';
  const settings = settingsOf(multipoleAttention, preset, words);
  return parametersOf(multipoleAttention.resolve(site, settings));
}

/** Keys of an average cluster under the defaults: what changes of segment or clusters keep where they can. */
const RUN = 32;

/** The settings whose effect the operator's README states: the defaults, and changes to them one at a time. */
export function ablationGrid(causal: boolean, siteCount: number): Variant[] {
  const base = defaultParameters(causal);
  const uniform = (name: string, changes: Changes): Variant => ({
    name,
    parameters: Array.from({ length: siteCount }, () => ({ ...base, ...changes })),
  });
  const each = <T>(values: readonly T[], variant: (value: T) => Variant) => values.map(variant);
  const onlySite = (site: number, changes: Changes, name: string): Variant => ({
    name: `site ${site} ${name}`,
    parameters: Array.from({ length: siteCount }, (_, n) =>
      n === site ? { ...base, ...changes } : exactParameters(causal),
    ),
  });
  const sites = Array.from({ length: siteCount }, (_, n) => n);
  const otherPools: Changes[] = causal
    ? [1, 4, 8, 32, 64].map(group => ({ group }))
    : [
        ...[16, 32, 128].map(group => ({ group })),
        { selection: 'sliding', group: 16 },
        { selection: 'cluster', group: 64 },
      ];
  return [
    { name: 'exact', parameters: sites.map(() => exactParameters(causal)) },
    uniform('default', {}),
    ...each([0, 16, 32, 128], count => uniform(`retrieve ${count}`, { retrieve: [count] })),
    ...each([0.004, 0.002, 0.001, 0.00025], retrieveError =>
      uniform(`retrieve_error ${retrieveError}`, { retrieveError }),
    ),
    ...each([8, 16, 32, 64], count => uniform(`${count} by mass`, { retrieve: [count], retrieveError: 0 })),
    ...each([0.1, 0.03], mass => uniform(`retrieve_mass ${mass}`, { retrieveMass: mass, retrieveError: 0 })),
    ...each([2, 8, 16], keyClusters =>
      uniform(`key_clusters ${keyClusters}, as many keys retrieved`, {
        keyClusters,
        retrieve: [(base.retrieve[0]! * keyClusters) / base.keyClusters],
      }),
    ),
    uniform('key_grouping kmeans', { keyGrouping: 'kmeans' }),
    ...each([1, 8, 16, 64, 128], queryClusters =>
      uniform(`query_clusters ${queryClusters}`, { queryClusters }),
    ),
    ...each([1, 2, 5], iterations => uniform(`iterations ${iterations}`, { iterations })),
    ...each([64, 256, 512], segment =>
      uniform(`segment ${segment}, clusters of ${RUN}`, { segment, keyClusters: segment / RUN }),
    ),
    ...each([0, 2], window => uniform(`window ${window}`, { window })),
    ...each(otherPools, pools =>
      uniform(`selection ${pools.selection ?? base.selection} ${pools.group}`, pools),
    ),
    ...each([0, 1, 2] as const, order => uniform(`order ${order}, retrieve 0`, { order, retrieve: [0] })),
    ...each([0, base.retrieve[0]!], count =>
      uniform(`dyadic, retrieve ${count}`, { hierarchy: 'dyadic', retrieve: [count] }),
    ),
    ...each([8, 16], keyClusters =>
      uniform(`dyadic, key_clusters ${keyClusters}, as many keys retrieved`, {
        hierarchy: 'dyadic',
        keyClusters,
        retrieve: [(base.retrieve[0]! * keyClusters) / base.keyClusters],
      }),
    ),
    ...each(sites, site => onlySite(site, {}, 'default')),
    ...each(sites, site => onlySite(site, { retrieve: [0] }, 'retrieve 0')),
  ];
}
