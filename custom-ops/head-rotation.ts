/**
 * One orthonormal matrix for each key head: queries and keys times it have the scores that they had, q R (k R)^T
 * = q k^T, while what a single dimension of a head stands for changes.
 */
export interface HeadRotation {
  /** Key heads, G; the query heads that read one of them are rotated as it is. */
  readonly heads: number;
  /** Dimensions of a head, D. */
  readonly headDim: number;
  /** [G,D,D], row-major: from old dimensions (rows) to new ones (columns). */
  readonly matrices: Float32Array;
}

/** Second moments of the queries and keys of one site on some data, by key head. */
export interface HeadMoments {
  /** Key heads, G; the query heads that read one of them are added up. */
  readonly heads: number;
  /** Dimensions of a head, D. */
  readonly headDim: number;
  /** Sum of q^T q over query rows, [G,D,D], row-major. */
  readonly query: Float64Array;
  /** The same of the keys. */
  readonly key: Float64Array;
}
