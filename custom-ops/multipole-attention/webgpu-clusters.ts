import type { GpuRange, GpuRecorder } from '../runtime/web/gpu-recorder.js';
import { quads } from '../runtime/web/wgsl.js';
import { assign, type ClusterShape, chunkSums, means, runs, seeds } from './cluster.wgsl.js';
import { chunkSquares, dimensionShares } from './expected-error.wgsl.js';
import { offsets, scatter, tally } from './group.wgsl.js';
import type { SetTables } from './webgpu-layout.js';

/** Points to cluster: the rows of `heads` heads from head `headBase` on, `rows` by head. */
export interface Points {
  readonly label: string;
  readonly range: GpuRange;
  readonly shape: ClusterShape;
  readonly clusters: number;
  readonly headBase: number;
  readonly heads: number;
  readonly rows: number;
  readonly mask: GpuRange | null;
  /** Neighboring heads that share a row of the mask. */
  readonly headsPerMask: number;
}

const pointParameters = (points: Points) => ({
  point_base: points.headBase * points.rows,
  rows: points.rows,
  clusters: points.clusters,
  heads_per_mask: points.headsPerMask,
});

/** Memory for the cluster of every place of `tables`, by head. */
export function assignmentScratch(recorder: GpuRecorder, points: Points, assigned: number): GpuRange {
  return recorder.scratch(`${points.label} clusters`, points.heads * assigned * 4);
}

/**
 * Lloyd's iterations (README, step 3). Leaves the last assignment in `assignment` and returns the centroids,
 * [heads, sets, clusters, columns padded to fours].
 */
export function kMeans(
  recorder: GpuRecorder,
  points: Points,
  tables: SetTables,
  iterations: number,
  assignment: GpuRange,
): GpuRange {
  const { label, shape, clusters, heads } = points;
  const centroidQuads = heads * tables.sets * clusters * quads(shape.columns);
  const partQuads = heads * tables.chunks * clusters * quads(shape.columns);
  const centroids = recorder.scratch(`${label} centroids`, centroidQuads * 16);
  const sums = recorder.scratch(`${label} cluster sums`, partQuads * 16);
  const counts = recorder.scratch(`${label} cluster sizes`, heads * tables.chunks * clusters * 4);
  const setTable = recorder.table(`${label} sets`, tables.setTable);
  const chunkTable = recorder.table(`${label} chunks`, tables.chunkTable);
  const parameters = { ...pointParameters(points), ...tables };
  recorder.dispatch(
    seeds(shape),
    parameters,
    { points: points.range, set_table: setTable, centroids, mask: points.mask },
    heads * tables.sets,
  );
  for (let iteration = 0; iteration < iterations; iteration++) {
    assignNearest(recorder, points, tables, centroids, tables.sets, assignment);
    recorder.dispatch(
      chunkSums(shape),
      parameters,
      { points: points.range, chunk_table: chunkTable, assignment, sums, counts },
      heads * tables.chunks * clusters,
    );
    recorder.dispatch(
      means(shape),
      { ...parameters, threads: centroidQuads },
      { set_table: setTable, sums, counts, centroids },
      Math.ceil(centroidQuads / 256),
    );
  }
  recorder.release(sums);
  recorder.release(counts);
  return centroids;
}

/** Shares of columns in the squares of each set's points (README, step 5), [heads, sets, columns padded to fours]. */
export function sharesOf(recorder: GpuRecorder, points: Points, tables: SetTables): GpuRange {
  const { label, shape, headBase, heads, rows } = points;
  const { sets, chunks } = tables;
  const width = quads(shape.columns) * 16;
  const squares = recorder.scratch(`${label} squares`, heads * chunks * width);
  const shares = recorder.scratch(`${label} shares`, heads * sets * width);
  recorder.dispatch(
    chunkSquares({ type: shape.type, columns: shape.columns }),
    { point_base: headBase * rows, rows, chunks },
    {
      points: points.range,
      chunk_table: recorder.table(`${label} chunks`, tables.chunkTable),
      squares,
    },
    heads * chunks,
  );
  recorder.dispatch(
    dimensionShares(shape.columns),
    { sets, chunks },
    { set_table: recorder.table(`${label} sets`, tables.setTable), squares, shares },
    heads * sets,
  );
  recorder.release(squares);
  return shares;
}

/** Nearest of `sets` sets of centroids, the set being the one that `tables` names for each chunk. */
export function assignNearest(
  recorder: GpuRecorder,
  points: Points,
  tables: SetTables,
  centroids: GpuRange,
  sets: number,
  assignment: GpuRange,
): void {
  recorder.dispatch(
    assign(points.shape),
    { ...pointParameters(points), assigned: tables.assigned, chunks: tables.chunks, sets },
    {
      points: points.range,
      chunk_table: recorder.table(`${points.label} chunks`, tables.chunkTable),
      centroids,
      assignment,
      mask: points.mask,
    },
    points.heads * tables.chunks,
  );
}

/** Clusters that are runs of `run` rows of each set. */
export function assignRuns(
  recorder: GpuRecorder,
  points: Points,
  tables: SetTables,
  run: number,
  assignment: GpuRange,
): void {
  recorder.dispatch(
    runs(points.shape.masked),
    { ...pointParameters(points), assigned: tables.assigned, chunks: tables.chunks, run },
    {
      set_table: recorder.table(`${points.label} sets`, tables.setTable),
      chunk_table: recorder.table(`${points.label} chunks`, tables.chunkTable),
      assignment,
      mask: points.mask,
    },
    points.heads * tables.chunks,
  );
}

/** Rows sorted by cluster (see group.wgsl.ts). */
export interface SortedRows {
  /** First slot of every cluster, [heads, sets, clusters + 1]. */
  readonly starts: GpuRange;
  /** Row plus one of every slot, 0 for an empty one, [heads, slots]. */
  readonly order: GpuRange;
}

/** Sorts the rows of each set by cluster; `assigned` is the width of `assignment`, `slots` of the result. */
export function sortRows(
  recorder: GpuRecorder,
  label: string,
  heads: number,
  clusters: number,
  tables: SetTables,
  rows: { readonly assignment: GpuRange; readonly assigned: number },
  slots: number,
  align: number,
): SortedRows {
  const chunkTable = recorder.table(`${label} chunks`, tables.chunkTable);
  const { sets, chunks } = tables;
  const counts = recorder.scratch(`${label} sizes`, heads * chunks * clusters * 4);
  const starts = recorder.scratch(`${label} offsets`, heads * sets * (clusters + 1) * 4);
  const order = recorder.scratch(`${label} order`, heads * slots * 4);
  if (align > 1) recorder.clear(order);
  recorder.dispatch(
    tally,
    { assigned: rows.assigned, chunks, clusters },
    { chunk_table: chunkTable, assignment: rows.assignment, counts },
    heads * chunks,
  );
  recorder.dispatch(
    offsets,
    { sets, chunks, clusters, align },
    { set_table: recorder.table(`${label} sets`, tables.setTable), counts, starts },
    heads * sets,
  );
  recorder.dispatch(
    scatter,
    { assigned: rows.assigned, chunks, clusters, slots },
    { chunk_table: chunkTable, assignment: rows.assignment, first_slots: counts, order },
    heads * chunks,
  );
  recorder.release(counts);
  return { starts, order };
}
