import { AttentionTile, type TileShape } from '../../../../custom-ops/runtime/web/attention-tile.wgsl.js';
import { BufferPool } from '../../../../custom-ops/runtime/web/buffer-pool.js';
import { GpuRecorder } from '../../../../custom-ops/runtime/web/gpu-recorder.js';
import { kernel, quads, storage, tensorRows } from '../../../../custom-ops/runtime/web/wgsl.js';
import { SeededRandom } from '../../../../custom-ops/seeded-random.js';
import { assertClose, SINGLE } from '../../../comparison.js';
import { testRunner } from './test-runner.js';

const [ROWS, KEYS] = [45, 37];

/** Attention of one head by the pieces of a tile; row r sees the keys that `r` does not divide. */
function attention(shape: TileShape, columns: number, valueColumns: number) {
  const tile = new AttentionTile(shape);
  const loadQuery = (row: string, quad: string) => `read_query(min(first + ${row}, ${ROWS - 1}u), ${quad})`;
  return {
    height: tile.height,
    kernel: kernel({
      label: 'attention by tiles',
      threads: tile.threads,
      parameters: { scale: 'f32' },
      bindings: {
        query: tensorRows('float32', columns),
        key: tensorRows('float32', columns),
        value: tensorRows('float32', valueColumns),
        output: storage('read_write', 'vec4<f32>'),
      },
      declarations: tile.declarations,
      body: `let first = group * ${tile.height}u;
${tile.start(valueColumns)}
${tile.loadQuery(columns, loadQuery)}
for (var base = 0u; base < ${KEYS}u; base += ${shape.keys}u) {
  ${tile.logits(columns, loadQuery, (key, quad) => `read_key(min(base + ${key}, ${KEYS - 1}u), ${quad})`)}
  ${tile.weights(
    valueColumns,
    () => 'params.scale',
    (r, key) => `base + ${key} < ${KEYS}u && (base + ${key}) % (first + ${tile.row(r)} + 2u) != 0u`,
  )}
  ${tile.accumulate(valueColumns, (key, quad) => `read_value(min(base + ${key}, ${KEYS - 1}u), ${quad})`)}
}
${tile.finishTotals}
${tile.eachSum(
  valueColumns,
  (sum, r, quad) => `if (first + ${tile.row(r)} < ${ROWS}u) {
  output[(first + ${tile.row(r)}) * ${quads(valueColumns)}u + ${quad}] = ${sum} / row_total[${r}];
}`,
)}`,
    }),
  };
}

/** The same in float64, value columns padded to fours as the kernel writes them. */
function expected(
  [query, key, value]: readonly [Float32Array, Float32Array, Float32Array],
  columns: number,
  valueColumns: number,
  scale: number,
): Float32Array {
  const width = 4 * quads(valueColumns);
  const output = new Float32Array(ROWS * width);
  for (let row = 0; row < ROWS; row++) {
    const weights = Array.from({ length: KEYS }, (_, j) => {
      let product = 0;
      for (let c = 0; c < columns; c++) product += query[row * columns + c]! * key[j * columns + c]!;
      return j % (row + 2) === 0 ? 0 : Math.exp(scale * product);
    });
    const total = weights.reduce((a, b) => a + b);
    for (let c = 0; c < valueColumns; c++) {
      const sum = weights.reduce((a, weight, j) => a + weight * value[j * valueColumns + c]!, 0);
      output[row * width + c] = sum / total;
    }
  }
  return output;
}

describe('tiles of attention kernels', () => {
  const runner = testRunner();

  for (const shape of [
    { across: 4, down: 4, keys: 8, depth: 2 },
    { across: 4, down: 2, keys: 4, depth: 8 },
    { across: 8, down: 2, keys: 16, depth: 1 },
  ]) {
    for (const [columns, valueColumns] of [
      [8, 16],
      [19, 35],
    ] as const) {
      const name = `${columns} and ${valueColumns} columns in ${JSON.stringify(shape)}`;
      it(`compute softmax attention: ${name}`, async () => {
        const random = SeededRandom.named(name);
        const tensor = (rows: number, size: number) => random.normals(rows * size);
        const inputs = [tensor(ROWS, columns), tensor(KEYS, columns), tensor(KEYS, valueColumns)] as const;
        const upload = (data: Float32Array) =>
          runner().upload('input', { type: 'float32', dims: [data.length], data }).range;
        const [query, key, value] = inputs.map(upload);
        const output = runner().allocate('output', {
          type: 'float32',
          dims: [ROWS, 4 * quads(valueColumns)],
        });
        const { kernel: compiled, height } = attention(shape, columns, valueColumns);
        const pool = new BufferPool(runner().device);
        const recorder = new GpuRecorder(runner().device, pool);
        recorder.dispatch(
          compiled,
          { scale: 0.5 },
          { query: query!, key: key!, value: value!, output: output.range },
          Math.ceil(ROWS / height),
        );
        recorder.submit();
        const { data } = await runner().download(output);
        assertClose(data as Float32Array, expected(inputs, columns, valueColumns, 0.5), SINGLE, 'output');
        pool.destroy();
      });
    }
  }
});
