import type { MultipoleParameters } from '../../../custom-ops/multipole-attention/parameters.js';
import type { MultipoleChoices, MultipoleInputs } from '../../../custom-ops/multipole-attention/reference.js';
import type { Tensor } from '../../../custom-ops/operator.js';
import type { BodySessions } from './body-sessions.js';

/**
 * Runs a test build of the function body and brings its discrete choices into the form of the reference.
 * Inputs have no past queries, and causal rows start at position 0.
 */
export async function bodyChoices(
  sessions: BodySessions,
  parameters: MultipoleParameters,
  inputs: MultipoleInputs,
): Promise<{ result: { output: Tensor; lse: Tensor }; choices: MultipoleChoices }> {
  const raw = await sessions.runRaw(parameters, inputs, { traced: true });
  const { keyClusters, queryClusters, causal } = parameters;
  const float = (name: string): Tensor => ({ dims: raw[name]!.dims, data: raw[name]!.data as Float32Array });
  const ints = (name: string) => Int32Array.from(raw[name]!.data as BigInt64Array, Number);
  const [batch = 0, heads = 0, rows = 0] = inputs.query.dims;

  /** The first `length` of each of `parts` equal parts; `none` becomes -1. */
  const firstOf = (data: Int32Array, parts: number, length: number, none: number) => {
    const size = data.length / parts;
    return Int32Array.from({ length: parts * length }, (_, at) => {
      const value = data[Math.floor(at / length) * size + (at % length)]!;
      return value === none ? -1 : value;
    });
  };
  const centroids = float('query_centroids');
  const blockSize = centroids.data.length / centroids.dims[0]!;
  const blocks = Array.from({ length: centroids.dims[0]! }, (_, n) =>
    centroids.data.subarray(n * blockSize, (n + 1) * blockSize),
  );
  return {
    result: { output: float('output'), lse: float('lse') },
    choices: {
      keyClusters: levelsOf(ints('key_clusters'), raw.key_clusters!.dims[0]!, keyClusters),
      // The first causal block of the body is segment 0, which has no far field.
      queryCentroids: causal ? blocks.slice(1) : blocks,
      queryClusters: firstOf(ints('row_clusters'), batch * heads, rows, queryClusters),
      retrieved: retrievedLists(float('selected'), rows),
    },
  };
}

/** [levels,...] cut by level; `none` becomes -1. */
function levelsOf(data: Int32Array, levels: number, none: number): Int32Array[] {
  const size = data.length / levels;
  return Array.from({ length: levels }, (_, level) =>
    data.subarray(level * size, (level + 1) * size).map(cluster => (cluster === none ? -1 : cluster)),
  );
}

/** [B*H,grid rows,J] of 0 and 1 to lists for the first `rows` rows, filled up with -1. */
function retrievedLists({ dims, data }: Tensor, rows: number): Int32Array {
  const [parts = 0, gridRows = 0, clusters = 0] = dims;
  const lists: number[][] = [];
  for (let part = 0; part < parts; part++) {
    for (let row = 0; row < rows; row++) {
      const start = (part * gridRows + row) * clusters;
      const selected = data.subarray(start, start + clusters);
      lists.push(Array.from(selected.keys()).filter(j => selected[j] === 1));
    }
  }
  const width = Math.max(0, ...lists.map(list => list.length));
  const flat = new Int32Array(lists.length * width).fill(-1);
  lists.forEach((list, n) => {
    flat.set(list, n * width);
  });
  return flat;
}
