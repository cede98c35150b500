import type { MultipoleParameters } from '../../custom-ops/multipole-attention/parameters.js';
import type {
  MultipoleChoices,
  MultipoleInputs,
  MultipoleResult,
} from '../../custom-ops/multipole-attention/reference.js';
import { DOMAIN, DOMAIN_VERSION, type Tensor as PlainTensor } from '../../custom-ops/operator.js';
import { InferenceSession, Tensor } from '../../custom-ops/runtime/node/index.js';
import { buildModel } from '../../rewriter/onnx/encode.js';
import { float16ToFloat32, float32ToFloat16 } from '../../rewriter/onnx/float16.js';
import { DataType } from '../../rewriter/onnx/spec.js';
import { connectedInputs, nodeAttributes } from '../custom-ops/multipole-attention/body-model.js';

/** Refused inputs are expected: nothing is to be logged. */
const FATAL = 4;
const INPUTS = ['query', 'key', 'value', 'key_mask', 'past_query'];
const CHOICES = ['key_clusters', 'query_centroids', 'query_clusters', 'retrieved'] as const;

export interface KernelOptions {
  readonly threads?: number;
  readonly float16?: boolean;
  /** Choices to take as given. */
  readonly given?: MultipoleChoices;
  /** Leaves choices alone: runs the operator that users run. */
  readonly plain?: boolean;
}

/** Runs the CPU kernel through ONNX Runtime; its choices come back like the reference's. */
export async function runKernel(
  inputs: MultipoleInputs,
  parameters: MultipoleParameters,
  { threads = 1, float16 = false, given, plain = float16 }: KernelOptions = {},
): Promise<MultipoleResult> {
  const names = connectedInputs(inputs);
  const float = float16 ? DataType.FLOAT16 : DataType.FLOAT;
  const value = (name: string, dataType: DataType) => ({ name, dataType });
  const choiceType = (name: string) => (name === 'query_centroids' ? DataType.FLOAT : DataType.INT32);
  const givenNames = given ? CHOICES.map(name => `given_${name}`) : [];
  const outputs = ['output', 'lse', ...(plain ? [] : CHOICES)];
  const model = buildModel({
    irVersion: 8,
    opsetImports: { '': 18, [DOMAIN]: DOMAIN_VERSION },
    graph: {
      name: 'multipole_attention',
      nodes: [
        {
          opType: plain ? 'MultipoleAttention' : 'MultipoleAttentionTraced',
          domain: DOMAIN,
          inputs: [...INPUTS.map(name => (names.includes(name) ? name : '')), ...givenNames],
          outputs,
          attributes: nodeAttributes(parameters),
        },
      ],
      inputs: [
        ...names.map(name => value(name, name === 'key_mask' ? DataType.BOOL : float)),
        ...CHOICES.flatMap((name, n) => (given ? [value(givenNames[n]!, choiceType(name))] : [])),
      ],
      outputs: outputs.map((name, n) => value(name, n < 2 ? float : choiceType(name))),
    },
  });
  const session = await InferenceSession.create(model, {
    intraOpNumThreads: threads,
    logSeverityLevel: FATAL,
  });
  try {
    const feeds: Record<string, Tensor> = {};
    const floats = ({ dims, data }: PlainTensor) =>
      float16 ? new Tensor('float16', float32ToFloat16(data), dims) : new Tensor('float32', data, dims);
    feeds.query = floats(inputs.query);
    feeds.key = floats(inputs.key);
    feeds.value = floats(inputs.value);
    if (inputs.pastQuery) feeds.past_query = floats(inputs.pastQuery);
    if (inputs.keyMask) {
      feeds.key_mask = new Tensor('bool', inputs.keyMask, [inputs.key.dims[0]!, inputs.key.dims[2]!]);
    }
    if (given) Object.assign(feeds, givenTensors(inputs, parameters, given));
    const results = await session.run(feeds, { logSeverityLevel: FATAL });
    const plainTensor = (name: string): PlainTensor => {
      const { dims, data } = results[name] as Tensor;
      return { dims, data: float16 ? float16ToFloat32(data as Uint16Array) : (data as Float32Array) };
    };
    const choices = plain
      ? { keyClusters: [], queryCentroids: [], queryClusters: new Int32Array(), retrieved: new Int32Array() }
      : {
          keyClusters: split(results.key_clusters!.data as Int32Array, results.key_clusters!.dims[0]!),
          queryCentroids: split(
            results.query_centroids!.data as Float32Array,
            results.query_centroids!.dims[0]!,
          ),
          queryClusters: results.query_clusters!.data as Int32Array,
          retrieved: results.retrieved!.data as Int32Array,
        };
    return { output: plainTensor('output'), lse: plainTensor('lse'), choices };
  } finally {
    await session.release();
  }
}

/** The kernel wants its own width of the lists: all clusters. */
function givenTensors(
  { query, key, pastQuery }: MultipoleInputs,
  parameters: MultipoleParameters,
  given: MultipoleChoices,
): Record<string, Tensor> {
  const [batch = 0, heads = 0, queries = 0, headDim = 0] = query.dims;
  const [, kvHeads = 0, keys = 0] = key.dims;
  const levels = given.keyClusters.length;
  const clusters = unitCount(keys, parameters, levels) * parameters.keyClusters;
  const rows = batch * heads * queries;
  const width = rows === 0 ? 0 : given.retrieved.length / rows;
  const retrieved = new Int32Array(rows * clusters).fill(-1);
  for (let row = 0; row < rows; row++) {
    retrieved.set(
      given.retrieved.subarray(row * width, (row + 1) * width).filter(j => j >= 0),
      row * clusters,
    );
  }
  return {
    given_key_clusters: new Tensor('int32', Int32Array.from(given.keyClusters.flatMap(level => [...level])), [
      levels,
      batch,
      kvHeads,
      keys,
    ]),
    given_query_centroids: new Tensor(
      'float32',
      Float32Array.from(given.queryCentroids.flatMap(block => [...block])),
      [given.queryCentroids.length, batch, heads, parameters.queryClusters, headDim],
    ),
    given_query_clusters: new Tensor('int32', given.queryClusters, [
      batch,
      heads,
      (pastQuery?.dims[2] ?? 0) + queries,
    ]),
    given_retrieved: new Tensor('int32', retrieved, [batch, heads, queries, clusters]),
  };
}

function unitCount(keys: number, { segment }: MultipoleParameters, levels: number): number {
  let units = 0;
  for (let level = 0; level < levels; level++) {
    units += Math.ceil(keys / ((segment === 0 ? Math.max(keys, 1) : segment) * 2 ** level));
  }
  return units;
}

function split<T extends Int32Array | Float32Array>(data: T, parts: number): T[] {
  const size = parts === 0 ? 0 : data.length / parts;
  return Array.from({ length: parts }, (_, n) => data.subarray(n * size, (n + 1) * size) as T);
}
