import { DataType } from '../../onnx/spec.js';
import type { NodeInputs } from '../probe.js';
import type { Sample } from '../sample.js';
import type { Rules } from './rule.js';

/** Embeddings of tokens, positions and segments; the second output is the number of ones in each row of the mask. */
function embedLayerNormalization(inputs: NodeInputs): readonly (Sample | null)[] {
  const ids = inputs.sample(0);
  const table = inputs.sample(2);
  const mask = inputs.optional(7);
  const [batch, rows] = ids.dims as [number, number];
  const embedded = inputs.data([batch, rows, table.dims[1]!], table.dataType);
  const ones = (b: number) => {
    let count = 0;
    for (let j = 0; j < rows; j++) if (mask?.at(b * rows + j) === 1) count++;
    return count;
  };
  return [embedded, mask && { dims: [batch], dataType: DataType.INT32, at: ones }, embedded];
}

/** Their results count as data, but for the lengths beside them, which masks are made from. */
export const embeddings: Rules = {
  'com.microsoft::EmbedLayerNormalization': embedLayerNormalization,
};
