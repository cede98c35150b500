import { readFileSync } from 'node:fs';

/** What training measured, as `collect.py` writes it. */
export interface Results {
  readonly language: readonly LanguageModel[];
  readonly regression: readonly Regression[];
  readonly forecasting: readonly Forecaster[];
}

export interface LanguageModel {
  readonly attention: string;
  readonly width: number;
  readonly layers: number;
  readonly bytes_per_step: number;
  readonly parameters: number;
  /** Forward, for each byte and layer at full context. */
  readonly attention_multiply_adds: number;
  readonly other_multiply_adds: number;
  readonly held_out_bits_per_byte: number;
  /** By layer. */
  readonly largest_weight: readonly number[];
  readonly effective_keys: readonly number[];
  readonly curve: Curve;
}

export interface Regression {
  readonly attention: string;
  readonly dimension: number;
  readonly width: number;
  readonly layers: number;
  readonly steps: number;
  readonly parameters: number;
  readonly last_error: number;
  readonly curve: Curve;
}

export interface Forecaster {
  readonly attention: string;
  readonly horizon: number;
  readonly mse: number;
  readonly mae: number;
}

/** Steps and what was measured then. */
export type Curve = readonly (readonly [step: number, value: number])[];

export function readResults(folder: URL): Results {
  const read = (family: string) => JSON.parse(readFileSync(new URL(`${family}.json`, folder), 'utf8'));
  return { language: read('language'), regression: read('regression'), forecasting: read('forecasting') };
}

/** Order and names of kinds of attention in tables and plots. */
export const NAMES: Readonly<Record<string, string>> = {
  softmax: 'softmax',
  'multi-level-uneven': 'multi-level, ranks 32,8,6,4,4,4,4,2',
  'multi-level': 'multi-level, eight ranks of 8',
  'multi-level-48-16': 'multi-level, ranks 48,16',
  'multi-level-40-16-4-4': 'multi-level, ranks 40,16,4,4',
  'bilinear-btt': 'bilinear, tensor train',
  'bilinear-mlr': 'bilinear, multi-level',
  'global-and-window': 'global and window of 128',
  window: 'window of 128',
  linear: 'linear',
  'elementwise-6': 'element-wise, order 6',
  'elementwise-2': 'element-wise, order 2',
};

/** Results in the order of `NAMES`. */
export function ordered<T extends { readonly attention: string }>(results: readonly T[]): readonly T[] {
  const order = Object.keys(NAMES);
  return [...results].sort((a, b) => order.indexOf(a.attention) - order.indexOf(b.attention));
}

/** Multiply-adds of all layers for a byte of a forward pass. */
export function multiplyAdds(model: LanguageModel): number {
  return model.layers * (model.attention_multiply_adds + model.other_multiply_adds);
}
