import { writeFileSync } from 'node:fs';
import { openModelFile } from '../rewriter/onnx/model-file.js';
import type { RuntimeDescription } from '../rewriter/validation.js';
import { fileSource } from './data/input-source.js';
import { modelInputs } from './data/model-inputs.js';
import { encodeNpz } from './data/npz.js';
import type { Progress } from './runtime/jobs.js';
import { openSession } from './runtime/session.js';

export interface TimingRequest {
  readonly models: readonly string[];
  /** Input files (.npz, .json or text); every model runs on each of them. */
  readonly inputs: readonly string[];
  /** Where the outputs go as .npz, by model and input file. */
  readonly outputs: readonly (readonly string[])[];
}

export interface TimingResult {
  /** By model. */
  readonly runtimes: readonly RuntimeDescription[];
  /** By model and input file. */
  readonly ms: readonly (readonly number[])[];
}

/**
 * Times models against each other: all are loaded, run once to warm up, and then take turns on every input
 * file, so that whatever else the machine does falls on all of them.
 * @throws InputError when a model or its inputs are bad
 */
export async function timeModels(request: TimingRequest, progress: Progress): Promise<TimingResult> {
  const total = request.models.length * (request.inputs.length + 1);
  let step = 0;
  const models = [];
  for (const file of request.models) {
    const opened = openModelFile(file);
    const { model } = opened;
    const feeds = request.inputs.map(name => fileSource(name, null, modelInputs(model)).at(null));
    const session = await openSession({ file });
    opened.close();
    models.push({ session, feeds, ms: [] as number[] });
  }
  for (const { session, feeds } of models) {
    progress(step++, total, 'warming up');
    if (feeds[0]) await session.run(feeds[0]);
  }
  for (const i of request.inputs.keys()) {
    for (const [m, { session, feeds, ms }] of models.entries()) {
      progress(step++, total, `timing ${request.models[m]}`);
      const start = performance.now();
      const outputs = await session.run(feeds[i]!);
      ms.push(performance.now() - start);
      writeFileSync(request.outputs[m]![i]!, encodeNpz(outputs));
    }
  }
  return { runtimes: models.map(({ session }) => session.runtime), ms: models.map(({ ms }) => ms) };
}
