import type { TensorValue } from '../data/tensor.js';
import type { DataWindow } from './tuning-data.js';

export type Tensors = ReadonlyMap<string, TensorValue>;

/** How good a model's outputs are: one number a window, lower is better. */
export interface Metric {
  /** For people: `cross-entropy of the next token, bits`. */
  readonly name: string;
  /** A loss is compared with the original's, in proportion; an error is 0 for the original. */
  readonly kind: 'loss' | 'error';
  /** Outputs of the model that it reads. */
  readonly outputs: readonly string[];
  /**
   * @param reference what the original makes of the window
   * @throws InputError when the value is no finite number
   */
  measure(window: DataWindow, outputs: Tensors, reference: Tensors): Promise<number>;
}
