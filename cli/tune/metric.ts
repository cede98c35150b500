import type { TensorValue } from '../data/tensor.js';
import type { Estimate } from './forecast.js';
import type { DataWindow } from './tuning-data.js';

export type Tensors = ReadonlyMap<string, TensorValue>;

/** What a model's outputs on one window are worth. */
export interface Score {
  /** Lower is better. */
  readonly value: number;
  /**
   * How far the outputs are from the reference's: never negative, 0 for equal ones. It tells small changes of a
   * model from few windows, where the value mostly tells how lucky the changed predictions were.
   */
  readonly divergence: number;
}

/** How good a model's outputs are. */
export interface Metric {
  /** For people: `cross-entropy of the next token, bits`. */
  readonly name: string;
  /** A loss is compared with the original's, in proportion; an error is 0 for the original. */
  readonly kind: 'loss' | 'error';
  /** Outputs of the model that it reads. */
  readonly outputs: readonly string[];
  /** By how much the value grows with the divergence, as far as theory tells; null where it does not. */
  readonly slope: Estimate | null;
  /**
   * @param reference what exact attention makes of the window
   * @throws InputError when the value is no finite number
   */
  measure(window: DataWindow, outputs: Tensors, reference: Tensors): Promise<Score>;
}
