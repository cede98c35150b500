import {
  caseInputs,
  MULTIPOLE_CASES,
  type MultipoleCase,
} from '../../custom-ops/multipole-attention/cases.js';
import { attributesOf } from '../../custom-ops/multipole-attention/parameters.js';
import {
  type MultipoleChoices,
  type MultipoleInputs,
  multipoleAttention,
} from '../../custom-ops/multipole-attention/reference.js';
import { type CaseRecord, caseTensor } from '../custom-ops/case-file.js';
import { CaseSuite } from './case-suite.js';
import {
  encoded,
  encodedOperands,
  type GpuType,
  rounded,
  roundedOperands,
  TOLERANCE,
} from './element-types.js';
import { withSpoiledRows } from './spoiled-rows.js';

/** Largest error of an element relative to the root mean square of the reference, in units of the tolerance. */
const ELEMENT = 10;

/** Largest part of retrieved clusters that errors of single rows in 8 bits may add or leave out. */
const DIFFERENT = 0.05;

interface GpuMultipoleCase extends MultipoleCase {
  /** Hidden keys, and keys from the middle on where attention is causal, and their values are not finite. */
  readonly spoiled?: boolean;
}

const COVERED = MULTIPOLE_CASES.filter(
  ({ parameters }) => parameters.order === 0 && parameters.hierarchy === 'flat',
);

/** One case of each way through the kernels. */
const SPOILED = new Set([
  'acausal random mask',
  'acausal random mask, contiguous',
  'acausal retrieve exact',
  'acausal cluster, masked',
  'acausal global with retrieval',
  'causal ragged',
  'causal no retrieval',
  'causal random mask',
  'causal retrieve per head, some exact',
  'causal chunk with past',
]);

const CASES: readonly GpuMultipoleCase[] = [
  ...COVERED,
  ...COVERED.filter(({ name }) => SPOILED.has(name)).map(shared => ({
    ...shared,
    name: `${shared.name}, not finite`,
    spoiled: true,
  })),
];

function inputsOf(shared: GpuMultipoleCase): MultipoleInputs {
  const clean = caseInputs(shared);
  if (!shared.spoiled) return clean;
  const { keyMask } = clean;
  const seen = shared.keys - Math.floor(shared.queries / 2);
  const hidden = (batch: number, key: number) => keyMask !== undefined && !keyMask[batch * shared.keys + key];
  const late = (_: number, key: number) => shared.parameters.causal && key >= seen;
  const value = withSpoiledRows(withSpoiledRows(clean.value, hidden, NaN), late);
  // Between the two, rows see finite keys whose values are not.
  const key = withSpoiledRows(
    clean.key,
    (batch, at) => hidden(batch, at) || (late(batch, at) && at >= seen + 20),
    NaN,
  );
  return { ...clean, key, value };
}

/** The shared cases that the CUDA kernels of MultipoleAttention cover, and some of them with numbers that are not finite. */
export const multipoleCases = new CaseSuite(
  CASES.map(({ name }) => name),
  new Set(['scale', 'retrieve_mass', 'retrieve_error']),
  (index, type) => {
    const shared = CASES[index]!;
    const inputs = (): MultipoleInputs => {
      const given = roundedOperands(inputsOf(shared), type);
      return { ...given, ...(given.pastQuery && { pastQuery: rounded(given.pastQuery, type) }) };
    };
    return {
      ...(shared.large && { large: true }),
      record: name => {
        const given = inputs();
        const { keyMask, pastQuery } = given;
        return {
          name,
          attributes: attributesOf(shared.parameters),
          tensors: [
            ...encodedOperands(given, type),
            ...(pastQuery ? [encoded('past_query', pastQuery, type)] : []),
            ...(keyMask ? [caseTensor('key_mask', [shared.batch, shared.keys], keyMask)] : []),
          ],
        };
      },
      problems: results => problems(shared, inputs(), type, results),
    };
  },
);

