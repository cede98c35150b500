import assert from 'node:assert/strict';
import {
  caseInputs,
  MULTIPOLE_CASES,
  type MultipoleCase,
} from '../../../custom-ops/multipole-attention/cases.js';
import {
  attributesOf,
  defaultParameters,
  type MultipoleParameters,
} from '../../../custom-ops/multipole-attention/parameters.js';
import {
  type MultipoleChoices,
  type MultipoleInputs,
  type MultipoleResult,
  multipoleAttention as reference,
} from '../../../custom-ops/multipole-attention/reference.js';
import { recordMultipoleAttention } from '../../../custom-ops/multipole-attention/webgpu.js';
import type { Tensor } from '../../../custom-ops/operator.js';
import { GpuLimitError, multipoleAttention, OperatorRunner } from '../../../custom-ops/runtime/web/node.js';
import type { HostTensor } from '../../../custom-ops/runtime/web/operator-runner.js';
import { SeededRandom } from '../../../custom-ops/seeded-random.js';
import { relativeError } from '../../comparison.js';
import { testDevice } from '../runtime/web/test-device.js';
import { testRunner } from '../runtime/web/test-runner.js';
import { assertSame } from './comparison.js';
import { sequenceRows } from './sequence-rows.js';
import { ChoiceReader } from './webgpu-choices.js';

const FLOAT32_TOLERANCE = 1e-5;
const FLOAT16_TOLERANCE = 2e-3;

type Result = Pick<MultipoleResult, 'output' | 'lse'>;

const hasKernel = ({ parameters }: MultipoleCase) =>
  multipoleAttention.refusal(attributesOf(parameters)) === null;

/** Runs one call and reads the choices it made. */
async function runWithChoices(
  runner: OperatorRunner,
  parameters: MultipoleParameters,
  inputs: MultipoleInputs,
  float16 = false,
): Promise<{ result: Result; choices: Partial<MultipoleChoices> }> {
  const type = float16 ? 'float16' : 'float32';
  const host = (tensor: Tensor | undefined): HostTensor | null => (tensor ? { type, ...tensor } : null);
  const [batch = 0, heads = 0, queries = 0, headDim = 0] = inputs.query.dims;
  const [, kvHeads = 0, keys = 0] = inputs.key.dims;
  const valueDim = inputs.value.dims[3] ?? 0;
  const past = inputs.pastQuery?.dims[2] ?? 0;
  const sizes = { batch, heads, kvHeads, queries, past, keys, headDim, valueDim };
  const mask: HostTensor | null = inputs.keyMask
    ? { type: 'bool', dims: [batch, keys], data: inputs.keyMask }
    : null;
  let reader: ChoiceReader | null = null;
  const outputs = await runner.run(
    multipoleAttention,
    attributesOf(parameters),
    [host(inputs.query), host(inputs.key), host(inputs.value), mask, host(inputs.pastQuery)],
    (recorder, ...call) => {
      reader = new ChoiceReader(runner, recorder, sizes, parameters);
      recordMultipoleAttention(recorder, ...call, reader);
    },
  );
  const [output, lse] = outputs.map(({ dims, data }) => ({ dims, data: data as Float32Array }));
  const choices = await (reader as ChoiceReader | null)!.read();
  return { result: { output: output!, lse: lse! }, choices };
}

/**
 * Equal to the reference within rounding under the kernels' own choices, and without them where they are clear;
 * where choices differ, the error against exact attention is no more than the reference's.
 */
async function checkCase(runner: OperatorRunner, shared: MultipoleCase): Promise<void> {
  const { parameters, float16 } = shared;
  const tolerance = float16 ? FLOAT16_TOLERANCE : FLOAT32_TOLERANCE;
  const inputs = caseInputs(shared);
  const { result, choices } = await runWithChoices(runner, parameters, inputs, float16);
  const own = reference(inputs, parameters);
  assert.deepEqual(result.output.dims, own.output.dims);
  assert.deepEqual(result.lse.dims, own.lse.dims);
  assertSame(result, reference(inputs, parameters, choices), tolerance);
  assertSameRetrieval(choices.retrieved, inputs, parameters, choices);
  if (shared.data === 'clustered') assertSame(result, own, tolerance);
  const exact = reference(inputs, { ...parameters, retrieve: [-1] }).output.data;
  const error = ({ output }: Result) => relativeError(output.data, exact);
  assert.ok(error(result) <= 1.05 * error(own) + tolerance, `${error(result)} against ${error(own)}`);
}

