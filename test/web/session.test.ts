import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import type { Browser, Page } from 'playwright-core';
import { OPERATORS } from '../../custom-ops/index.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { decodeModel } from '../../rewriter/onnx/decode.js';
import { DataType } from '../../rewriter/onnx/spec.js';
import { decideUniformly } from '../../rewriter/plan.js';
import { rewriteModel } from '../../rewriter/rewrite-model.js';
import { tinyTransformer } from '../cli/tiny-transformer.js';
import { attention, attentionModel, heads, MULTIPOLE } from '../custom-ops/runtime/web/attention-graph.js';
import { node } from '../rewriter/onnx/builders.js';
import { NO_BROWSER, ONNXRUNTIME_WEB, openBrowser, showErrors, TestServer } from './browser.js';
import { bundle, loadedBytes, ONNXRUNTIME_PATH } from './bundle.js';
import type * as PageModule from './page.js';
import type { PageFeeds, PageResult, PageTensor } from './page.js';

const TOLERANCE = 1e-4;
const TRAINED_TOLERANCE = 1e-5;
const MAX_COMPRESSED_BYTES = 60_000;

const compiled = (path: string) => fileURLToPath(new URL(path, import.meta.url));

/** Small enough for a software GPU, with a far field at a few dozen tokens. */
const SETTINGS = { segment: 16, window: 0, key_clusters: 4, query_clusters: 8, retrieve: [3], group: 16 };

/** Bytes for the trained models: three segments. */
const TRAINED_LENGTH = 48;

function rewritten(original: Uint8Array, settings = {}): Uint8Array {
  const { model, decisions } = rewriteModel(original, sites =>
    decideUniformly(
      sites,
      {
        operator: OPERATORS[0]!,
        settings: { ...SETTINGS, exact_below: 0, ...settings },
        selects: () => true,
      },
      null,
    ),
  );
  assert(decisions.every(({ replacement }) => replacement !== null));
  return model;
}

/** A model of the tree with every site that computes what an operator does replaced by that operator. */
function fused(path: string): Uint8Array {
  return exactly(readFileSync(new URL(`../../../${path}.onnx`, import.meta.url)));
}

function exactly(original: Uint8Array): Uint8Array {
  const { model, decisions } = rewriteModel(original, sites =>
    decideUniformly(
      sites,
      { operator: OPERATORS[0]!, fusions: OPERATORS, settings: {}, selects: () => true },
      null,
    ),
  );
  assert(decisions.every(({ replacement }) => replacement !== null));
  return model;
}

/** Without query clusters and retrieval there is no choice that rounding in the layers before could turn. */
const NO_CHOICES = { query_clusters: 1, retrieve: [0] };
const CAUSAL = { selection: 'sliding', group: 8 };

const trained = (name: string): Uint8Array =>
  readFileSync(new URL(`../../../models/byte-lm/${name}.onnx`, import.meta.url));

const cast = (input: string, output: string, to: DataType) =>
  node('Cast', [input], [output], { to: { type: 'int', value: to } });

/** A model whose weights are in a file beside it, and the file. */
const external = tinyTransformer({ mask: DataType.BOOL, externalData: 'model.onnx_data' });

