import { bilinearAttention } from './bilinear-attention/operator.js';
import { elementwiseAttention } from './elementwise-attention/operator.js';
import { localAttention } from './local-attention/operator.js';
import { multiLevelAttention } from './multi-level-attention/operator.js';
import { multipoleAttention } from './multipole-attention/operator.js';
import type { OperatorDefinition } from './operator.js';
import { structuredMatMul } from './structured-matmul/operator.js';

/** Every operator; the first is the one that `rewrite` uses unless told otherwise. */
export const OPERATORS: readonly OperatorDefinition[] = [
  multipoleAttention,
  localAttention,
  elementwiseAttention,
  multiLevelAttention,
  bilinearAttention,
  structuredMatMul,
];