/** Names what is wrong with the runner's results of a case; empty when nothing is. */
function problems(
  shared: GpuMultipoleCase,
  inputs: MultipoleInputs,
  type: GpuType,
  results: CaseRecord,
): string[] {
  const found = new Map(results.tensors.map(tensor => [tensor.name, tensor.data]));
  const floats = (name: string) => {
    const data = found.get(name);
    return data && new Float32Array(new Uint8Array(data).buffer);
  };
  const ints = (name: string) => {
    const data = found.get(name);
    return data && new Int32Array(new Uint8Array(data).buffer);
  };
  const keyClusters = ints('key_clusters');
  const queryClusters = ints('query_clusters');
  const retrieved = ints('retrieved');
  const clusters: Partial<MultipoleChoices> = {
    ...(keyClusters && { keyClusters: [keyClusters] }),
    ...(queryClusters && { queryClusters, queryCentroids: blocksOf(floats('query_centroids'), shared) }),
  };
  const own = multipoleAttention(inputs, shared.parameters);
  const equal = multipoleAttention(inputs, shared.parameters, {
    ...clusters,
    ...(retrieved && { retrieved }),
  });
  const output = floats('output') ?? new Float32Array();
  const lse = floats('lse') ?? new Float32Array();
  const wrong: string[] = [];
  const norm = TOLERANCE[type];
  const element = ELEMENT * norm;
  const against = (what: string, out: Float32Array, ref: Float32Array) => {
    if (out.length !== ref.length) wrong.push(`${what}: ${out.length} elements instead of ${ref.length}`);
    const scale = Math.sqrt(sumOfSquares(ref.filter(Number.isFinite)) / Math.max(1, ref.length));
    let squares = 0;
    ref.forEach((value, at) => {
      const spoiled = !Number.isFinite(value) && value !== -Infinity && !Number.isFinite(out[at]);
      const difference = spoiled || out[at] === value ? 0 : Math.abs(out[at]! - value);
      squares += difference ** 2;
      if (!(difference <= element * Math.max(scale, 1e-3)) && wrong.length < 3) {
        wrong.push(`${what}[${at}] is ${out[at]}, not ${value}`);
      }
    });
    const error = Math.sqrt(squares / ref.length) / scale;
    if (ref.length > 0 && scale > 0 && !(error <= norm)) wrong.push(`${what}: relative error ${error}`);
  };
  against('output', output, equal.output.data);
  against('lse', lse, equal.lse.data);
  if (shared.spoiled) {
    const spoiled = equal.output.data.filter(value => !Number.isFinite(value)).length;
    const rows = shared.parameters.causal ? 'early rows alone' : 'all rows';
    if (spoiled > 0 !== shared.parameters.causal || spoiled === equal.output.data.length) {
      wrong.push(`the reference is finite in other rows than ${rows}`);
    }
    return wrong;
  }
  if (shared.data === 'clustered') {
    const choices = own.choices;
    if (keyClusters && !keyClusters.every((label, at) => label === choices.keyClusters[0]![at])) {
      wrong.push('other key clusters than the reference, though well separated');
    }
    if (queryClusters && !queryClusters.every((label, at) => label === choices.queryClusters[at])) {
      wrong.push('other query clusters than the reference, though well separated');
    }
  }
  if (retrieved && shared.parameters.retrieveError > 0) {
    const expected = multipoleAttention(inputs, shared.parameters, clusters).choices.retrieved;
    const rows = shared.batch * shared.queryHeads * shared.queries;
    const different = differentChoices(retrieved, expected, rows);
    if (!(different <= DIFFERENT)) wrong.push(`${100 * different}% of the retrieved clusters are others`);
  }
  const exact = multipoleAttention(inputs, { ...shared.parameters, retrieve: [-1] }).output.data;
  const kernelError = distance(output, exact);
  const referenceError = distance(own.output.data, exact);
  if (!(kernelError <= 1.05 * referenceError + norm * Math.sqrt(sumOfSquares(exact)))) {
    wrong.push(`error against exact attention ${kernelError}, the reference has ${referenceError}`);
  }
  return wrong;
}

/** Clusters that one of two lists by row has alone, as a part of those of the second. */
function differentChoices(found: Int32Array, expected: Int32Array, rows: number): number {
  const chosen = (lists: Int32Array, row: number) => {
    const width = lists.length / rows;
    return new Set(lists.subarray(row * width, (row + 1) * width).filter(cluster => cluster >= 0));
  };
  let different = 0;
  let all = 0;
  for (let row = 0; row < rows; row++) {
    const [ours, theirs] = [chosen(found, row), chosen(expected, row)];
    for (const cluster of ours) different += Number(!theirs.has(cluster));
    for (const cluster of theirs) different += Number(!ours.has(cluster));
    all += theirs.size;
  }
  return different / Math.max(1, all);
}

function blocksOf(centroids: Float32Array | undefined, shared: MultipoleCase): Float32Array[] {
  const size = shared.batch * shared.queryHeads * shared.parameters.queryClusters * shared.headDim;
  const blocks: Float32Array[] = [];
  for (let at = 0; centroids && at < centroids.length; at += size)
    blocks.push(centroids.subarray(at, at + size));
  return blocks;
}

function sumOfSquares(values: Float32Array): number {
  return values.reduce((sum, value) => sum + value * value, 0);
}

function distance(a: Float32Array, b: Float32Array): number {
  return Math.sqrt(a.reduce((sum, value, at) => sum + (value - b[at]!) ** 2, 0));
}

multipoleCases.runAsProgram(import.meta.url);