const MODELS = {
  '/encoder.onnx': rewritten(tinyTransformer({ mask: DataType.BOOL }).model),
  '/external.onnx': rewritten(external.model),
  '/causal.onnx': rewritten(tinyTransformer({ causal: true }).model, CAUSAL),
  '/byte-encoder.onnx': rewritten(trained('encoder'), NO_CHOICES),
  '/byte-causal.onnx': rewritten(trained('causal'), { ...CAUSAL, ...NO_CHOICES }),
  '/window.onnx': exactly(tinyTransformer({ layers: 1, causal: true, window: 9 }).model),
  '/series.onnx': fused('test/zoo/elementwise/series-padded-dynamo18'),
  '/series-causal.onnx': fused('test/zoo/elementwise/series-cumsum-dynamo18'),
  '/exponential.onnx': fused('test/zoo/elementwise/exact-causal-dynamo18'),
  '/multi-level.onnx': fused('test/zoo/multi-level/where-and-split-dynamo18'),
  '/trained-multi-level.onnx': fused('models/structured-attention/multi-level'),
  '/half.onnx': attentionModel(
    {
      name: 'half',
      inputs: [heads('q'), heads('k'), heads('v')],
      outputs: [heads('y')],
      nodes: [
        cast('q', 'half', DataType.FLOAT16),
        node('Neg', ['half'], ['negative']),
        cast('negative', 'query', DataType.FLOAT),
        attention(['query', 'k', 'v'], ['y'], MULTIPOLE),
      ],
    },
    MULTIPOLE,
  ),
  '/exact.onnx': attentionModel({
    name: 'exact',
    inputs: [heads('q'), heads('k'), heads('v')],
    outputs: [heads('y')],
    nodes: [attention(['q', 'k', 'v'], ['y'])],
  }),
  '/attention.onnx': attentionModel(
    {
      name: 'attention',
      inputs: [heads('q'), heads('k'), heads('v')],
      outputs: [heads('y')],
      nodes: [attention(['q', 'k', 'v'], ['y'], MULTIPOLE)],
    },
    MULTIPOLE,
  ),
};

/**
 * Nodes that compute sines and cosines of positions. WGSL lets devices be wrong by 2^-11 there, and the software GPU is by
 * 2e-4, for which no operator of this project can be blamed: on the CPU they are as in the result compared with.
 */
const anglesOf = (model: Uint8Array): string[] =>
  decodeModel(model)
    .graph.nodes.filter(({ opType }) => opType === 'Sin' || opType === 'Cos')
    .map(({ name }) => name);

const PAGE = '<!doctype html><title>test</title><link rel="icon" href="data:,">';

/** Without the optimizations that round activations to the int8 of the weights. */
async function onCpu(model: Uint8Array, feeds: PageFeeds): Promise<PageFeeds> {
  const session = await InferenceSession.create(model, {
    logSeverityLevel: 3,
    graphOptimizationLevel: 'basic',
  });
  const results = await session.run(
    Object.fromEntries(
      Object.entries(feeds).map(([name, { type, dims, data }]) => [
        name,
        type === 'int64'
          ? new Tensor(type, BigInt64Array.from(data, BigInt), dims)
          : type === 'bool'
            ? new Tensor(type, Uint8Array.from(data), dims)
            : new Tensor(type, Float32Array.from(data), dims),
      ]),
    ),
  );
  return Object.fromEntries(
    Object.entries(results).map(([name, value]) => {
      const { type, dims, data } = value as Tensor;
      return [name, { type: type as PageTensor['type'], dims, data: Array.from(data as Float32Array) }];
    }),
  );
}

function assertClose(actual: PageFeeds, expected: PageFeeds): void {
  assert.deepEqual(Object.keys(actual), Object.keys(expected));
  for (const [name, { dims, data }] of Object.entries(expected)) {
    assert.deepEqual(actual[name]!.dims, dims);
    data.forEach((number, n) => {
      const error = Math.abs(actual[name]!.data[n]! - number);
      assert(error < TOLERANCE, `${name}[${n}] is ${actual[name]!.data[n]}, not ${number}`);
    });
  }
}

/** Relative error of all elements, and of the worst one in units of the largest. */
function distance(actual: PageTensor, expected: PageTensor): { relative: number; largest: number } {
  assert.deepEqual(actual.dims, expected.dims);
  const errors = expected.data.map((number, n) => Math.abs(actual.data[n]! - number));
  const norm = (values: readonly number[]) => Math.sqrt(values.reduce((sum, value) => sum + value ** 2, 0));
  const most = (values: readonly number[]) => values.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
  return {
    relative: norm(errors) / norm(expected.data),
    largest: most(errors) / most(expected.data),
  };
}

