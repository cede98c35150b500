import { DataType } from '../../../rewriter/onnx/spec.js';
import type { Dim, GraphBuilder, Value } from '../../graph-builder.js';
import type { MultipoleParameters } from '../parameters.js';
import { powerOfTwoFrom } from './powers-of-two.js';
import { type DyadicUnits, dyadicUnits } from './units.js';

/** Rows whose far field is computed at once: bounds working memory, and sets the length of batched products. */
const CHUNK_ROWS = 2048;
/** Rows of a row segment where no segment of the keys prescribes it. */
const FREE_ROW_SEGMENT = 256;

/** float32 inputs of the body with batch and head axes merged: parts of query are [B*H], parts of key [B*G]. */
export interface BodyInputs {
  /** [B*H,R,D]: past and present queries, at least one row. */
  readonly query: Value;
  /** [B*G,S,D], at least one key. */
  readonly key: Value;
  /** [B*G,S,E] */
  readonly value: Value;
  /** [B*G,S]: 0 for a visible key, HIDDEN for another; null where every row sees every key but for causality. */
  readonly keyBias: Value | null;
}

/**
 * Run-time sizes, each an int64 value of one element. Rows lie on a grid of positions cut into row segments:
 * row r at grid position r + offset. A row segment is a segment of the keys where rows have an own segment.
 */
export interface Sizes {
  /** B*H and B*G, and query heads per key head. */
  readonly parts: Value;
  readonly kvParts: Value;
  readonly share: Value;
  readonly headDim: Value;
  readonly valueDim: Value;
  /** R and S before either was padded to at least 1. */
  readonly rows: Value;
  readonly keys: Value;
  /** Factor on query . key, a float of one element. */
  readonly scale: Value;
  /** Grid position of row 0 (negative rows see nothing), of the first row on the grid, and after the last. */
  readonly offset: Value;
  readonly first: Value;
  readonly end: Value;
  /** Keys per segment. */
  readonly segment: Dim;
  /** Rows per row segment. */
  readonly rowSegment: Dim;
  /** Row segments that hold rows, and with the padding to whole chunks. */
  readonly rowSegments: Value;
  readonly gridSegments: Value;
  /** Segments of the padded keys. */
  readonly keySegments: Value;
  /** Null where the units of the keys are their segments. */
  readonly units: DyadicUnits | null;
  /** Most row segments in a chunk; causal: a power of two. */
  readonly chunkLimit: number;
  /** Row segments per chunk when acausal. */
  readonly chunkSegments: Value;
  /** Whether rows have an own segment; a boolean where only the shapes tell. */
  readonly local: boolean | Value;
}

/** How many neighboring rows share a list of retrieved keys, and the rows that a row segment holds of them. */
export function tileRows(parameters: MultipoleParameters): number {
  const { selection, group, causal } = parameters;
  if (selection === 'tile' || (selection === 'cluster' && !causal)) return group;
  const rows = parameters.segment || FREE_ROW_SEGMENT;
  return Math.ceil(rows / Math.ceil(rows / 64));
}

export interface RawShape {
  readonly query: Value;
  readonly key: Value;
  readonly value: Value;
  readonly rows: Value;
  readonly past: Value;
}

/** @param shape the operator's own [B,H,N,D], [B,G,S,D] and [B,G,S,E] inputs, R and P */
export function bodySizes(b: GraphBuilder, shape: RawShape, parameters: MultipoleParameters): Sizes {
  const { causal, segment } = parameters;
  const batch = b.dim(shape.query, 0);
  const heads = b.dim(shape.query, 1);
  const kvHeads = b.dim(shape.key, 1);
  const headDim = b.dim(shape.query, 3);
  const keys = b.dim(shape.key, 2);
  const { rows, past } = shape;

  const queries = b.sub(rows, past);
  const start = parameters.causalOffset === null ? b.sub(keys, queries) : b.ints([parameters.causalOffset]);
  const offset = causal ? b.sub(start, past) : b.ints([0]);
  const end = b.add(offset, rows);

  const local = causal ? true : segment === 0 ? false : b.equal(rows, keys);
  const tile = tileRows(parameters);
  const free = Math.ceil((segment || FREE_ROW_SEGMENT) / tile) * tile;
  const rowSegment =
    typeof local !== 'boolean' && free !== segment
      ? b.where(local, b.ints([segment]), b.ints([free]))
      : local === false
        ? free
        : segment;

  const rowSegments = b.max(b.ceilDiv(b.max(end, 0), rowSegment), 1);
  const chunkLimit = 2 ** Math.max(0, Math.floor(Math.log2(CHUNK_ROWS / (segment || free))));
  const chunks = b.ceilDiv(rowSegments, chunkLimit);
  const chunkSegments = b.ceilDiv(rowSegments, chunks);
  const gridSegments = causal
    ? b.where(b.greater(rowSegments, chunkLimit), b.mul(chunks, chunkLimit), powerOfTwoFrom(b, rowSegments))
    : b.mul(chunks, chunkSegments);
  const keyLength = segment === 0 ? b.max(keys, 1) : segment;
  const ownKeySegments = segment === 0 ? b.ints([1]) : b.max(b.ceilDiv(keys, segment), 1);
  const keySegments =
    local === true
      ? gridSegments
      : local === false
        ? ownKeySegments
        : b.where(local, gridSegments, ownKeySegments);

  return {
    parts: b.mul(batch, heads),
    kvParts: b.mul(batch, kvHeads),
    share: b.div(heads, kvHeads),
    headDim,
    valueDim: b.dim(shape.value, 3),
    rows,
    keys,
    scale:
      parameters.scale === null
        ? b.node(
            'Reciprocal',
            [b.node('Sqrt', [b.cast(headDim, DataType.FLOAT)], DataType.FLOAT)],
            DataType.FLOAT,
          )
        : b.constant([parameters.scale], DataType.FLOAT),
    offset,
    first: b.max(offset, 0),
    end,
    segment: keyLength,
    rowSegment,
    rowSegments,
    gridSegments,
    keySegments,
    units: parameters.hierarchy === 'dyadic' && local !== false ? dyadicUnits(b, keySegments, local) : null,
    chunkLimit,
    chunkSegments,
    local,
  };
}

/** Product of dimensions of which some may be known numbers. */
export function times(b: GraphBuilder, a: Dim, c: Dim): Dim {
  return typeof a === 'number' && typeof c === 'number' ? a * c : b.mul(a, c);
}
