import assert from 'node:assert/strict';
import { BufferPool } from '../../../../custom-ops/runtime/web/buffer-pool.js';
import type { GpuTensor, WebGpuOperator } from '../../../../custom-ops/runtime/web/node.js';
import { OperatorCall } from '../../../../custom-ops/runtime/web/operator-call.js';
import { kernel, storage } from '../../../../custom-ops/runtime/web/wgsl.js';
import { SeededRandom } from '../../../../custom-ops/seeded-random.js';
import { testRunner } from './test-runner.js';

const addTable = kernel({
  label: 'addition of a table',
  parameters: { count: 'u32' },
  bindings: {
    given: storage('read', 'f32'),
    table: storage('read', 'u32'),
    sums: storage('read_write', 'f32'),
  },
  body: `let i = group * 256u + thread;
if (i < params.count) { sums[i] += given[i] + f32(table[i % 2u]); }`,
});

/** Adds 3 and 5 in turns to its input, by way of scratch memory that has to be cleared, and a copy. */
const ALTERNATE: WebGpuOperator = {
  opType: 'Alternate',
  float32Outputs: new Set(),
  refusal: () => null,
  outputDims: (_, [dims]) => [dims!],
  record(recorder, _, [input], [output]) {
    const count = input!.dims[0]!;
    const sums = recorder.scratch('sums', 4 * count);
    recorder.clear(sums);
    const table = recorder.table('table', Uint32Array.of(3, 5));
    recorder.dispatch(addTable, { count }, { given: input!.range, table, sums }, Math.ceil(count / 256));
    recorder.copy({ ...sums, bytes: 4 * count }, output!.range);
  },
};

describe('an operator that runs again and again', () => {
  const runner = testRunner();
  const random = new SeededRandom(71);
  let pool: BufferPool;
  let call: OperatorCall;
  let recorded = 0;
  const tensors: GpuTensor[] = [];

  beforeEach(() => {
    recorded = 0;
    pool = new BufferPool(runner().device);
    const record: WebGpuOperator['record'] = (...given) => {
      recorded++;
      ALTERNATE.record(...given);
    };
    call = new OperatorCall({ ...ALTERNATE, record }, {});
  });

  afterEach(() => {
    call.forget();
    pool.destroy();
    for (const { range } of tensors.splice(0)) range.buffer.destroy();
  });

  function randomTensor(count: number): GpuTensor {
    tensors.push(runner().upload('numbers', { type: 'float32', dims: [count], data: random.normals(count) }));
    return tensors.at(-1)!;
  }

  const read = async (tensor: GpuTensor) => (await runner().download(tensor)).data as Float32Array;

  async function assertAlternated(output: GpuTensor, input: GpuTensor): Promise<void> {
    const expected = (await read(input)).map((number, i) => number + [3, 5][i % 2]!);
    assert.deepEqual(await read(output), expected);
  }

  it('is recorded once for the same tensors, whatever has been in its scratch memory and outputs since', async () => {
    const [input, other, output] = [randomTensor(600), randomTensor(600), randomTensor(600)];
    for (let run = 0; run < 3; run++) {
      call.submit(pool, [input], [output]);
      await assertAlternated(output, input);
      const second = new OperatorCall(ALTERNATE, {});
      second.submit(pool, [other], [output]);
      second.forget();
      await assertAlternated(output, other);
    }
    assert.equal(recorded, 1);
  });

  it('sees what has been written into the same input', async () => {
    const [input, output] = [randomTensor(600), randomTensor(600)];
    call.submit(pool, [input], [output]);
    runner().device.queue.writeBuffer(input.range.buffer, 0, Float32Array.from(random.normals(600)));
    call.submit(pool, [input], [output]);
    assert.equal(recorded, 1);
    await assertAlternated(output, input);
  });

  it('is recorded once for other tensors of the same shape, and again for other dims of the same memory', async () => {
    const [input, other, output] = [randomTensor(600), randomTensor(600), randomTensor(600)];
    for (const [from, to] of [
      [input, output],
      [other, output],
      [output, input],
      [other, input],
    ] as const) {
      call.submit(pool, [from], [to]);
      await assertAlternated(to, from);
    }
    assert.equal(recorded, 1);
    const [shortInput, shortOutput] = [other, output].map(tensor => ({ ...tensor, dims: [300] }));
    call.submit(pool, [shortInput!], [shortOutput!]);
    await assertAlternated(shortOutput!, shortInput!);
    assert.equal(recorded, 2);
  });

  it('is recorded again when tensors share memory that did not before, and the other way around', async () => {
    const [input, output] = [randomTensor(600), randomTensor(600)];
    call.submit(pool, [input], [output]);
    const expected = await read(output);
    call.submit(pool, [input], [input]);
    assert.deepEqual(await read(input), expected);
    call.submit(pool, [input], [output]);
    await assertAlternated(output, input);
    assert.equal(recorded, 3);
  });

  it('is recorded again when another holds its scratch memory, or when that is gone', async () => {
    const [input, output] = [randomTensor(600), randomTensor(600)];
    call.submit(pool, [input], [output]);
    const held = pool.acquire('sums', 2400);
    call.submit(pool, [input], [output]);
    assert.equal(recorded, 2);
    pool.release(held);
    // Nothing is free that was used since the trim before.
    pool.trim();
    pool.trim();
    call.submit(pool, [input], [output]);
    assert.equal(recorded, 3);
    await assertAlternated(output, input);
  });

  it('holds memory for its last run only, and none once it is forgotten', () => {
    const [short, long] = [
      [randomTensor(600), randomTensor(600)],
      [randomTensor(6000), randomTensor(6000)],
    ] as const;
    const held: number[] = [];
    for (let run = 0; run < 200; run++) {
      const [input, output] = run % 2 === 0 ? short : long;
      call.submit(pool, [input], [output]);
      pool.trim();
      held.push(pool.bytes);
    }
    assert(held[19]! > 0);
    assert.deepEqual(held.slice(-2), held.slice(18, 20));
    call.forget();
    pool.trim();
    pool.trim();
    assert.equal(pool.bytes, 0);
  });
});
