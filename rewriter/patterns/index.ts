import { groupQueryAttention } from './group-query-attention.js';
import { multiHeadAttention } from './multi-head-attention.js';
import { onnxAttention } from './onnx-attention.js';
import { projectingAttention } from './projecting-attention.js';
import { softmaxAttention } from './softmax-attention.js';
import type { SourceForm } from './source-form.js';

/** Every source form; their anchors are disjoint. */
export const SOURCE_FORMS: readonly SourceForm[] = [
  softmaxAttention,
  onnxAttention,
  multiHeadAttention,
  projectingAttention,
  groupQueryAttention,
];
