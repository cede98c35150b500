import { parseArgs } from 'node:util';
import { MOST_WINDOWS, recordMoments } from '../../cli/calibration/record-moments.js';
import { bitsPerByte } from '../../cli/data/byte-task.js';
import { tensorFrom } from '../../cli/data/tensor.js';
import { describeEnvironment } from '../../cli/environment.js';
import { mean } from '../../cli/statistics.js';
import { note, printJson } from '../../cli/terminal.js';
import { Engine } from '../../cli/tune/engine.js';
import { modelBytes, TunableModel } from '../../cli/tune/tunable-model.js';
import { operationCount } from '../../custom-ops/multi-level-attention/operation-count.js';
import { multiLevelAttention } from '../../custom-ops/multi-level-attention/operator.js';
import { plainParameters } from '../../custom-ops/multi-level-attention/parameters.js';
import { multiLevelTuningSpace } from '../../custom-ops/multi-level-attention/tuning-space.js';
import { multipoleTuningSpace } from '../../custom-ops/multipole-attention/tuning-space.js';
import { Tensor } from '../../custom-ops/runtime/node/index.js';
import { openModelFile } from '../../rewriter/onnx/model-file.js';
import { exactParameters } from './ablation-grid.js';
import { ByteModel } from './byte-model.js';
import { type ByteWindow, maskedWindow, nextByteWindow } from './byte-windows.js';
import { multiLevel } from './multi-level-contender.js';
import { relativeSquaredError } from './relative-squared-error.js';
import { ROTATIONS, turned } from './score-rotations.js';

/**
 * What MultiLevelAttention costs a byte-level model when it takes the place of softmax attention:
 *
 *   node dist/test/bench/softmax-by-levels.js [--model FILE] [--calibration FILE] [--text FILE] [--windows I,J]
 *       [--stride BYTES] [--length N] [--levels R,R,...@BLOCK]... [--rotations] [--threads N]
 *
 * The model is calibrated on stretches from the start of one text, and its loss measured on windows of another: window
 * I starts at byte I * stride. `--rotations` measures, instead of the loss, the relative squared error of each site
 * by itself on the first window, under several rotations (score-rotations.ts). Prints one JSON document.
 */
const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: 'models/byte-lm/causal.onnx' },
    calibration: { type: 'string', default: 'models/byte-lm/mansfield-park.txt' },
    text: { type: 'string', default: 'models/byte-lm/mansfield-park.txt' },
    windows: { type: 'string', default: '16,20,24,28' },
    stride: { type: 'string', default: '8192' },
    length: { type: 'string', default: '8192' },
    levels: { type: 'string', multiple: true, default: ['32,32@1024', '16,48@1024', '8,56@1024'] },
    rotations: { type: 'boolean', default: false },
    threads: { type: 'string', default: '2' },
  },
});
const length = Number(options.length);
const threads = Number(options.threads);
const model = new ByteModel(options.model, { executionProviders: ['cpu'], intraOpNumThreads: threads });
const headDim = model.sites[0]!.headDim!;
const windowAt = model.causal
  ? (text: string, start: number) => nextByteWindow(text, start, length)
  : (text: string, start: number) => maskedWindow(text, start, length, null);
const windows = options.windows
  .split(',')
  .map(index => windowAt(options.text, Number(index) * Number(options.stride)));

const shapes = [`${headDim}@1`, ...options.levels].map(name => {
  const [ranks = '', block] = name.split('@');
  const settings = { ranks: ranks.split(',').map(Number), block: Number(block) };
  return { name, settings, parameters: plainParameters(settings.ranks, settings.block) };
});

const file = openModelFile(options.model);
const tunable = new TunableModel(file, [multipoleTuningSpace, multiLevelTuningSpace], () => true);
const moments = await recordMoments(
  tunable,
  {
    length,
    windows: Array.from({ length: MOST_WINDOWS }, (_, w) => {
      const { ids } = windowAt(options.calibration, w * length);
      const feeds = new Map([['input_ids', tensorFrom('int64', [1, length], Array.from(ids, Number))]]);
      return { name: `${w}`, feeds, extras: new Map() };
    }),
  },
  new Engine(options.model, tunable.folder, { threads, stock: false }),
  window => note(`calibrating on window ${window}`),
);
tunable.calibrate(moments);

async function losses(attributes: (typeof shapes)[number]['settings']): Promise<number[]> {
  const form = { operator: multiLevelAttention.id, attributes };
  const variant = tunable.variant(new Map(model.sites.map(({ id }) => [id, form])));
  const session = await model.open(modelBytes(variant));
  const lossOf = async (window: ByteWindow) => {
    const { logits } = await session.run({ input_ids: new Tensor('int64', window.ids, [1, length]) });
    return bitsPerByte(logits!.data as Float32Array, window);
  };
  const result: number[] = [];
  for (const window of windows) result.push(await lossOf(window));
  await session.release();
  return result;
}

/** By rotation and site, in the order of the model. */
async function errors(): Promise<Record<string, Record<string, number[]>>> {
  const recorded = await model.record(
    windows[0]!.ids,
    model.sites.map(() => exactParameters(model.causal)),
  );
  const result: Record<string, Record<string, number[]>> = {};
  for (const heads of recorded) {
    const run = async (shape: (typeof shapes)[number], inputs: typeof heads) => {
      const contender = await multiLevel(
        { ...shape.parameters, causal: heads.causal, scale: heads.scale },
        inputs,
        {
          intraOpNumThreads: threads,
        },
      );
      const output = await contender.run();
      await contender.release();
      return output;
    };
    const [standard, ...approximations] = shapes;
    const exact = await run(standard!, heads);
    for (const [rotation, choose] of Object.entries(ROTATIONS)) {
      const inputs = turned(heads, choose(moments.get(heads.site)!));
      for (const shape of approximations) {
        result[shape.name] ??= {};
        const error = relativeSquaredError(await run(shape, inputs), exact);
        result[shape.name]![rotation] = [...(result[shape.name]![rotation] ?? []), error];
      }
    }
    note(`measured ${heads.site}`);
  }
  return result;
}

async function lossTable() {
  const results = [];
  let exact = Number.NaN;
  for (const { name, settings, parameters } of shapes) {
    const byWindow = await losses(settings);
    const loss = mean(byWindow);
    if (results.length === 0) exact = loss;
    const { scores, values, standard } = operationCount(parameters, length, headDim);
    const increase = loss / exact - 1;
    results.push({
      name,
      loss,
      increase,
      by_window: byWindow,
      most_by_operations: standard / (scores + values),
    });
    note(`${name}: ${loss.toFixed(4)} bits, ${(100 * increase).toFixed(2)}%`);
  }
  return results;
}

const { calibration, text, windows: indices } = options;
printJson({
  machine: describeEnvironment(),
  model: options.model,
  calibration,
  text,
  windows: indices,
  length,
  ...(options.rotations ? { errors: await errors() } : { losses: await lossTable() }),
});
file.close();
