import type { Value } from '../graph/value.js';
import type { Probe } from '../probe/probe.js';
import type { Structure } from '../probe/structure.js';

/** Sizes of the score matrix of a site. */
export interface Extent {
  readonly batch: number;
  readonly heads: number;
  readonly rows: number;
  readonly columns: number;
}

/** One element of the score matrix: batch row, query head, query row, key. */
export interface Place {
  readonly b: number;
  readonly h: number;
  readonly i: number;
  readonly j: number;
}

/**
 * What goes into the softmax of a site as a function of the product q.k: everything that scales, masks, caps or
 * biases it, evaluated element by element.
 */
export interface LogitSource {
  /** Values that take part besides q and k and constant factors. */
  readonly terms: readonly Value[];
  /** Something else than factors takes part: a mask or a bias, if perhaps one without effect. */
  readonly masked: boolean;
  /** Distances that it turns on besides those among the constants of its terms. */
  readonly distances: readonly number[];
  /** Equal for sources that are the same function of the product at every place. */
  identity(structure: Structure): string;
  /** @throws UnknownSample when an operator in between cannot be followed */
  at(probe: Probe, extent: Extent): (place: Place, product: number) => number;
}

/**
 * A logit of this or less hides its key. Exporters write the original BERT's -10000, -1e9, the most negative
 * number of float16 (-65504) or float32, and minus infinity; -9999 leaves room for the rounding of the first.
 */
export const HIDDEN_AT_MOST = -9999;
