import { bilinearAttention } from './bilinear-attention.js';
import { butterflyMatMul } from './butterfly-matmul.js';
import { elementwiseSeries } from './elementwise-series.js';
import { elementwiseSoftmax } from './elementwise-softmax.js';
import { groupQueryAttention } from './group-query-attention.js';
import { multiHeadAttention } from './multi-head-attention.js';
import { multiLevelAttention } from './multi-level-attention.js';
import { onnxAttention } from './onnx-attention.js';
import { projectingAttention } from './projecting-attention.js';
import { softmaxAttention } from './softmax-attention.js';
import type { SourceForm } from './source-form.js';
import { structuredMatMul } from './structured-matmul.js';
import { unreplacedOperators } from './unreplaced-operators.js';

/**
 * Every source form, the one place where forms are registered. Where several take the same anchors, special ones come
 * before general ones. A form gives a `Fusion` where the graph computes what one operator computes exactly, and an
 * `Attention` for softmax attention, whose operands, scale and mask are worked out for all such forms alike.
 */
export const SOURCE_FORMS: readonly SourceForm[] = [
  bilinearAttention,
  multiLevelAttention,
  softmaxAttention,
  onnxAttention,
  multiHeadAttention,
  projectingAttention,
  groupQueryAttention,
  unreplacedOperators,
  elementwiseSeries,
  elementwiseSoftmax,
  structuredMatMul,
  butterflyMatMul,
];
