import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import * as ort from 'onnxruntime-node';
import { DOMAIN } from '../../custom-ops/operator.js';
import type { NativeOperator } from '../../custom-ops/runtime/node/binding.js';
import { cudaRefusal } from '../../custom-ops/runtime/node/cuda-provider.js';
import {
  BACKEND_NAME,
  hookOnnxruntimeNode,
  InferenceSession,
  Tensor,
} from '../../custom-ops/runtime/node/index.js';
import { chooseKernels } from '../../custom-ops/runtime/node/placement.js';
import { toNative } from '../../custom-ops/runtime/node/session-options.js';
import { InputError } from '../../rewriter/errors.js';
import { DataType, type NodeSpec, type ValueSpec } from '../../rewriter/onnx/spec.js';
import { temporaryFolder } from '../temporary-folder.js';
import { nativeBuild } from './native-build.js';
import { addition, floats, model, vector } from './tiny-models.js';

const QUIET = { logSeverityLevel: 4 } as const;

/** Attention whose function body answers with the query, so that the output tells who computed it. */
function markedAttention(dataType: DataType, attributes: NodeSpec['attributes'] = {}): Uint8Array {
  const value = (name: string): ValueSpec => ({ name, dataType, dims: [1, 1, 'n', 2] });
  return model({
    nodes: [
      {
        opType: 'MultipoleAttention',
        domain: DOMAIN,
        name: 'attention',
        inputs: ['q', 'k', 'v'],
        outputs: ['y'],
        attributes,
      },
    ],
    inputs: ['q', 'k', 'v'].map(value),
    outputs: [value('y')],
    functions: [
      {
        domain: DOMAIN,
        name: 'MultipoleAttention',
        inputs: ['query', 'key', 'value'],
        outputs: ['output'],
        attributes: Object.keys(attributes),
        opsetImports: { '': 18 },
        nodes: [{ opType: 'Identity', inputs: ['query'], outputs: ['output'] }],
      },
    ],
  });
}

const QUERY = Float32Array.of(1, 2);
const attentionFeeds = () => ({
  q: new Tensor('float32', QUERY.slice(), [1, 1, 1, 2]),
  k: new Tensor('float32', Float32Array.of(1, 1), [1, 1, 1, 2]),
  v: new Tensor('float32', Float32Array.of(5, 6), [1, 1, 1, 2]),
});
const FROM_KERNEL = [5, 6];
const FROM_BODY = [1, 2];

/** Runs a module's text in a process of its own, with the runtime at hand as `runtime`. */
function runScript(text: string, env: NodeJS.ProcessEnv = {}): unknown {
  const runtime = new URL('../../custom-ops/runtime/node/index.js', import.meta.url);
  const script = `const runtime = await import(${JSON.stringify(runtime.href)}); ${text}`;
  const run = spawnSync(process.execPath, ['--input-type=module', '--eval', script], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
  });
  assert.equal(run.status, 0, run.stderr);
  return JSON.parse(run.stdout.trim().split('\n').at(-1)!);
}

