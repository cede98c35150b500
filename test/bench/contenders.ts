import type { InferenceSession as Session } from 'onnxruntime-common';
import { InferenceSession as OnnxRuntimeSession } from 'onnxruntime-node';
import { median } from '../../cli/statistics.js';
import type { MultipoleParameters } from '../../custom-ops/multipole-attention/parameters.js';
import { DOMAIN, DOMAIN_VERSION } from '../../custom-ops/operator.js';
import { InferenceSession, Tensor } from '../../custom-ops/runtime/node/index.js';
import { buildModel } from '../../rewriter/onnx/encode.js';
import { type AttributeSpec, DataType, type NodeSpec } from '../../rewriter/onnx/spec.js';
import { nodeAttributes } from '../custom-ops/multipole-attention/body-model.js';
import type { TrainedHeads } from './byte-model.js';

/** Something to be timed. */
export interface Contender {
  readonly name: string;
  run(): Promise<Float32Array>;
  release(): Promise<void>;
}

type SessionOptions = Session.SessionOptions;

/** A model of one node; its inputs are float32, all dimensions dynamic, except for what `types` says. */
function model(
  node: NodeSpec,
  ranks: readonly number[],
  types: ReadonlyMap<string, DataType> = new Map(),
): Uint8Array {
  return buildModel({
    irVersion: 10,
    opsetImports: { '': 18, [DOMAIN]: DOMAIN_VERSION, 'com.microsoft': 1 },
    graph: {
      name: 'attention',
      nodes: [node],
      inputs: node.inputs.flatMap((name, n) => {
        const dims = Array.from({ length: ranks[n]! }, (_, axis) => `${name}_${axis}`);
        return name === '' ? [] : [{ name, dataType: types.get(name) ?? DataType.FLOAT, dims }];
      }),
      outputs: node.outputs.map(name => ({ name, dataType: DataType.FLOAT })),
    },
  });
}

/**
 * ONNX Runtime's attention. Without a mask it takes its fused, flash-like path; a causal one does not, see
 * {@link groupQueryAttention}.
 */
export function multiHeadAttention(heads: TrainedHeads, options: SessionOptions): Promise<Contender> {
  const attributes: Record<string, AttributeSpec> = {
    num_heads: { type: 'int', value: heads.heads },
    scale: { type: 'float', value: heads.scale },
    unidirectional: { type: 'int', value: Number(heads.causal) },
  };
  return packedAttention({ opType: 'MultiHeadAttention', inputs: PACKED, attributes }, heads, options, {});
}

/** ONNX Runtime's causal attention of decoders, which computes no more than half of the scores. */
export function groupQueryAttention(heads: TrainedHeads, options: SessionOptions): Promise<Contender> {
  const attributes: Record<string, AttributeSpec> = {
    num_heads: { type: 'int', value: heads.heads },
    kv_num_heads: { type: 'int', value: heads.heads },
    scale: { type: 'float', value: heads.scale },
  };
  const inputs = [...PACKED, '', '', 'last_key', 'key_count'];
  return packedAttention({ opType: 'GroupQueryAttention', inputs, attributes }, heads, options, {
    last_key: new Tensor('int32', Int32Array.of(heads.length - 1), [1]),
    key_count: new Tensor('int32', Int32Array.of(heads.length), []),
  });
}

const PACKED = ['query', 'key', 'value'];

/** An operator of com.microsoft on queries, keys and values of shape [1,N,H*D], and `more` inputs. */
async function packedAttention(
  node: Pick<NodeSpec, 'opType' | 'inputs' | 'attributes'>,
  heads: TrainedHeads,
  options: SessionOptions,
  more: Readonly<Record<string, Tensor>>,
): Promise<Contender> {
  const outputs = [
    'output',
    ...(node.opType === 'GroupQueryAttention' ? ['present_key', 'present_value'] : []),
  ];
  const types = new Map(Object.keys(more).map(name => [name, DataType.INT32]));
  const bytes = model(
    { ...node, domain: 'com.microsoft', outputs },
    node.inputs.map(name => more[name]?.dims.length ?? 3),
    types,
  );
  const session = await OnnxRuntimeSession.create(bytes, options);
  const packed = (data: Float32Array) =>
    new Tensor('float32', pack(data, heads), [1, heads.length, heads.heads * heads.size]);
  const feeds = {
    query: packed(heads.query),
    key: packed(heads.key),
    value: packed(heads.value),
    ...more,
  };
  return {
    name: `com.microsoft.${node.opType}`,
    run: async () => (await session.run(feeds)).output!.data as Float32Array,
    release: () => session.release(),
  };
}