/** Under equal clusters rows retrieve what the reference does, but where rounding decides between neighbors. */
function assertSameRetrieval(
  retrieved: Int32Array | undefined,
  inputs: MultipoleInputs,
  parameters: MultipoleParameters,
  { keyClusters, queryCentroids, queryClusters }: Partial<MultipoleChoices>,
): void {
  if (!retrieved || !keyClusters || !queryCentroids || !queryClusters) return;
  const clusters = { keyClusters, queryCentroids, queryClusters };
  const expected = reference(inputs, parameters, clusters).choices.retrieved;
  const rows = inputs.query.dims.slice(0, 3).reduce((product, size) => product * size, 1);
  const byRow = (lists: Int32Array) => {
    const width = lists.length / rows;
    return Array.from({ length: rows }, (_, row) =>
      lists
        .slice(row * width, (row + 1) * width)
        .filter(cluster => cluster >= 0)
        .sort()
        .join(),
    );
  };
  const own = byRow(retrieved);
  const differing = byRow(expected).filter((list, row) => list !== own[row]).length;
  assert.ok(differing <= rows / 50, `${differing} of ${rows} rows retrieve other clusters`);
}

describe('MultipoleAttention on WebGPU', () => {
  const runner = testRunner();

  for (const shared of MULTIPOLE_CASES.filter(candidate => hasKernel(candidate) && !candidate.large)) {
    it(`agrees with the reference: ${shared.name}`, () => checkCase(runner(), shared));
  }

  it('refuses what has no kernel, and says so', () => {
    const refused = MULTIPOLE_CASES.filter(shared => !hasKernel(shared));
    assert.deepEqual(
      refused.map(({ parameters }) => multipoleAttention.refusal(attributesOf(parameters))!.length > 0),
      refused.map(() => true),
    );
    assert.ok(refused.every(({ parameters: { order, hierarchy } }) => order > 0 || hierarchy === 'dyadic'));
  });

  const causalInputs = (length: number): MultipoleInputs => {
    const random = new SeededRandom(31);
    const tensor = (): Tensor => ({ dims: [1, 2, length, 16], data: random.normals(2 * length * 16) });
    return { query: tensor(), key: tensor(), value: tensor() };
  };
  const causalParameters = {
    ...defaultParameters(true),
    segment: 16,
    keyClusters: 4,
    queryClusters: 8,
    retrieve: [4],
    group: 8,
  };

  it('lets no later token change a bit of a causal row', async () => {
    const inputs = causalInputs(100);
    const before = (await runWithChoices(runner(), causalParameters, inputs)).result.output.data;
    for (const token of [0, 15, 40, 63]) {
      const change = (tensor: Tensor): Tensor => ({
        dims: tensor.dims,
        data: tensor.data.map((x, at) => ((at >> 4) % 100 <= token ? x : 1.5 - 2 * x)),
      });
      const changed = { query: change(inputs.query), key: change(inputs.key), value: change(inputs.value) };
      const after = (await runWithChoices(runner(), causalParameters, changed)).result.output.data;
      before.forEach((x, at) => {
        if ((at >> 4) % 100 <= token) assert.equal(after[at], x, `element ${at} knows what follows ${token}`);
      });
      assert.notDeepEqual(after, before);
    }
  });

  it('gives the same causal rows in chunks as in one piece', async () => {
    const inputs = causalInputs(100);
    const whole = (await runWithChoices(runner(), causalParameters, inputs)).result;
    for (const [from, to] of [
      [0, 30],
      [30, 31],
      [31, 80],
      [80, 100],
    ] as const) {
      const { result } = await runWithChoices(runner(), causalParameters, {
        query: sequenceRows(inputs.query, from, to),
        key: sequenceRows(inputs.key, 0, to),
        value: sequenceRows(inputs.value, 0, to),
        ...(from > 0 && { pastQuery: sequenceRows(inputs.query, 0, from) }),
      });
      assert.ok(relativeError(result.output.data, sequenceRows(whole.output, from, to).data) < 1e-6);
    }
  });

  it('names the tensor, its size and the limit when something does not fit, and runs nothing', async () => {
    const length = 2 ** 20;
    const recorder = runner().recorder();
    const range = (label: string) => ({ label, buffer: {} as GPUBuffer, offset: 0, bytes: 1024 });
    const tensor = (label: string) =>
      ({ type: 'float32', dims: [1, 1, length, 64], range: range(label) }) as const;
    const parameters = { ...defaultParameters(false), segment: 0, keyClusters: 4096 };
    assert.throws(
      () =>
        multipoleAttention.record(
          recorder,
          attributesOf(parameters),
          [tensor('query'), tensor('key'), tensor('value')],
          [tensor('output')],
        ),
      (error: unknown) =>
        error instanceof GpuLimitError &&
        error.bytes > error.allowed &&
        error.limit === 'maxStorageBufferBindingSize' &&
        error.message.includes(error.tensor) &&
        error.message.includes(String(error.bytes)),
    );
    recorder.abandon();
  });
});

describe('MultipoleAttention with the tiles of hardware', () => {
  it('agrees with the reference in 16384 bytes of workgroup memory', async function () {
    const device = await testDevice({ maxComputeWorkgroupStorageSize: 16384 }).catch(() => null);
    if (!device) return this.skip();
    Object.defineProperty(device, 'adapterInfo', { value: { isFallbackAdapter: false } });
    const runner = new OperatorRunner(device);
    try {
      await checkCase(runner, MULTIPOLE_CASES.find(({ name }) => name === 'acausal below exact_below')!);
    } finally {
      runner.destroy();
      device.destroy();
    }
  });
});
