import type { Tensor } from '../../custom-ops/operator.js';

/** A tensor [batch, heads, rows, size] whose rows by `spoiled(batch row, row)` hold a number that is not finite. */
export function withSpoiledRows(
  { dims, data }: Tensor,
  spoiled: (batch: number, row: number) => boolean,
  number = Infinity,
): Tensor {
  const [, heads, rows, size] = dims as [number, number, number, number];
  const rowOf = (n: number) => Math.floor(n / size);
  return {
    dims,
    data: data.map((clean, n) =>
      spoiled(Math.floor(rowOf(n) / rows / heads), rowOf(n) % rows) ? number : clean,
    ),
  };
}
