import { DataType } from '../../../rewriter/onnx/spec.js';
import type { GraphBuilder, Value } from '../../graph-builder.js';
import type { MultipoleParameters } from '../parameters.js';
import type { KeyCells } from './key-cells.js';
import type { BodyInputs, Sizes } from './sizes.js';
import { summaries } from './summaries.js';

/**
 * The dipole of `contracted` (README, step 9) of every row: s M_i (q - c_i) with M_i = sum_j a_j(c_i) Cov_ij(v,k).
 * The weights a_j(c_i) p_n of the keys are one softmax of s c_i.k_n, so that
 * M_i = sum_n softmax_n k_n v_n' - sum_j a_j(c_i) k_ij v_ij'. One query cluster at a time.
 * @param centroids [B*H,queryClusters,D]
 * @param rowCluster [B*H,rows]
 * @returns [B*H,rows,E]; finite, but of no meaning, where no key is visible
 */
export function contractedDipole(
  b: GraphBuilder,
  { query, key, value, keyBias }: BodyInputs,
  cells: KeyCells,
  centroids: Value,
  rowCluster: Value,
  sizes: Sizes,
  parameters: MultipoleParameters,
): Value {
  const { parts, kvParts, share, headDim, valueDim, scale } = sizes;
  const { keyClusters, queryClusters } = parameters;
  const table = summaries(b, cells, centroids, null, b.range(1), sizes, parameters);
  const width = b.add(headDim, 1);
  const keys = b.unsqueeze(key, 1);
  const values = b.unsqueeze(value, 1);
  const rows = b.dim(query, 1);
  const { state } = b.loop(
    b.ints([queryClusters]),
    [b.full([parts, rows, valueDim], 0, DataType.FLOAT)],
    (inner, cluster, [before]) => {
      const centroid = inner.gather(centroids, cluster, 1);
      const scaled = inner.reshape(inner.mul(centroid, scale), [kvParts, share, 1, headDim]);
      const products = inner.matMul(scaled, inner.transpose(keys, [0, 1, 3, 2]));
      const biased = keyBias ? inner.add(products, inner.reshape(keyBias, [kvParts, 1, 1, -1])) : products;
      const shares = inner.transpose(inner.softmax(biased), [0, 1, 3, 2]);
      const moment = (weights: Value, k: Value, v: Value) =>
        inner.matMul(inner.transpose(inner.mul(weights, k), [0, 1, 3, 2]), v);

      const row = inner.add(inner.mul(inner.range(parts), queryClusters), cluster);
      const ofClusters = (x: Value, size: Value) =>
        inner.reshape(inner.gather(x, row), [kvParts, share, keyClusters, size]);
      const summary = ofClusters(table.keys, width);
      const clusterKeys = inner.slice(summary, 3, 0, headDim);
      // Of a summary, w_ij less what the centroid has in common with k_ij.
      const rest = inner.slice(summary, 3, headDim, width);
      const weights = inner.add(inner.matMul(clusterKeys, inner.transpose(scaled, [0, 1, 3, 2])), rest);
      const clusterShares = inner.transpose(
        inner.softmax(inner.transpose(weights, [0, 1, 3, 2])),
        [0, 1, 3, 2],
      );
      const matrix = inner.sub(
        moment(shares, keys, values),
        moment(clusterShares, clusterKeys, ofClusters(table.values, valueDim)),
      );
      const residual = inner.mul(inner.sub(query, centroid), scale);
      const own = inner.indicator(inner.equal(inner.unsqueeze(rowCluster, 2), cluster));
      const dipole = inner.matMul(
        inner.mul(residual, own),
        inner.reshape(matrix, [parts, headDim, valueDim]),
      );
      return { state: [inner.add(before!, dipole)], stacked: [] };
    },
  );
  return state[0]!;
}