describe('a session in the browser', () => {
  const random = new SeededRandom(11);
  const bytes = (batch: number, length: number): PageTensor => ({
    type: 'int64',
    dims: [batch, length],
    data: Array.from({ length: batch * length }, () => Math.floor(256 * random.uniform())),
  });
  const normals = (tokens: number): PageTensor => ({
    type: 'float32',
    dims: [1, 2, tokens, 4],
    data: Array.from(random.normals(8 * tokens)),
  });
  const qkv = (tokens: number) => ({ q: normals(tokens), k: normals(tokens), v: normals(tokens) });

  let folder = '';
  let server: TestServer;
  let browser: Browser;
  let page: Page;

  before(async function () {
    if (NO_BROWSER) {
      console.log(`      ${NO_BROWSER}`);
      return this.skip();
    }
    folder = await mkdtemp(join(tmpdir(), 'onnx-rewrite-web-'));
    await bundle(compiled('./page.js'), folder);
    server = await TestServer.start(
      { [ONNXRUNTIME_PATH]: `${ONNXRUNTIME_WEB}/`, '/': `${folder}/` },
      {
        '/': PAGE,
        ...MODELS,
        '/model.onnx_data': external.weights,
        '/cut.onnx_data': external.weights.subarray(8),
      },
    );
    browser = await openBrowser({ webgpu: true });
    page = await openPage(browser);
  });

  after(async () => {
    await browser?.close();
    await server?.stop();
    if (folder) await rm(folder, { recursive: true });
  });

  async function openPage(inBrowser: Browser): Promise<Page> {
    const opened = await inBrowser.newPage();
    showErrors(opened);
    await opened.goto(server.address);
    return opened;
  }

  const run = (
    model: keyof typeof MODELS,
    feeds: readonly PageFeeds[],
    options: {
      together?: boolean;
      logSeverityLevel?: 3;
      executionProviders?: readonly (string | { name: 'webgpu'; forceCpuNodeNames: readonly string[] })[];
      externalData?: readonly (string | { path: string; data: string })[];
    } = {},
    on = page,
  ): Promise<PageResult> =>
    on.evaluate(
      async ([path, given, chosen]) => {
        const module = (await import('/bundle.js' as string)) as typeof PageModule;
        return module.runModel(path, given, chosen);
      },
      [model, feeds, options] as const,
    );

  const counted = (batch: number, tokens: number): PageTensor => ({
    type: 'int64',
    dims: [batch, tokens],
    data: Array.from({ length: batch * tokens }, (_, n) => (37 * n) % 251),
  });

  /** The logits of a trained model on `kernels` kernels are those of the CPU. */
  const assertAgrees = async (name: keyof typeof MODELS, feed: PageFeeds, kernels: number) => {
    const model = MODELS[name];
    const { execution, outputs } = await run(name, [feed], {
      executionProviders: [{ name: 'webgpu', forceCpuNodeNames: anglesOf(model) }],
    });
    assert.deepEqual([execution.provider, execution.kernels, execution.reason], ['webgpu', kernels, null]);
    const { relative, largest } = distance(outputs[0]!.logits!, (await onCpu(model, feed)).logits!);
    assert(relative < TRAINED_TOLERANCE, `${relative}`);
    assert(largest < TRAINED_TOLERANCE, `an element: ${largest}`);
  };

  it('gives the CPU results at any length and batch, its operators on WebGPU kernels', async () => {
    const mask = (batch: number, length: number): PageTensor => ({
      type: 'bool',
      dims: [batch, length],
      data: Array.from({ length: batch * length }, (_, n) =>
        Number(n % length < length - 3 * Math.floor(n / length)),
      ),
    });
    const feeds = [
      { input_ids: bytes(1, 64), attention_mask: mask(1, 64) },
      { input_ids: bytes(2, 37), attention_mask: mask(2, 37) },
      { input_ids: bytes(1, 1), attention_mask: mask(1, 1) },
    ];
    const { execution, notices, outputs } = await run('/encoder.onnx', feeds);
    assert.deepEqual(execution, {
      provider: 'webgpu',
      kernels: 2,
      functionBodies: 0,
      parts: 3,
      reason: null,
    });
    assert.deepEqual(notices, []);
    for (const [n, feed] of feeds.entries())
      assertClose(outputs[n]!, await onCpu(MODELS['/encoder.onnx'], feed));
  });

  describe('of a model with external data', () => {
    const path = 'model.onnx_data';
    const feed = () => ({
      input_ids: counted(1, 40),
      attention_mask: { type: 'bool', dims: [1, 40], data: Array.from({ length: 40 }, () => 1) } as const,
    });
    // The same weights in the same places as in the model that has them inside.
    const expected = () => onCpu(MODELS['/encoder.onnx'], feed());
    const check = async ({ execution, outputs }: PageResult, provider: 'webgpu' | 'wasm') => {
      assert.deepEqual([execution.provider, execution.parts], [provider, provider === 'webgpu' ? 3 : 1]);
      assertClose(outputs[0]!, await expected());
    };

    it('takes an address, alone or for a path', async () => {
      await check(await run('/external.onnx', [feed()], { externalData: [path] }), 'webgpu');
      const data = `/${path}`;
      await check(
        await run('/external.onnx', [feed()], { externalData: [{ path: `./${path}`, data }] }),
        'webgpu',
      );
    });

    for (const as of ['bytes', 'blob'] as const) {
      it(`takes ${as}`, async () => {
        const result = await page.evaluate(
          async ([given, file]) => {
            const module = (await import('/bundle.js' as string)) as typeof PageModule;
            return module.runWithFetched('/external.onnx', given, file);
          },
          [feed(), { path, address: `/${path}`, as }] as const,
        );
        await check(result, 'webgpu');
      });
    }

    it('takes it on wasm', async () => {
      // Without ONNX Runtime's warnings of stored tensors that the operators no longer read.
      const options = { externalData: [path], executionProviders: ['wasm'], logSeverityLevel: 3 } as const;
      await check(await run('/external.onnx', [feed()], options), 'wasm');
    });

    it('says which file is missing, not there or too short, and what to do', async () => {
      // A page whose log, which browsers write a 404 to, goes nowhere.
      const other = await browser.newPage();
      await other.goto(server.address);
      for (const [externalData, message] of [
        [
          [],
          /external data, 'model\.onnx_data': none was given.*externalData: \[\{ path: 'model\.onnx_data', data/,
        ],
        [['other.bin'], /'model\.onnx_data': given were 'other\.bin'/],
        [[{ path, data: '/nowhere' }], /\/nowhere: the server answered 404/],
        [[{ path, data: '/cut.onnx_data' }], /'model\.onnx_data' has \d+ bytes where \d+ are needed/],
      ] as const) {
        await assert.rejects(run('/external.onnx', [feed()], { externalData }, other), message);
      }
      await other.close();
    });
  });

  it('does so for causal attention', async () => {
    const feed = { input_ids: bytes(1, 70) };
    const { execution, outputs } = await run('/causal.onnx', [feed]);
    assert.equal(execution.kernels, 2);
    assertClose(outputs[0]!, await onCpu(MODELS['/causal.onnx'], feed));
  });

  for (const model of ['encoder', 'causal'] as const) {
    const name = `/byte-${model}.onnx` as const;
    it(`does so for trained attention: ${model}`, async () => {
      const text = readFileSync(new URL('../../../models/byte-lm/mansfield-park.txt', import.meta.url));
      const feed: PageFeeds = {
        input_ids: { type: 'int64', dims: [1, TRAINED_LENGTH], data: [...text.subarray(0, TRAINED_LENGTH)] },
      };
      await assertAgrees(name, feed, 6);
      const approximate = (await onCpu(MODELS[name], feed)).logits!;
      const { relative } = distance(approximate, (await onCpu(trained(model), feed)).logits!);
      assert(relative > 1e-3, `approximates nothing: ${relative}`);
    });
  }

  const embedded = (batch: number, tokens: number, size: number): PageTensor => ({
    type: 'float32',
    dims: [batch, tokens, size],
    data: Array.from(random.normals(batch * tokens * size)),
  });
  const someVisible = (batch: number, tokens: number): PageTensor => ({
    type: 'bool',
    dims: [batch, tokens],
    data: Array.from({ length: batch * tokens }, (_, n) => Number(n % 5 !== 2)),
  });
  const FUSED = [
    ['/series.onnx', [{ x: embedded(2, 70, 12), mask: someVisible(2, 70) }]],
    ['/series-causal.onnx', [{ x: embedded(2, 70, 12) }, { x: embedded(1, 3, 12) }]],
    ['/exponential.onnx', [{ x: embedded(1, 40, 12) }]],
    ['/multi-level.onnx', [{ x: embedded(1, 32, 16) }, { x: embedded(2, 32, 16) }]],
    ['/window.onnx', [{ input_ids: counted(1, 70) }, { input_ids: counted(2, 5) }]],
  ] as const;

  for (const [name, feeds] of FUSED) {
    it(`does so for what operators compute exactly: ${name}`, async () => {
      const { execution, outputs } = await run(name, feeds);
      assert.equal(execution.kernels, 1);
      assert.deepEqual([execution.functionBodies, execution.reason], [0, null]);
      for (const [n, feed] of feeds.entries()) assertClose(outputs[n]!, await onCpu(MODELS[name], feed));
    });
  }

  it('needs no float16 in shaders for a trained model whose weights have few bits', async () => {
    const feed = { input_ids: bytes(1, 40) };
    await assertAgrees('/trained-multi-level.onnx', feed, 6);
  });

  it('queues runs that are asked for at the same time', async () => {
    const feeds = [20, 33, 20].map(qkv);
    const { outputs } = await run('/attention.onnx', feeds, { together: true });
    for (const [n, feed] of feeds.entries())
      assertClose(outputs[n]!, await onCpu(MODELS['/attention.onnx'], feed));
    const results = await page.evaluate(async feed => {
      const module = (await import('/bundle.js' as string)) as typeof PageModule;
      return module.runTwoSessions('/attention.onnx', feed);
    }, feeds[0]!);
    for (const result of results) assertClose(result, outputs[0]!);
  });

  for (const [model, feeds] of [
    ['/attention.onnx', [20, 33].map(qkv)],
    ['/series-causal.onnx', FUSED[1][1]],
    ['/multi-level.onnx', FUSED[3][1]],
  ] as const) {
    it(`holds no more memory after 200 runs than after 20: ${model}`, async () => {
      const [early, late] = await page.evaluate(
        async ([path, given]) => {
          const module = (await import('/bundle.js' as string)) as typeof PageModule;
          return module.memoryAfter(path, given, [20, 200]);
        },
        [model, feeds] as const,
      );
      assert(early! > 0);
      assert.equal(late, early);
    });
  }

  it('runs in a worker', async () => {
    const feeds = qkv(20);
    const result = await page.evaluate(async given => {
      const code = `import { serveInWorker } from '${location.origin}/bundle.js'; serveInWorker();`;
      const script = URL.createObjectURL(new Blob([code], { type: 'text/javascript' }));
      const worker = new Worker(script, { type: 'module' });
      return new Promise<PageResult>((resolve, reject) => {
        worker.onmessage = ({ data }) => resolve(data);
        worker.onerror = ({ message }) => reject(new Error(message));
        worker.postMessage({ model: `${location.origin}/attention.onnx`, feeds: given });
      });
    }, feeds);
    assert.equal(result.execution.provider, 'webgpu');
    assertClose(result.outputs[0]!, await onCpu(MODELS['/attention.onnx'], feeds));
  });

  it('falls back to wasm, and says so, when the device is too small', async () => {
    const feeds = qkv(40);
    const { execution, notices, outputs } = await page.evaluate(async given => {
      const module = (await import('/bundle.js' as string)) as typeof PageModule;
      return module.runWithinLimit('/attention.onnx', given, 1024);
    }, feeds);
    assert.equal(execution.provider, 'wasm');
    assert.equal(execution.functionBodies, 1);
    assert.match(
      execution.reason!,
      /takes \d+ bytes, more than the 1024 bytes .*maxStorageBufferBindingSize/,
    );
    assert.equal(notices.length, 1);
    assertClose(outputs[0]!, await onCpu(MODELS['/attention.onnx'], feeds));
  });

  it('falls back to wasm, and says so, when a part needs float16 that the device has not', async () => {
    const feed = qkv(40);
    const { execution, notices, outputs } = await run('/half.onnx', [feed]);
    assert.deepEqual([execution.provider, execution.functionBodies], ['wasm', 1]);
    assert.match(execution.reason!, /float16 in shaders/);
    assert.equal(notices.length, 1);
    assertClose(outputs[0]!, await onCpu(MODELS['/half.onnx'], feed));
  });

  it('goes on on wasm, and says so, when the GPU is lost', async () => {
    const other = await openPage(browser);
    const feeds = qkv(20);
    const [before, during, after] = await other.evaluate(async given => {
      const module = (await import('/bundle.js' as string)) as typeof PageModule;
      return module.runThroughLoss('/exact.onnx', given);
    }, feeds);
    await other.close();
    const expected = await onCpu(MODELS['/exact.onnx'], feeds);
    for (const { outputs } of [before!, during!, after!]) assertClose(outputs[0]!, expected);
    assert.deepEqual([before!.execution.provider, before!.notices], ['webgpu', []]);
    for (const { execution, notices } of [during!, after!]) {
      assert.equal(execution.provider, 'wasm');
      assert.match(execution.reason!, /the GPU was lost/);
      assert.equal(notices.length, 1);
    }
  });

  it('falls back to wasm, and says so, without an adapter', async () => {
    const without = await openBrowser({ webgpu: false });
    try {
      const feeds = qkv(40);
      const { execution, notices, outputs } = await run(
        '/attention.onnx',
        [feeds],
        {},
        await openPage(without),
      );
      assert.equal(execution.provider, 'wasm');
      assert.match(execution.reason!, /no WebGPU adapter/);
      assert.equal(notices.length, 1);
      assertClose(outputs[0]!, await onCpu(MODELS['/attention.onnx'], feeds));
    } finally {
      await without.close();
    }
  });

  it('runs on wasm without a notice when asked to', async () => {
    const feeds = qkv(20);
    const { execution, notices } = await run('/attention.onnx', [feeds], { executionProviders: ['wasm'] });
    assert.deepEqual(execution, { provider: 'wasm', kernels: 0, functionBodies: 1, parts: 1, reason: null });
    assert.deepEqual(notices, []);
  });

  it('adds less than 60 kB to a page with all kernels, and nothing that serves to rewrite models', async () => {
    const files = await bundle(compiled('../../custom-ops/runtime/web/index.js'), join(folder, 'runtime'));
    const operators = files.flatMap(({ modules }) =>
      modules.flatMap(path => /([\w-]+)\/webgpu\.js$/.exec(path)?.[1] ?? []),
    );
    assert.deepEqual(operators.sort(), [
      'elementwise-attention',
      'local-attention',
      'multi-level-attention',
      'multipole-attention',
    ]);
    const size = loadedBytes(
      files,
      files.map(({ name }) => name),
    );
    assert(size < MAX_COMPRESSED_BYTES, `${size} bytes`);
    const foreign =
      /\/(cli|patterns|match|masks|probe|tune)\/|function-body|reference\.|cases\.|find-sites|commander/;
    assert.deepEqual(
      files.flatMap(({ modules }) => modules.filter(path => foreign.test(path))),
      [],
    );
  });

  it('adds next to nothing for a class alone', async () => {
    const entry = join(folder, 'entry.js');
    const runtime = compiled('../../custom-ops/runtime/web/index.js');
    await writeFile(entry, `export { GpuLimitError } from ${JSON.stringify(runtime)};`);
    const files = await bundle(entry, join(folder, 'class'));
    const size = loadedBytes(files, ['bundle.js']);
    assert(size < 1000, `${size} bytes`);
  });
});
