import { elementwiseAttention } from '../../elementwise-attention/webgpu.js';
import { multiLevelAttention } from '../../multi-level-attention/webgpu.js';
import { multipoleAttention } from '../../multipole-attention/webgpu.js';
import type { WebGpuOperator } from './operator.js';

/** Operators with WebGPU kernels, by operator type. */
export const WEBGPU_OPERATORS: ReadonlyMap<string, WebGpuOperator> = new Map(
  [elementwiseAttention, multiLevelAttention, multipoleAttention].map(operator => [
    operator.opType,
    operator,
  ]),
);
