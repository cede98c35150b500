/** ||actual - exact||^2 / ||exact||^2, the measure of all benchmarks. */
export function relativeSquaredError(actual: Float32Array, exact: Float32Array): number {
  let difference = 0;
  let norm = 0;
  for (let n = 0; n < exact.length; n++) {
    difference += (actual[n]! - exact[n]!) ** 2;
    norm += exact[n]! ** 2;
  }
  return difference / norm;
}
