import { readFileSync } from 'node:fs';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { expose } from '../../cli/validation/replacement.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { findSites } from '../../rewriter/find-sites.js';
import { ModelGraph } from '../../rewriter/graph/model-graph.js';
import { openModelFile } from '../../rewriter/onnx/model-file.js';
import type { AttentionSite, Operand } from '../../rewriter/site.js';

/** Query, key and value of one attention site, [1,heads,length,size], float32. */
export interface TrainedHeads {
  readonly site: string;
  readonly heads: number;
  readonly length: number;
  readonly size: number;
  readonly causal: boolean;
  /** Factor on query . key that is not yet in them. */
  readonly scale: number;
  readonly query: Float32Array;
  readonly key: Float32Array;
  readonly value: Float32Array;
}

const MASK_ID = 256;
const SPAN = 6;
const SPAN_PROBABILITY = 0.035;

/** What the attention sites of a byte-level model see on the first `length` bytes of a text. */
export async function trainedHeads(file: string, text: string, length: number): Promise<TrainedHeads[]> {
  const opened = openModelFile(file);
  try {
    const { sites } = findSites(new ModelGraph(opened.model));
    const names = sites.flatMap(({ query, key, value }) => [query.value, key.value, value.value]);
    const session = await InferenceSession.create(expose(opened.model, names), {
      executionProviders: ['cpu'],
    });
    const ids = maskedBytes(
      text,
      length,
      sites.every(({ causal }) => !causal),
    );
    const result = await session.run({ input_ids: new Tensor('int64', ids, [1, length]) }, names);
    await session.release();
    return sites.map(site => headsOf(site, result));
  } finally {
    opened.close();
  }
}

/** The bytes; for a model that predicts masked ones, with spans hidden as in its training. */
function maskedBytes(text: string, length: number, masked: boolean): BigInt64Array {
  const bytes = readFileSync(text).subarray(0, length);
  if (bytes.length < length) throw new Error(`${text} has only ${bytes.length} bytes`);
  const ids = BigInt64Array.from(bytes, BigInt);
  const random = new SeededRandom(0);
  for (let start = 0; masked && start < length; start++) {
    if (random.uniform() < SPAN_PROBABILITY) ids.fill(BigInt(MASK_ID), start, start + SPAN);
  }
  return ids;
}

function headsOf(site: AttentionSite, result: InferenceSession.ReturnType): TrainedHeads {
  const part = (operand: Operand) => {
    const { dims, data } = result[operand.value] as Tensor;
    if (operand.layout === 'BHND') return { dims, data: data as Float32Array };
    if (operand.layout === 'BHDN') return transposed(dims, data as Float32Array);
    throw new Error(`${site.id}: layout ${operand.layout} is not measured`);
  };
  const [query, key, value] = [part(site.query), part(site.key), part(site.value)];
  const [, heads = 0, length = 0, size = 0] = query.dims;
  return {
    site: site.id,
    heads,
    length,
    size,
    causal: site.causal,
    scale: site.operatorScale ?? 1 / Math.sqrt(size),
    query: query.data,
    key: key.data,
    value: value.data,
  };
}

/** [1,H,D,N] as [1,H,N,D]. */
function transposed(
  dims: readonly number[],
  data: Float32Array,
): { dims: readonly number[]; data: Float32Array } {
  const [batch = 0, heads = 0, size = 0, length = 0] = dims;
  const result = new Float32Array(data.length);
  for (let head = 0; head < batch * heads; head++) {
    for (let d = 0; d < size; d++) {
      for (let n = 0; n < length; n++) {
        result[(head * length + n) * size + d] = data[(head * size + d) * length + n]!;
      }
    }
  }
  return { dims: [batch, heads, length, size], data: result };
}
