import type { WebGpuOperator } from './operator.js';

/** Operators with WebGPU kernels, by operator type: fetched when a model has them. */
const LOADERS: ReadonlyMap<string, () => Promise<WebGpuOperator>> = new Map([
  [
    'ElementwiseAttention',
    async () => (await import('../../elementwise-attention/webgpu.js')).elementwiseAttention,
  ],
  ['LocalAttention', async () => (await import('../../local-attention/webgpu.js')).localAttention],
  [
    'MultiLevelAttention',
    async () => (await import('../../multi-level-attention/webgpu.js')).multiLevelAttention,
  ],
  [
    'MultipoleAttention',
    async () => (await import('../../multipole-attention/webgpu.js')).multipoleAttention,
  ],
]);

/** The kernels of the operator types that have any. */
export async function loadKernels(opTypes: Iterable<string>): Promise<ReadonlyMap<string, WebGpuOperator>> {
  const loaded = [...new Set(opTypes)].flatMap(opType => {
    const load = LOADERS.get(opType);
    return load ? [load().then(operator => [opType, operator] as const)] : [];
  });
  return new Map(await Promise.all(loaded));
}
