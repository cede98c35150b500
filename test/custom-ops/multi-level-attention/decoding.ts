import type { MultiLevelParameters } from '../../../custom-ops/multi-level-attention/parameters.js';
import type {
  MultiLevelCache,
  MultiLevelInputs,
  MultiLevelResult,
} from '../../../custom-ops/multi-level-attention/reference.js';
import type { Tensor } from '../../../custom-ops/operator.js';
import { SeededRandom } from '../../../custom-ops/seeded-random.js';
import { sequenceRows } from '../multipole-attention/sequence-rows.js';

/** Self-attention inputs of one batch row, head size `size`. */
export function randomSequence(
  seed: number,
  length: number,
  size: number,
  heads = 2,
  kvHeads = heads,
): MultiLevelInputs {
  const random = new SeededRandom(seed);
  const tensor = (count: number): Tensor => ({
    dims: [1, count, length, size],
    data: random.normals(count * length * size),
  });
  return { query: tensor(heads), key: tensor(kvHeads), value: tensor(kvHeads) };
}

/** Runs a sequence in pieces of the given lengths, each on the cache that the one before left. */
export async function runInPieces(
  inputs: MultiLevelInputs,
  lengths: readonly number[],
  parameters: MultiLevelParameters,
  run: (inputs: MultiLevelInputs, parameters: MultiLevelParameters) => Promise<MultiLevelResult>,
  visit: (piece: MultiLevelResult, from: number, to: number) => void,
): Promise<void> {
  let past: MultiLevelCache | undefined;
  let from = 0;
  for (const length of lengths) {
    const to = from + length;
    const piece = (tensor: Tensor) => sequenceRows(tensor, from, to);
    const result = await run(
      {
        query: piece(inputs.query),
        key: piece(inputs.key),
        value: piece(inputs.value),
        ...(past && { past }),
      },
      parameters,
    );
    visit(result, from, to);
    past = result.present;
    from = to;
  }
}