/** The native kernel of MultipoleAttention. */
export async function multipole(
  name: string,
  parameters: MultipoleParameters,
  heads: TrainedHeads,
  options: SessionOptions,
): Promise<Contender> {
  const node: NodeSpec = {
    opType: 'MultipoleAttention',
    domain: DOMAIN,
    inputs: ['query', 'key', 'value'],
    outputs: ['output'],
    attributes: nodeAttributes({ ...parameters, scale: heads.scale }),
  };
  const session = await InferenceSession.create(model(node, [4, 4, 4]), options);
  const { native, reason } = session.onnxRewrite;
  if (!native) throw new Error(`needs the native build: ${reason}`);
  const tensor = (data: Float32Array) =>
    new Tensor('float32', data, [1, heads.heads, data.length / (heads.heads * heads.size), heads.size]);
  const feeds = { query: tensor(heads.query), key: tensor(heads.key), value: tensor(heads.value) };
  return {
    name,
    run: async () => (await session.run(feeds)).output!.data as Float32Array,
    release: () => session.release(),
  };
}

/** Two matrix products of the size of one head's exact attention, cut where ONNX Runtime is at its best. */
export async function matrixProduct(
  options: SessionOptions,
): Promise<Contender & { readonly flops: number }> {
  const size = 2048;
  const node: NodeSpec = { opType: 'MatMul', inputs: ['a', 'b'], outputs: ['c'] };
  const session = await OnnxRuntimeSession.create(model(node, [2, 2]), options);
  const tensor = () => new Tensor('float32', new Float32Array(size * size).fill(1e-3), [size, size]);
  const feeds = { a: tensor(), b: tensor() };
  return {
    name: `MatMul ${size}^3`,
    flops: 2 * size ** 3,
    run: async () => (await session.run(feeds)).c!.data as Float32Array,
    release: () => session.release(),
  };
}

/** [1,H,N,D] as [1,N,H*D]. */
export function pack(data: Float32Array, { heads, length, size }: TrainedHeads): Float32Array {
  const packed = new Float32Array(data.length);
  for (let head = 0; head < heads; head++) {
    for (let n = 0; n < length; n++) {
      const from = (head * length + n) * size;
      packed.set(data.subarray(from, from + size), (n * heads + head) * size);
    }
  }
  return packed;
}

/** Idle threads of a session spin for a moment: long enough to be in the next one's way. */
const PAUSE_MS = 30;

interface Timed {
  readonly ms: number[];
  output: Float32Array;
}

/** What takes longer than this runs once: its first run matters little to it. */
const LONG_MS = 10_000;

/**
 * Times of contenders that take turns, after one run that is not timed and whose outputs are returned.
 * @param warm each turn is two runs and the second is timed: what others left in caches and asleep is not
 */
export async function timeInTurns(
  contenders: readonly Contender[],
  runs: number,
  { warm = false }: { readonly warm?: boolean } = {},
): Promise<Timed[]> {
  const results = contenders.map((): Timed => ({ ms: [], output: new Float32Array() }));
  const long = new Set<Contender>();
  for (let run = -1; run < runs; run++) {
    for (const [n, contender] of contenders.entries()) {
      if (long.has(contender)) continue;
      await new Promise(resolve => setTimeout(resolve, PAUSE_MS));
      if (warm && run >= 0) await contender.run();
      const start = performance.now();
      const output = await contender.run();
      const ms = performance.now() - start;
      if (run < 0) results[n]!.output = output;
      if (runs > 0 && ms > LONG_MS) long.add(contender);
      if (run >= 0 || long.has(contender)) results[n]!.ms.push(ms);
    }
  }
  return results;
}

/** Milliseconds of one contender, as reports have them. */
export function spread(ms: readonly number[]): {
  readonly median_ms: number;
  readonly min_ms: number;
  readonly max_ms: number;
} {
  return { median_ms: median(ms), min_ms: Math.min(...ms), max_ms: Math.max(...ms) };
}
