import { dirname } from 'node:path';
import type { HeadMoments } from '../../custom-ops/head-rotation.js';
import { findSites } from '../../rewriter/find-sites.js';
import { ModelGraph } from '../../rewriter/graph/model-graph.js';
import { openModelFile } from '../../rewriter/onnx/model-file.js';
import { isAttention } from '../../rewriter/site.js';
import { modelInputs } from '../data/model-inputs.js';
import type { Progress } from '../runtime/jobs.js';
import { Engine } from '../tune/engine.js';
import { DEFAULT_SEED, DEFAULT_WINDOWS, readCalibrationWindows } from '../tune/tuning-data.js';
import { CALIBRATION_WINDOWS, recordMoments } from './record-moments.js';

export interface CalibrationRequest {
  readonly model: string;
  /** Ids of softmax sites in the main graph. */
  readonly sites: readonly string[];
  /** The user's data, and the tokens of one window of it, as `tune` takes them. */
  readonly files: readonly string[];
  readonly length: number | null;
}

export interface Calibration {
  /** By id of the site. */
  readonly moments: ReadonlyMap<string, HeadMoments>;
  readonly windows: number;
  /** Tokens of a window; null for inputs without a sequence. */
  readonly length: number | null;
}

/**
 * Runs a model on the user's data and sums up what its queries and keys are like.
 * @throws InputError when the data is bad or does not fit the model, or the model does not run on it
 */
export async function calibrateModel(request: CalibrationRequest, progress: Progress): Promise<Calibration> {
  const file = openModelFile(request.model);
  try {
    const { files, length } = request;
    const wanted = new Set(request.sites);
    const sites = findSites(new ModelGraph(file.model))
      .sites.filter(isAttention)
      .filter(({ id }) => wanted.has(id));
    // As `tune` has them by default, so that a plan of its is rewritten by the rotations that it was measured with.
    const dealt = { windows: DEFAULT_WINDOWS, seed: DEFAULT_SEED, hide: null };
    const data = readCalibrationWindows({ files, length, ...dealt }, modelInputs(file.model));
    const windows = data.windows.slice(0, CALIBRATION_WINDOWS);
    const engine = new Engine(request.model, dirname(request.model), { threads: null, stock: false });
    let step = 0;
    progress(step, windows.length, 'loading the model');
    const moments = await recordMoments(file.model, sites, windows, engine, name =>
      progress(step++ % windows.length, windows.length, `calibrating on ${name}`),
    );
    return { moments, windows: windows.length, length: data.length };
  } finally {
    file.close();
  }
}