describe('sessions for Node', () => {
  const folder = temporaryFolder();

  before(function () {
    this.timeout(600_000);
    nativeBuild(this);
  });

  async function within<T>(
    source: Uint8Array | string,
    use: (session: InferenceSession) => Promise<T> | T,
    options: ort.InferenceSession.SessionOptions = {},
  ): Promise<T> {
    const session =
      typeof source === 'string'
        ? await InferenceSession.create(source, { ...QUIET, ...options })
        : await InferenceSession.create(source, { ...QUIET, ...options });
    try {
      return await use(session);
    } finally {
      await session.release();
    }
  }

  describe('tensors', () => {
    const cases: readonly [ort.Tensor.Type, DataType, ort.Tensor.DataType][] = [
      ['float32', DataType.FLOAT, Float32Array.of(1.5, -2, Number.NaN)],
      ['float64', DataType.DOUBLE, Float64Array.of(1.5, -2, 1e300)],
      [
        'float16',
        DataType.FLOAT16,
        new ort.Tensor('float16', new Uint16Array([0x3c00, 0xc000, 1]), [3]).data,
      ],
      ['int8', DataType.INT8, Int8Array.of(1, -2, 127)],
      ['uint8', DataType.UINT8, Uint8Array.of(1, 2, 255)],
      ['int16', DataType.INT16, Int16Array.of(1, -2, 3)],
      ['uint16', DataType.UINT16, Uint16Array.of(1, 2, 65535)],
      ['int32', DataType.INT32, Int32Array.of(1, -2, 3)],
      ['uint32', DataType.UINT32, Uint32Array.of(1, 2, 3)],
      ['int64', DataType.INT64, BigInt64Array.of(1n, -2n, 2n ** 60n)],
      ['uint64', DataType.UINT64, BigUint64Array.of(1n, 2n, 2n ** 63n)],
      ['bool', DataType.BOOL, Uint8Array.of(1, 0, 1)],
      ['string', DataType.STRING, ['a', '', 'ünïcode\u{1f600}']],
    ];
    for (const [type, dataType, data] of cases) {
      it(`pass through: ${type}`, async () => {
        const source = model({
          nodes: [{ opType: 'Identity', inputs: ['x'], outputs: ['y'] }],
          inputs: [vector('x', dataType)],
          outputs: [vector('y', dataType)],
        });
        await within(source, async session => {
          assert.deepEqual(session.inputMetadata, [{ name: 'x', isTensor: true, type, shape: ['n'] }]);
          for (const length of [3, 0]) {
            const given = data.slice(0, length) as ort.Tensor.DataType;
            const results = [
              await session.run({ x: new Tensor(type, given, [length]) }),
              session.runSync({ x: new Tensor(type, given, [length]) }),
            ];
            for (const { y } of results) {
              assert.ok(y instanceof ort.Tensor);
              assert.equal(y.type, type);
              assert.deepEqual(y.dims, [length]);
              assert.deepEqual(y.data, given);
            }
          }
        });
      });
    }

    it('are read where they are', async () => {
      await within(addition(), session => {
        const a = floats(1, 2);
        assert.deepEqual([...(session.runSync({ a, b: floats(1, 1) }).c!.data as Float32Array)], [2, 3]);
        (a.data as Float32Array)[0] = 10;
        assert.deepEqual([...(session.runSync({ a, b: floats(1, 1) }).c!.data as Float32Array)], [11, 3]);
      });
    });

    it('are written where the caller says', async () => {
      await within(addition(), async session => {
        for (const run of [session.run.bind(session), session.runSync.bind(session)]) {
          const c = floats(0, 0);
          const results = await run({ a: floats(1, 2), b: floats(3, 4) }, { c });
          assert.equal(results.c, c);
          assert.deepEqual([...(c.data as Float32Array)], [4, 6]);
        }
      });
    });

    it('outlive their session', async () => {
      const { c } = await within(addition(), session => session.run({ a: floats(1, 2), b: floats(3, 4) }));
      assert.deepEqual([...(c!.data as Float32Array)], [4, 6]);
    });
  });

  it('look like onnxruntime-node’s', async () => {
    const theirs = await ort.InferenceSession.create(addition());
    await within(addition(), session => {
      for (const property of ['inputNames', 'outputNames', 'inputMetadata', 'outputMetadata'] as const) {
        assert.deepEqual(session[property], theirs[property]);
      }
      assert.deepEqual(session.onnxRewrite, { native: true, reason: null, placement: [] });
    });
    await theirs.release();
  });

  it('open files, buffers and parts of buffers', async () => {
    const bytes = addition();
    const file = join(folder(), 'model.onnx');
    writeFileSync(file, bytes);
    const padded = new Uint8Array(bytes.length + 20);
    padded.set(bytes, 10);
    const sessions = [
      await InferenceSession.create(file),
      await InferenceSession.create(bytes),
      await InferenceSession.create(padded.buffer, 10, bytes.length),
      await InferenceSession.create(padded.buffer, 10, bytes.length, { intraOpNumThreads: 1 }),
    ];
    for (const session of sessions) {
      const { c } = await session.run({ a: floats(1), b: floats(2) });
      assert.deepEqual([...(c!.data as Float32Array)], [3]);
      await session.release();
    }
  });

  describe('options', () => {
    it('reach ONNX Runtime', async () => {
      const optimized = join(folder(), 'optimized.onnx');
      await within(
        addition(),
        session => {
          assert.deepEqual(session.inputMetadata[0], {
            name: 'a',
            isTensor: true,
            type: 'float32',
            shape: [5],
          });
          session.endProfiling();
        },
        {
          intraOpNumThreads: 2,
          interOpNumThreads: 1,
          executionMode: 'sequential',
          graphOptimizationLevel: 'basic',
          freeDimensionOverrides: { n: 5 },
          optimizedModelFilePath: optimized,
          enableCpuMemArena: false,
          enableMemPattern: false,
          enableProfiling: true,
          profileFilePrefix: join(folder(), 'profile'),
          logId: 'test',
          executionProviders: ['cpu'],
          extra: { session: { set_denormal_as_zero: '1' } },
        },
      );
      assert.ok(existsSync(optimized));
    });

    it('let the CUDA provider capture graphs, by either name', () => {
      const cuda = { name: 'CUDA', settings: ['enable_cuda_graph', '1'] };
      const captured = toNative({ executionProviders: ['cuda'], enableGraphCapture: true });
      assert.deepEqual([captured.graphDevice, captured.providers], [0, [cuda]]);
      const second = { name: 'cuda', deviceId: 1, enableCudaGraph: true };
      assert.equal(toNative({ executionProviders: [second] }).graphDevice, 1);
      for (const options of [
        { executionProviders: ['cuda'] },
        { executionProviders: ['cpu'], enableGraphCapture: true },
        { executionProviders: [{ ...second, enableCudaGraph: false }] },
      ]) {
        assert.equal(toNative(options).graphDevice, undefined);
      }
    });

    it('that mean nothing are refused', async () => {
      const bad: readonly ort.InferenceSession.SessionOptions[] = [
        { intraOpNumThreads: -1 },
        { graphOptimizationLevel: 'most' as 'all' },
        { executionMode: 'random' as 'parallel' },
        { executionProviders: ['nothing'] },
      ];
      for (const options of bad)
        await assert.rejects(InferenceSession.create(addition(), options), InputError);
    });
  });

  describe('errors', () => {
    it('of opening say what is wrong', async () => {
      await assert.rejects(InferenceSession.create(join(folder(), 'none.onnx')), /no such file/);
      await assert.rejects(InferenceSession.create(Uint8Array.of(1, 2, 3)), InputError);
      const unknown = model({
        nodes: [{ opType: 'NoSuchOperator', inputs: ['a'], outputs: ['c'] }],
        inputs: [vector('a')],
        outputs: [vector('c')],
      });
      await assert.rejects(InferenceSession.create(unknown, QUIET), /NoSuchOperator/);
    });

    it('of a CUDA provider that is not there name the remedy', async function () {
      try {
        await within(addition(), () => {}, { executionProviders: ['cuda'] });
      } catch (error) {
        assert.ok(error instanceof InputError, String(error));
        assert.match(error.message, /CUDA execution provider does not load/);
        assert.match(error.details.remedy ?? '', /onnxruntime-node-install=cuda12/);
        return;
      }
      console.log('the CUDA execution provider is there: its absence is not tested');
      this.skip();
    });

    it('of CUDA name what is wrong and the remedy', () => {
      const remedyFor = (message: string) => cudaRefusal(new Error(message))?.details.remedy ?? '';
      assert.match(
        remedyFor('OrtSessionOptionsAppendExecutionProvider_Cuda: Failed to load shared library'),
        /onnxruntime-node-install/,
      );
      assert.match(remedyFor('CUDA failure 100: no CUDA-capable device is detected'), /CUDA_VISIBLE_DEVICES/);
      assert.match(
        remedyFor('This session cannot use the graph capture feature as requested'),
        /enableGraphCapture/,
      );
      assert.equal(remedyFor('no such file'), '');
    });

    it('of tensors for a GPU, without one, say so', async () => {
      await within(addition(), async session => {
        await assert.rejects(session.upload(floats(1)), /not on CUDA/);
        const elsewhere = Tensor.fromGpuBuffer({} as ort.Tensor.GpuBufferType, {
          dataType: 'float32',
          dims: [1],
        });
        await assert.rejects(session.run({ a: elsewhere, b: floats(1) }), /"a" is on gpu-buffer/);
      });
    });

    it('of running say what is wrong', async () => {
      await within(addition(), async session => {
        const feeds = { a: floats(1, 2), b: floats(1, 2) };
        const integers = new Tensor('int32', Int32Array.of(1), [1]);
        const cases: readonly [RegExp, () => unknown][] = [
          [/input 'b' is missing/, () => session.run({ a: floats(1) })],
          [/input 'b' is missing/, () => session.runSync({ a: floats(1) })],
          [/invalid output name/, () => session.run(feeds, ['nothing'])],
          [/invalid output name/, () => session.runSync(feeds, ['nothing'])],
          [/Unexpected input data type/, () => session.run({ ...feeds, b: integers }, QUIET)],
          [/Unexpected input data type/, () => session.runSync({ ...feeds, b: integers }, ['c'], QUIET)],
          [/"b" is not a Tensor/, () => session.runSync({ ...feeds, b: 5 as unknown as ort.Tensor })],
          [/BroadcastIterator|broadcast/, () => session.run({ a: floats(1, 2), b: floats(1, 2, 3) }, QUIET)],
        ];
        for (const [message, action] of cases) await assert.rejects(async () => action(), message);
      });
    });

    it('follow release, which waits for runs in flight', async () => {
      const session = await InferenceSession.create(addition());
      const flight = session.run({ a: floats(1), b: floats(2) });
      await session.release();
      assert.deepEqual([...((await flight).c!.data as Float32Array)], [3]);
      await assert.rejects(session.run({ a: floats(1), b: floats(2) }), /released/);
    });
  });

  describe('placement', () => {
    it('tells a build without CUDA kernels from an operator without one', () => {
      const reasonFor = (available: readonly NativeOperator[]) =>
        chooseKernels([{ node: 'n', operator: 'Ours' }], available, 'cuda').refusals.get('Ours') ?? '';
      assert.match(reasonFor([]), /build:cuda/);
      const other = { name: 'Other', executionProvider: 'CUDAExecutionProvider', type: DataType.FLOAT };
      assert.equal(reasonFor([other as NativeOperator]), 'no cuda kernel in the native build');
    });

    it('is native where a kernel covers the operator', async () => {
      await within(markedAttention(DataType.FLOAT), async session => {
        assert.deepEqual(session.onnxRewrite.placement, [
          { node: 'attention', operator: 'MultipoleAttention', executedBy: 'native-kernel', reason: null },
        ]);
        assert.deepEqual([...((await session.run(attentionFeeds())).y!.data as Float32Array)], FROM_KERNEL);
      });
    });

    it('is the function body where the element type has no kernel', async () => {
      await within(markedAttention(DataType.DOUBLE), session => {
        const [placement] = session.onnxRewrite.placement;
        assert.equal(placement?.executedBy, 'function-body');
        assert.match(placement?.reason ?? '', /double/);
      });
    });

    it('is the function body where the kernel refuses the attributes', async () => {
      const source = markedAttention(DataType.FLOAT, {
        key_grouping: { type: 'string', value: 'alphabetical' },
      });
      await within(source, async session => {
        const [placement] = session.onnxRewrite.placement;
        assert.equal(placement?.executedBy, 'function-body');
        assert.match(placement?.reason ?? '', /unknown key_grouping/);
        assert.deepEqual([...((await session.run(attentionFeeds())).y!.data as Float32Array)], FROM_BODY);
      });
    });

    it('looks into subgraphs and functions', async () => {
      const inner: NodeSpec = {
        opType: 'MultipoleAttention',
        domain: DOMAIN,
        name: 'inner',
        inputs: ['q', 'q', 'q'],
        outputs: ['z'],
      };
      const value = (name: string): ValueSpec => ({ name, dataType: DataType.FLOAT, dims: [1, 1, 'n', 2] });
      const branch = (nodes: readonly NodeSpec[], name: string) => ({
        type: 'graph' as const,
        value: { name, nodes, inputs: [], outputs: [value('z')] },
      });
      const source = model({
        nodes: [
          {
            opType: 'If',
            inputs: ['condition'],
            outputs: ['y'],
            attributes: {
              then_branch: branch([inner], 'then'),
              else_branch: branch([{ opType: 'Identity', inputs: ['q'], outputs: ['z'] }], 'else'),
            },
          },
        ],
        inputs: [{ name: 'condition', dataType: DataType.BOOL, dims: [] }, value('q')],
        outputs: [value('y')],
      });
      await within(source, session => {
        assert.deepEqual(
          session.onnxRewrite.placement.map(({ node, executedBy }) => [node, executedBy]),
          [['inner', 'native-kernel']],
        );
      });
    });
  });

  describe('beside onnxruntime-node', () => {
    const source = () => markedAttention(DataType.FLOAT);
    const answer = async (session: ort.InferenceSession) => {
      const { y } = await session.run(attentionFeeds());
      await session.release();
      return [...(y!.data as Float32Array)];
    };

    it('leave its own sessions to function bodies', async () => {
      assert.deepEqual(await answer(await InferenceSession.create(source())), FROM_KERNEL);
      assert.deepEqual(await answer(await ort.InferenceSession.create(source())), FROM_BODY);
    });

    it('are a backend of onnxruntime-common', async () => {
      for (const executionProviders of [
        [BACKEND_NAME],
        [{ name: BACKEND_NAME, executionProviders: ['cpu'] }],
      ]) {
        assert.deepEqual(
          await answer(await ort.InferenceSession.create(source(), { executionProviders })),
          FROM_KERNEL,
        );
      }
    });

    it('take over models with our operators when hooked in, and no others', async () => {
      const undo = hookOnnxruntimeNode();
      try {
        assert.deepEqual(await answer(await ort.InferenceSession.create(source())), FROM_KERNEL);
        const other = await ort.InferenceSession.create(addition());
        assert.deepEqual(
          [...((await other.run({ a: floats(1), b: floats(2) })).c!.data as Float32Array)],
          [3],
        );
      } finally {
        undo();
      }
      assert.deepEqual(await answer(await ort.InferenceSession.create(source())), FROM_BODY);
    });

    const withoutBuild = (native: string, reason: RegExp) => {
      const file = join(folder(), 'model.onnx');
      writeFileSync(file, source());
      const [report, y] = runScript(
        `const session = await runtime.InferenceSession.create(${JSON.stringify(file)});
         const tensor = values => new runtime.Tensor('float32', Float32Array.from(values), [1, 1, 1, 2]);
         const { y } = await session.run({ q: tensor([1, 2]), k: tensor([1, 1]), v: tensor([5, 6]) });
         console.log(JSON.stringify([session.onnxRewrite, [...y.data]]));`,
        { ONNX_REWRITE_NATIVE: native },
      ) as [InferenceSession['onnxRewrite'], number[]];
      assert.deepEqual(y, FROM_BODY);
      assert.equal(report.native, false);
      assert.match(report.reason ?? '', reason);
      assert.equal(report.placement[0]?.executedBy, 'function-body');
    };

    it('become its sessions without a native build, and say so', () =>
      withoutBuild(folder(), /npm run build:native/));

    it('become its sessions where native parts are not wanted, and say so', () =>
      withoutBuild('none', /ONNX_REWRITE_NATIVE/));
  });

  it('work in worker threads, and end with them', async () => {
    const runtime = new URL('../../custom-ops/runtime/node/index.js', import.meta.url).href;
    const code = `
      const { parentPort, workerData } = require('node:worker_threads');
      (async () => {
        const { InferenceSession, Tensor } = await import(${JSON.stringify(runtime)});
        const session = await InferenceSession.create(workerData);
        const tensor = value => new Tensor('float32', Float32Array.of(value), [1]);
        const { c } = await session.run({ a: tensor(1), b: tensor(2) });
        parentPort.postMessage(c.data[0]);
      })();`;
    const answers = await Promise.all(
      Array.from(
        { length: 3 },
        () =>
          new Promise((resolve, reject) => {
            const worker = new Worker(code, { eval: true, workerData: addition() });
            let answer: unknown;
            worker.once('message', message => {
              answer = message;
            });
            worker.once('error', reject);
            worker.once('exit', code => resolve([code, answer]));
          }),
      ),
    );
    assert.deepEqual(answers, [
      [0, 3],
      [0, 3],
      [0, 3],
    ]);
    await within(addition(), async session => {
      assert.deepEqual(
        [...((await session.run({ a: floats(1), b: floats(2) })).c!.data as Float32Array)],
        [3],
      );
    });
  });

  it('run side by side', async () => {
    const sessions = await Promise.all(Array.from({ length: 8 }, () => InferenceSession.create(addition())));
    const runs = sessions.flatMap((session, n) =>
      Array.from({ length: 10 }, (_, m) => session.run({ a: floats(n), b: floats(m) })),
    );
    const results = await Promise.all(runs);
    results.forEach(({ c }, at) => {
      assert.equal((c!.data as Float32Array)[0], Math.floor(at / 10) + (at % 10));
    });
    await Promise.all(sessions.map(session => session.release()));
  });

  it('leave the event loop free', async () => {
    const source = model({
      nodes: [{ opType: 'MatMul', inputs: ['a', 'a'], outputs: ['c'] }],
      inputs: [{ name: 'a', dataType: DataType.FLOAT, dims: ['n', 'n'] }],
      outputs: [{ name: 'c', dataType: DataType.FLOAT, dims: ['n', 'n'] }],
    });
    const size = 2000;
    await within(
      source,
      async session => {
        const a = new Tensor('float32', new Float32Array(size * size).fill(1e-3), [size, size]);
        let ticks = 0;
        const timer = setInterval(() => ticks++, 1);
        await session.run({ a });
        clearInterval(timer);
        assert.ok(ticks >= 5, `${ticks} ticks of the event loop during a run`);
      },
      { intraOpNumThreads: 1 },
    );
  });

  it('give memory back, whatever the shapes', async function () {
    this.timeout(60_000);
    const report = runScript(`
      const bytes = Buffer.from(${JSON.stringify(Buffer.from(markedAttention(DataType.FLOAT)).toString('base64'))}, 'base64');
      const session = await runtime.InferenceSession.create(new Uint8Array(bytes), { intraOpNumThreads: 2 });
      const peaks = [];
      for (let n = 0; n < 3000; n++) {
        const length = 1 + (n * 37) % 400;
        const tensor = () => new runtime.Tensor('float32', new Float32Array(length * 2).fill(0.5), [1, 1, length, 2]);
        await session.run({ q: tensor(), k: tensor(), v: tensor() });
        if (n % 500 === 499) peaks.push(process.memoryUsage.rss());
      }
      await session.release();
      console.log(JSON.stringify(peaks));`) as number[];
    const [first = 0] = report.slice(2);
    const growth = Math.max(...report.slice(3)) - first;
    assert.ok(growth < 24 * 2 ** 20, `resident memory grew by ${growth} bytes: ${report}`);
  });
});
