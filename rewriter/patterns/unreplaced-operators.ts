import type { Miss, SourceForm } from './source-form.js';

const PACKED =
  'its sequences are packed one behind the other, without a batch: rewrite the model before padding is removed';

/** Operators of com.microsoft that compute attention in a way that no replacement fits, with why. */
const REASONS: Readonly<Record<string, string>> = {
  DecoderMaskedMultiHeadAttention: 'it takes one query a step, where there is nothing to gain',
  DecoderMaskedSelfAttention: 'it takes one query a step, where there is nothing to gain',
  DecoderAttention: 'it switches between self- and cross-attention and their caches as the model runs',
  PackedAttention: PACKED,
  PackedMultiHeadAttention: PACKED,
  PagedAttention: 'its cache is kept in pages',
  QAttention: 'it computes with quantized numbers inside: rewrite the model before it is quantized',
  QOrderedAttention: 'it computes with quantized numbers inside: rewrite the model before it is quantized',
  LongformerAttention: 'it is limited to a sliding window and global tokens already',
  QOrderedLongformerAttention: 'it is limited to a sliding window and global tokens already',
  SparseAttention: 'it is limited to a pattern of blocks already',
  LinearAttention: 'it is linear attention already',
};

const NAMES = Object.keys(REASONS);

/** Attention operators that are told of and kept. */
export const unreplacedOperators: SourceForm = {
  name: 'ms-other-attention',
  anchors: NAMES.map(name => `com.microsoft::${name}`),
  recognize: (node): Miss => ({ node, reason: REASONS[node.info.opType]!, near: true, nodes: [node] }),
};
