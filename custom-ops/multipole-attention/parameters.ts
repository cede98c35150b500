import type { Attributes } from '../operator.js';

export type KeyGrouping = 'kmeans' | 'contiguous';
export type Selection = 'tile' | 'sliding' | 'cluster';
export type Hierarchy = 'flat' | 'dyadic';

/** The attributes of one MultipoleAttention node (README, "Attributes"), typed. */
export interface MultipoleParameters {
  /** Factor on query . key; null = 1 / sqrt(D). */
  readonly scale: number | null;
  readonly causal: boolean;
  /** Position of row 0 under `causal`; null = S - N. */
  readonly causalOffset: number | null;
  /** Exact attention when S is below this. */
  readonly exactBelow: number;
  /** Exact attention when N is below this: few rows do not pay for summaries of all keys. */
  readonly exactBelowRows: number;
  /** Keys per segment; 0 = one segment over all keys. */
  readonly segment: number;
  readonly window: number;
  readonly keyClusters: number;
  readonly keyGrouping: KeyGrouping;
  readonly queryClusters: number;
  readonly iterations: number;
  readonly order: 0 | 1 | 2;
  /** Order 1 contracted to one D x E matrix per query cluster (segment 0 and retrieve 0 only). */
  readonly contracted: boolean;
  /** Clusters taken exactly per pool, or the most with `retrieveError`; one number, or one per query head; -1 = exact attention. */
  readonly retrieve: readonly number[];
  /** Above 0: take clusters until the estimated mass left is below this, whatever `retrieve` says. */
  readonly retrieveMass: number;
  /** Above 0: choose by expected error instead of mass, and only clusters whose expected error reaches it. */
  readonly retrieveError: number;
  readonly selection: Selection;
  readonly group: number;
  readonly hierarchy: Hierarchy;
}

/** The operator's own defaults; `causal` changes the pools, so that no choice knows later rows. */
export function defaultParameters(causal: boolean): MultipoleParameters {
  return {
    scale: null,
    causal,
    causalOffset: null,
    exactBelow: 0,
    exactBelowRows: 0,
    segment: 128,
    window: 1,
    keyClusters: 4,
    keyGrouping: 'contiguous',
    queryClusters: 32,
    iterations: 3,
    order: 0,
    contracted: false,
    retrieve: [64],
    retrieveMass: 0,
    retrieveError: 0.0005,
    selection: causal ? 'sliding' : 'tile',
    group: causal ? 16 : 64,
    hierarchy: 'flat',
  };
}

/** The paper's global form: one segment, 64 clusters, three iterations, nothing exact. */
export const PAPER_PARAMETERS: MultipoleParameters = {
  ...defaultParameters(false),
  segment: 0,
  window: 0,
  keyClusters: 64,
  keyGrouping: 'kmeans',
  queryClusters: 64,
  retrieve: [0],
  retrieveError: 0,
};

/**
 * Attributes as they stand on a node. `scale` and `causal_offset` are left out when they follow from the
 * shapes at run time.
 */
export function attributesOf(parameters: MultipoleParameters): Attributes {
  return {
    ...(parameters.scale === null ? {} : { scale: parameters.scale }),
    causal: Number(parameters.causal),
    ...(parameters.causalOffset === null ? {} : { causal_offset: parameters.causalOffset }),
    exact_below: parameters.exactBelow,
    exact_below_rows: parameters.exactBelowRows,
    segment: parameters.segment,
    window: parameters.window,
    key_clusters: parameters.keyClusters,
    key_grouping: parameters.keyGrouping,
    query_clusters: parameters.queryClusters,
    iterations: parameters.iterations,
    order: parameters.order,
    contracted: Number(parameters.contracted),
    retrieve: parameters.retrieve,
    retrieve_mass: parameters.retrieveMass,
    retrieve_error: parameters.retrieveError,
    selection: parameters.selection,
    group: parameters.group,
    hierarchy: parameters.hierarchy,
  };
}

/** Attributes with `defaults` where they are absent; whoever asks for `retrieve_mass` does not mean `retrieve_error`. */
export function withDefaults(given: Attributes, defaults: MultipoleParameters): Attributes {
  const byMass = Number(given.retrieve_mass ?? 0) > 0;
  return { ...attributesOf(defaults), ...(byMass ? { retrieve_error: 0 } : {}), ...given };
}

/** Inverse of {@link attributesOf}, for attributes that `operator.ts` has validated; absent ones have their defaults. */
export function parametersOf(given: Attributes): MultipoleParameters {
  const attributes = withDefaults(given, defaultParameters(Number(given.causal ?? 0) !== 0));
  const number = (name: string) => Number(attributes[name]);
  const optional = (name: string) => (given[name] === undefined ? null : number(name));
  return {
    scale: optional('scale'),
    causal: number('causal') !== 0,
    causalOffset: optional('causal_offset'),
    exactBelow: number('exact_below'),
    exactBelowRows: number('exact_below_rows'),
    segment: number('segment'),
    window: number('window'),
    keyClusters: number('key_clusters'),
    keyGrouping: attributes.key_grouping as KeyGrouping,
    queryClusters: number('query_clusters'),
    iterations: number('iterations'),
    order: number('order') as 0 | 1 | 2,
    contracted: number('contracted') !== 0,
    retrieve: attributes.retrieve as readonly number[],
    retrieveMass: number('retrieve_mass'),
    retrieveError: number('retrieve_error'),
    selection: attributes.selection as Selection,
    group: number('group'),
    hierarchy: attributes.hierarchy as Hierarchy,
  };
}
