import type { GpuRange, GpuRecorder } from './gpu-recorder.js';
import type { GpuTensor } from './operator.js';
import { kernel, storage, THREADS } from './wgsl.js';

/** Rounds numbers to float16, two to a word. One thread per word. */
const narrow = kernel({
  label: 'rounding to float16',
  parameters: { count: 'u32' },
  bindings: { wide: storage('read', 'f32'), narrow: storage('read_write', 'u32') },
  body: `let word = group * ${THREADS}u + thread;
if (2u * word >= params.count) { return; }
let second = select(0.0, wide[min(2u * word + 1u, params.count - 1u)], 2u * word + 1u < params.count);
narrow[word] = pack2x16float(vec2<f32>(wide[2u * word], second));`,
});

/**
 * Lets `write` record what writes a tensor's numbers as float32: straight into a float32 tensor, by way of
 * scratch memory into a float16 one.
 */
export function writeFloat32(
  recorder: GpuRecorder,
  { type, dims, range }: GpuTensor,
  write: (numbers: GpuRange) => void,
): void {
  if (type === 'float32') {
    write(range);
    return;
  }
  const count = dims.reduce((a, b) => a * b, 1);
  const wide = recorder.scratch(`${range.label} in float32`, count * 4);
  write(wide);
  recorder.dispatch(narrow, { count }, { wide, narrow: range }, Math.ceil(count / 2 / THREADS));
  recorder.release(wide);
}
