import { softmaxAttention } from './softmax-attention.js';
import type { SourceForm } from './source-form.js';

/** Every source form; a node belongs to the first that recognizes it. */
export const SOURCE_FORMS: readonly SourceForm[] = [softmaxAttention];
