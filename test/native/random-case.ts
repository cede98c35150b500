import {
  defaultParameters,
  type MultipoleParameters,
} from '../../custom-ops/multipole-attention/parameters.js';
import type { MultipoleInputs } from '../../custom-ops/multipole-attention/reference.js';
import type { Tensor } from '../../custom-ops/operator.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';

/** Ragged shapes and any attributes, by seed; lengths and clusters stay small. */
export function randomCase(seed: number): {
  readonly inputs: MultipoleInputs;
  readonly parameters: MultipoleParameters;
  readonly what: string;
} {
  const random = new SeededRandom(seed);
  const oneOf = <T>(values: readonly T[]): T => values[random.below(values.length)]!;
  const causal = random.uniform() < 0.5;
  const batch = oneOf([1, 1, 2]);
  const kvHeads = oneOf([1, 2]);
  const heads = kvHeads * oneOf([1, 1, 2, 3]);
  const headDim = oneOf([1, 3, 4, 8, 16, 17]);
  const valueDim = oneOf([1, 4, 8, 18]);
  const keys = random.below(oneOf([3, 40, 130, 220]));
  const past = oneOf([0, 0, random.below(keys + 1)]);
  const queries = oneOf([keys - past, keys - past, keys - past, random.below(80)]);
  const retrieved = () => oneOf([0, 1, 3, 8, 50]);
  const global = !causal && random.uniform() < 0.2;
  const retrieve = oneOf([
    [retrieved()],
    [retrieved()],
    Array.from({ length: heads }, () => oneOf([-1, retrieved()])),
  ]);
  const retrieveMass = oneOf([0, 0, 0, 0.05, 0.3]);
  const retrieveError = retrieveMass > 0 ? 0 : oneOf([0, 0, 1e-9, 0.001, 0.02]);
  const order = oneOf([0, 0, 0, 0, 1, 2] as const);
  const parameters: MultipoleParameters = {
    ...defaultParameters(causal),
    scale: oneOf([null, 0.1, 1.5]),
    causalOffset: causal ? oneOf([null, null, 0, 13]) : null,
    exactBelow: oneOf([0, 0, 0, 50]),
    exactBelowRows: oneOf([0, 0, 0, 20]),
    segment: global ? 0 : oneOf([1, 7, 16, 20, 32, 64]),
    window: oneOf([0, 0, 1, 2]),
    keyClusters: oneOf([1, 2, 3, 4, 8, 19]),
    keyGrouping: oneOf(['kmeans', 'contiguous']),
    queryClusters: oneOf([1, 2, 5, 16, 21]),
    iterations: oneOf([1, 2, 3]),
    order,
    retrieve,
    retrieveMass,
    retrieveError,
    selection: oneOf(['tile', 'sliding', 'cluster']),
    group: oneOf([1, 3, 8, 16, 64, 100]),
    hierarchy: oneOf(['flat', 'flat', 'dyadic']),
  };
  const tensor = (dims: readonly number[]): Tensor => ({
    dims,
    data: random.normals(dims.reduce((size, dim) => size * dim, 1)),
  });
  const inputs: MultipoleInputs = {
    query: tensor([batch, heads, queries, headDim]),
    key: tensor([batch, kvHeads, keys, headDim]),
    value: tensor([batch, kvHeads, keys, valueDim]),
    ...(random.uniform() < 0.4 && {
      keyMask: Uint8Array.from({ length: batch * keys }, () => Number(random.uniform() < 0.7)),
    }),
    ...(past > 0 && { pastQuery: tensor([batch, heads, past, headDim]) }),
  };
  const shapes = { batch, heads, kvHeads, queries, keys, past, headDim, valueDim };
  return { inputs, parameters, what: `seed ${seed}: ${JSON.stringify({ ...shapes, ...parameters })}` };
}
