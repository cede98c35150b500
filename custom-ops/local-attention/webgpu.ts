import { stateQuads, writeOutputs } from '../runtime/web/attention-state.wgsl.js';
import { AttentionTile, tileShape } from '../runtime/web/attention-tile.wgsl.js';
import type { GpuRecorder } from '../runtime/web/gpu-recorder.js';
import type { GpuTensor, WebGpuOperator } from '../runtime/web/operator.js';
import { type AttentionSizes, type OptionalDims, ShapeChecks } from '../runtime/web/shapes.js';
import type { FloatType } from '../runtime/web/wgsl.js';
import { attend } from './attend.wgsl.js';
import { type LocalParameters, parametersOf } from './parameters.js';

const OP_TYPE = 'LocalAttention';
const checks = new ShapeChecks(OP_TYPE);

/** Farther than any two tokens are apart, and near enough to be added to a position. */
const UNLIMITED = 2 ** 30;

export const localAttention: WebGpuOperator = {
  opType: OP_TYPE,
  float32Outputs: new Set(),

  refusal: () => null,

  outputDims(_attributes, inputDims) {
    const { batch, heads, queries, valueDim } = sizesOf(inputDims);
    return [
      [batch, heads, queries, valueDim],
      [batch, heads, queries],
    ];
  },

  record(recorder, attributes, inputs, outputs) {
    const sizes = sizesOf(inputs.map(input => input?.dims ?? null));
    const { batch, heads, queries, keys, valueDim } = sizes;
    if (batch * heads * queries === 0) return;
    const stateBytes = queries * stateQuads(valueDim) * 16;
    const most = Math.max(1, Math.floor(recorder.device.limits.maxStorageBufferBindingSize / stateBytes));
    for (let headBase = 0; headBase < batch * heads; headBase += most) {
      const headCount = Math.min(most, batch * heads - headBase);
      const state = recorder.scratch(`row states of ${OP_TYPE}`, headCount * stateBytes);
      if (keys === 0) recorder.clear(state);
      else recordHeads(recorder, sizes, parametersOf(attributes), inputs, state, headBase, headCount);
      const rows = { stateRows: queries, skip: 0, queries, valueDim, headBase, headCount };
      writeOutputs(recorder, rows, state, outputs[0] ?? null, outputs[1] ?? null);
      recorder.release(state);
    }
  },
};

/** @throws InputError when the shapes do not fit together */
function sizesOf([query, key, value, keyMask]: readonly OptionalDims[]): AttentionSizes {
  const [batch = 0, heads = 0, queries = 0, headDim = 0] = checks.ranked(query, 'query', 4);
  const [, kvHeads = 0, keys = 0] = checks.ranked(key, 'key', 4);
  const valueDim = checks.ranked(value, 'value', 4)[3]!;
  checks.expect(key, 'key', [batch, kvHeads, keys, headDim]);
  checks.expect(value, 'value', [batch, kvHeads, keys, valueDim]);
  checks.groupedHeads(heads, kvHeads);
  checks.expect(keyMask, 'key_mask', [batch, keys]);
  return { batch, heads, kvHeads, queries, keys, headDim, valueDim };
}

function recordHeads(
  recorder: GpuRecorder,
  { heads, kvHeads, queries, keys, headDim, valueDim }: AttentionSizes,
  { scale, left, right, offset }: LocalParameters,
  inputs: readonly (GpuTensor | null)[],
  state: ReturnType<GpuRecorder['scratch']>,
  headBase: number,
  headCount: number,
): void {
  const [query, key, value] = inputs as [GpuTensor, GpuTensor, GpuTensor];
  const mask = inputs[3]?.range ?? null;
  const tile = tileShape(recorder.device, headDim);
  const tiles = Math.ceil(queries / new AttentionTile(tile).height);
  recorder.dispatch(
    attend({ type: query.type as FloatType, headDim, valueDim, tile, masked: mask !== null }),
    {
      heads,
      kv_heads: kvHeads,
      head_base: headBase,
      queries,
      keys,
      origin: offset ?? keys - queries,
      left: left ?? UNLIMITED,
      right: right ?? UNLIMITED,
      scale: scale ?? 1 / Math.sqrt(headDim),
      tiles,
    },
    { query: query.range, key: key.range, value: value.range, state, mask },
    headCount * tiles,
  );
}
